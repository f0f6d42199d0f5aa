/* glob.h - the patterns of KEYS, SCAN, PSUBSCRIBE and CONFIG GET, byte by byte.
 *
 * Layer: server (a leaf).
 *
 *     *       any bytes, also none           [abc]   one of these
 *     ?       any one byte                   [a-z]   one of this range; [z-a] is the same
 *     \x      x itself                       [^ab]   one byte that is none of these
 *
 * As in Redis: a class that is not closed goes to the pattern's end, `]` right behind `[` closes it (`[]` matches
 * nothing, `[^]` any one byte), a backslash works in a class too, and one at the end stands for itself.
 */
#ifndef KV_SERVER_GLOB_H
#define KV_SERVER_GLOB_H

#include "../kv.h"

/* Does the whole of `text` match?  `nocase`: A is a; ASCII only, whatever the locale.  Not recursive, no allocation;
 * at worst pattern.size times text.size steps. */
bool kv_glob_match(kv_bytes pattern, kv_bytes text, bool nocase);

#endif
