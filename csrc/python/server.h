/* server.h - type Server: a running server over a store.  Layer: python. */
#ifndef KVPY_SERVER_H
#define KVPY_SERVER_H

#include "module.h"

#endif
