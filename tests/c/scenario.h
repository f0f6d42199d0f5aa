/* scenario.h - a fixed sequence of operations of every kind, for sweeps over what can go wrong.
 *
 * Each step is one commit (or none), with values of its own: a state tells by itself after which
 * step it was.  The values are large enough that a log of tiny segments has to rotate.
 *
 * Behind its last step the scenario begins anew: a step's number goes on, and its values are others.
 */
#ifndef SCENARIO_H
#define SCENARIO_H

#include "kv.h"
#include "model.h"

typedef enum step_kind {
    STEP_PUT,
    STEP_DELETE,
    STEP_INCR,
    STEP_ABSENT,  /* put if absent */
    STEP_REPLACE, /* compare and replace, with what is there */
    STEP_POP,
    STEP_POP_ANY,
    STEP_BATCH, /* puts and deletes over many keys, one of them twice */
    STEP_CLEAR,
    STEP_SYNC,         /* make all durable */
    STEP_PUT_EXPIRING, /* at a time that does not come (but see STEP_SWEEP) */
    STEP_EXPIRE,       /* another expiry, or none when `size` is 0 */
    STEP_EXPIRE_MANY,  /* a batch: new expiries, a put with one, and one that is past */
    STEP_SWEEP,        /* deletes the key; test_crash.c lets its time come instead */
    STEP_CHECKPOINT,   /* `size`: so many steps behind it can be done while it is made */
} step_kind;

typedef struct step {
    step_kind kind;
    unsigned key;   /* its number; a batch: the first */
    size_t size;    /* of the value (of each one, in a batch) */
    unsigned flags; /* KV_SYNC */
} step;

extern const step scenario_steps[];
extern const unsigned scenario_count;

static inline const step *scenario_step(unsigned number) {
    return &scenario_steps[number % scenario_count];
}

/* When the key that STEP_SWEEP `number` deletes expires; all others do later, in whatever round. */
uint64_t scenario_sweep_ms(unsigned number);

/* Does step `number` on the store, and on `m` when it was acknowledged (KV_OK, or an ordinary other
 * outcome); the answer must be the one that `m` demands.  Otherwise (< 0) `m` is left as it is. */
kv_status scenario_run(unsigned number, kv_db *db, model *m, kv_error *err);

/* Does the step on the model only (not STEP_POP_ANY, which may take any key). */
void scenario_apply(unsigned number, model *m);

/* "step 3 (batch)". */
const char *scenario_name(unsigned number);

#endif
