/* open.c - a directory becomes an open store: lock, identity, recovery, log.
 *
 * Creating a store, step by step (each is on disk before the next):
 *   LOCK, 00000001.log with its header, STORE.tmp, STORE
 * A directory with STORE is a store, and everything that it needs was there before; one without it
 * has never held an acknowledged write, unless somebody removed the file, which the log's frames tell.
 *
 * Order of opening: nothing in the directory is changed before recovery has succeeded, but LOCK, which is
 * made when it is missing and gets its old content back when the open fails.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "../base/mem.h"
#include "lockfile.h"
#include "recover.h"
#include "store.h"
#include "worker.h"

/* ---- The lock file's text, the owner's process id ------------------------------------------------ */

/* Writes our process id into it, for others to name us.  `*before`: what it held. */
static kv_status sign_lock(kv_store *store, kv_lock_text *before, kv_error *err) {
    kv_lock_text mine;
    uint64_t size;
    if (store->options.read_only)
        return KV_OK;
    kv_status status = kv_lockfile_read(&store->lock_file, before, err);
    if (status == KV_OK)
        status = kv_file_size(&store->lock_file, &size, err);
    if (status < 0)
        return status;
    /* Somebody else's file got this name: it does for the lock, and is not written to. */
    store->lock_unsigned = size >= sizeof before->bytes;
    if (store->lock_unsigned)
        return KV_OK;
    mine.size = (size_t)snprintf(mine.bytes, sizeof mine.bytes, "%lld\n", (long long)getpid());
    return kv_lockfile_write(&store->lock_file, &mine, err);
}

static void unsign_lock(kv_store *store, const kv_lock_text *content) {
    if (store->lock_file.fd >= 0 && !store->options.read_only && !store->lock_unsigned)
        (void)!kv_lockfile_write(&store->lock_file, content, NULL); /* for people; the lock is not in it */
}

/* ---- What is in the directory --------------------------------------------------------------------- */

typedef struct contents {
    bool store_file;
    uint64_t segments;
    uint64_t segment_max;
    uint64_t checkpoint; /* sequence of the newest one; 0: there is none */
    bool lock_file;
    bool foreign; /* a file that is none of a store's */
} contents;

/* In preparation, or to be written over: not needed by the next open. */
static const char *const scrap[] = {KV_SEGMENT_SPARE, KV_SEGMENT_RECYCLED, KV_STORE_FILE_NEW, KV_CHECKPOINT_NEW,
                                    KV_CHECKPOINT_RECYCLED};
#define SCRAP_COUNT (sizeof scrap / sizeof scrap[0])

static bool is_scrap(const char *name) {
    for (size_t i = 0; i < SCRAP_COUNT; i++)
        if (strcmp(name, scrap[i]) == 0)
            return true;
    return false;
}

static bool note_name(void *arg, const char *name) {
    contents *c = arg;
    uint64_t sequence = kv_segment_sequence(name), checkpoint = kv_checkpoint_sequence(name);
    if (checkpoint != 0) {
        if (checkpoint > c->checkpoint)
            c->checkpoint = checkpoint;
    } else if (sequence != 0) {
        c->segments++;
        if (sequence > c->segment_max)
            c->segment_max = sequence;
    } else if (strcmp(name, KV_STORE_FILE) == 0) {
        c->store_file = true;
    } else if (strcmp(name, KV_LOCK_FILE) == 0) {
        c->lock_file = true;
    } else if (!is_scrap(name) && strcmp(name, KV_TORN_FILE) != 0) {
        c->foreign = true;
    }
    return true;
}

static kv_status list_directory(const kv_dir *dir, contents *c, kv_error *err) {
    *c = (contents){0};
    return kv_dir_list(dir, note_name, c, err);
}

/* Without STORE: whether LOCK is somebody else's file of that name. */
static kv_status lock_is_foreign(const kv_dir *dir, bool *foreign, kv_error *err) {
    kv_file file;
    uint64_t size;
    kv_status status = kv_file_open(&file, dir, KV_LOCK_FILE, KV_OPEN_READ, err);
    if (status != KV_OK)
        return status;
    status = kv_file_size(&file, &size, err);
    kv_file_close(&file);
    if (status == KV_OK && size >= KV_LOCK_TEXT_SIZE)
        *foreign = true;
    return status;
}

/* A directory without STORE may become a store when nothing in it could be lost. */
static kv_status check_may_create(kv_store *store, const contents *c, kv_error *err) {
    char path[KV_ERROR_PATH_SIZE];
    bool used = c->segments > 1 || c->segment_max > 1 || c->checkpoint > 0;
    if (c->segments == 1 && !used) {
        kv_status status = kv_segment_first_is_used(&store->dir, &used, err);
        if (status < 0)
            return status;
    }
    kv_dir_join(&store->dir, KV_STORE_FILE, path);
    if (used)
        return kv_fail_corrupt(err, path, -1, "the file is missing, but beside it are a checkpoint or a log in use: this "
                                              "is a copy that was not finished, or the file was removed");
    bool foreign = c->foreign;
    if (c->lock_file) {
        kv_status status = lock_is_foreign(&store->dir, &foreign, err);
        if (status < 0)
            return status;
    }
    if (foreign)
        return kv_fail_sys(err, ENOTEMPTY, store->dir.path,
                           "this directory is not a store and not empty");
    if (!store->options.create || store->options.read_only)
        return kv_fail_sys(err, ENOENT, store->dir.path, "there is no store");
    return KV_OK;
}

/* ---- Creating ------------------------------------------------------------------------------------- */

kv_status kv_store_write_identity(const kv_dir *dir, const kv_identity *identity, kv_error *err) {
    uint8_t bytes[KV_STORE_FILE_SIZE];
    kv_file file;
    kv_identity_encode(identity, bytes);
    kv_status status = kv_file_open(&file, dir, KV_STORE_FILE_NEW, KV_OPEN_CREATE, err);
    if (status < 0)
        return status;
    status = kv_file_truncate(&file, 0, err);
    if (status == KV_OK)
        status = kv_file_write(&file, bytes, sizeof bytes, 0, NULL, err);
    if (status == KV_OK)
        status = kv_file_sync(&file, err);
    kv_file_close(&file);
    if (status == KV_OK)
        status = kv_dir_rename(dir, KV_STORE_FILE_NEW, KV_STORE_FILE, err);
    return status == KV_OK ? kv_dir_sync(dir, err) : status;
}

/* Makes the store's files.  A crash in here leaves a directory without STORE: the next open starts
 * anew. */
static kv_status create_files(kv_store *store, kv_identity *identity, kv_recovered *recovered,
                              kv_error *err) {
    kv_file spare = KV_FILE_CLOSED;
    kv_segment_header header = {.version = KV_FORMAT_VERSION, .sequence = 1};
    kv_status status = kv_dir_random(&store->dir, identity, sizeof *identity, err);
    if (status == KV_OK)
        status = kv_dir_random(&store->dir, &header.salt, sizeof header.salt, err);
    if (status < 0)
        return status;
    memcpy(header.store_id, identity->store_id, sizeof header.store_id);
    header.file_size = kv_segment_size_for(0, store->options.segment_size_min);
    status = kv_segment_prepare(&spare, &store->dir, header.file_size, true, err);
    if (status < 0)
        return status;
    status = kv_segment_begin(&recovered->segment, &spare, &header, err);
    if (status == KV_OK)
        status = kv_segment_publish(&recovered->segment, err);
    if (status < 0)
        return status;
    store->recovery.created = store->recovery.clean = true;
    store->recovery.segments = 1;
    status = kv_store_write_identity(&store->dir, identity, err);
    if (status < 0)
        kv_file_close(&recovered->segment.file);
    return status;
}

static kv_status read_identity(const kv_dir *dir, kv_identity *identity, kv_error *err) {
    kv_file file;
    uint8_t bytes[KV_STORE_FILE_SIZE + 1];
    char path[KV_ERROR_PATH_SIZE];
    size_t got = 0;
    kv_dir_join(dir, KV_STORE_FILE, path);
    kv_status status = kv_file_open(&file, dir, KV_STORE_FILE, KV_OPEN_READ, err);
    if (status == KV_NOTFOUND)
        return kv_fail_corrupt(err, path, -1, "the file is missing");
    if (status < 0)
        return status;
    status = kv_file_read(&file, bytes, sizeof bytes, 0, &got, err);
    kv_file_close(&file);
    return status == KV_OK ? kv_identity_decode(identity, bytes, got, path, err) : status;
}

typedef struct leftovers {
    const kv_dir *dir;
    uint64_t sequence; /* segments and checkpoints before that one are not needed */
    uint64_t oldest_segment, oldest_checkpoint;
} leftovers;

static bool find_leftovers(void *arg, const char *name) {
    leftovers *l = arg;
    uint64_t segment = kv_segment_sequence(name), checkpoint = kv_checkpoint_sequence(name);
    if (segment != 0 && segment < l->oldest_segment)
        l->oldest_segment = segment;
    if (checkpoint != 0 && checkpoint < l->oldest_checkpoint)
        l->oldest_checkpoint = checkpoint;
    return true;
}

/* Files that a crash left half made, or left behind when a checkpoint had made them useless. */
static kv_status remove_leftovers(const kv_dir *dir, uint64_t sequence, kv_error *err) {
    for (size_t i = 0; i < SCRAP_COUNT; i++) {
        kv_status status = kv_dir_unlink(dir, scrap[i], err);
        if (status < 0)
            return status;
    }
    for (;;) {
        char name[64];
        leftovers l = {dir, sequence, sequence, sequence};
        kv_status status = kv_dir_list(dir, find_leftovers, &l, err);
        if (status < 0)
            return status;
        if (l.oldest_checkpoint < sequence)
            kv_checkpoint_name(l.oldest_checkpoint, name);
        else if (l.oldest_segment < sequence)
            kv_segment_name(l.oldest_segment, name);
        else
            return KV_OK;
        status = kv_dir_unlink(dir, name, err);
        if (status < 0)
            return status;
    }
}

/* ---- Opening ---------------------------------------------------------------------------------------- */

/* One walk over the table that was read: how many entries there are (table.found is what is found later), the earliest
 * expiry, and what counts against max_memory. */
static uint64_t look_at_shards(kv_store *store) {
    uint64_t entries = 0, charged = 0;
    uint64_t next_expiry = store->tail != NULL ? kv_tail_next_expiry(store->tail) : KV_NO_EXPIRY;
    for (uint64_t hash = 0;;) {
        const kv_shard *shard = kv_table_shard(&store->table, hash);
        entries += shard->count;
        charged += kv_shard_charge(shard);
        if (shard->expiring > 0 && shard->next_expiry < next_expiry)
            next_expiry = shard->next_expiry;
        if (kv_shard_range_last(shard) == UINT64_MAX)
            break;
        hash = kv_shard_range_last(shard) + 1;
    }
    atomic_store(&store->next_expiry, next_expiry);
    atomic_store(&store->charged, charged);
    atomic_store(&store->table.found, 0);
    return entries;
}

/* The log has grown: a checkpoint may be due. */
static void rotated(void *arg) {
    kv_worker_wake(arg);
}

static kv_status start_log(kv_store *store, kv_recovered *recovered, kv_error *err) {
    kv_log_start start = {
        .dir = &store->dir,
        .options = &store->options,
        .segment = recovered->segment,
        .lsn = recovered->lsn,
        .entries = look_at_shards(store),
        .older = recovered->older,
        .older_count = recovered->older_count,
        .unmarked = !store->recovery.clean,
        .rollback = kv_store_rollback,
        .rollback_arg = store,
        .rotated = rotated,
        .rotated_arg = store,
    };
    return kv_log_create(&start, &store->log, err);
}

/* Whether the directory is a store, or may become one. */
static kv_status look(kv_store *store, contents *c, kv_error *err) {
    kv_status status = list_directory(&store->dir, c, err);
    return status == KV_OK && !c->store_file ? check_may_create(store, c, err) : status;
}

/* The table as the newest checkpoint has it (its shards are still to be loaded), or an empty one. */
static kv_status start_table(kv_store *store, const contents *contents, kv_error *err) {
    if (contents->checkpoint == 0)
        return kv_table_init(&store->table, store->who.hash_key, err);
    kv_status status = kv_checkpoint_open(&store->checkpoint, &store->dir, contents->checkpoint,
                                          store->who.store_id, err);
    if (status == KV_OK)
        status = kv_checkpoint_init_table(store->checkpoint, &store->table, store->who.hash_key, err);
    if (status < 0)
        return status;
    store->recovery.checkpoint_items = store->checkpoint->footer.entries;
    store->checkpoint_lsn = store->checkpoint->header.lsn;
    store->checkpoint_bytes = store->checkpoint->file_size;
    /* Now, while nothing has been changed yet: a damaged block refuses the open. */
    return store->options.preload ? kv_store_load_all(store, NULL, NULL, NULL, err)
                                  : kv_tail_create(&store->table, &store->tail, err);
}

/* The table as the log leaves it; what concerns shards that are not loaded may wait in the tail. */
static kv_status recover(kv_store *store, const contents *contents, uint64_t sequence,
                         kv_recovered *recovered, kv_error *err) {
    kv_pool_set_exclusive(store->table.entries, true);
    kv_status status = kv_recover(&store->dir, store->who.store_id, sequence,
                                  contents->segment_max, store->checkpoint_lsn, &store->table,
                                  store->tail, store->options.read_only, recovered,
                                  &store->recovery, err);
    kv_pool_set_exclusive(store->table.entries, false);
    if (status == KV_OK && store->tail != NULL)
        atomic_store(&store->tail_waits, !kv_tail_is_empty(store->tail));
    /* What counts against a bound must be known. */
    if (status == KV_OK && kv_store_is_bounded(store))
        status = kv_store_catch_up(store, err);
    return status;
}

/* Everything behind the lock. */
static kv_status open_signed(kv_store *store, const contents *contents, kv_error *err) {
    kv_recovered recovered = {.segment.file = KV_FILE_CLOSED};
    kv_status status = KV_OK;
    uint64_t sequence = contents->checkpoint != 0 ? contents->checkpoint : 1;
    /* A process that was killed may have renamed a file without having synced the directory: nothing may
     * be promised on a name that is in the page cache only. */
    if (contents->store_file && !store->options.read_only)
        status = kv_dir_sync(&store->dir, err);
    if (status == KV_OK)
        status = contents->store_file ? read_identity(&store->dir, &store->who, err)
                                      : create_files(store, &store->who, &recovered, err);
    if (status < 0)
        return status;
    status = start_table(store, contents, err);
    if (status < 0)
        goto out;
    if (contents->store_file)
        status = recover(store, contents, sequence, &recovered, err);
    if (status == KV_OK && store->options.read_only) {
        store->tallies[0].added = look_at_shards(store);
    } else if (status == KV_OK) {
        status = remove_leftovers(&store->dir, sequence, err);
        if (status == KV_OK)
            status = start_log(store, &recovered, err);
        if (status == KV_OK)
            recovered.segment.file.fd = -1; /* the log's */
    }
out:
    if (status < 0) {
        kv_store_end(store);
        kv_table_fini(&store->table);
        kv_tail_destroy(store->tail);
        store->tail = NULL;
        kv_checkpoint_destroy(store->checkpoint);
        store->checkpoint = NULL;
    }
    kv_file_close(&recovered.segment.file);
    kv_mem_free(recovered.older);
    return status;
}

/* What any store begins with. */
static void set_up(kv_store *store) {
    store->oldest_snapshot = store->walk_lsn = KV_NO_SNAPSHOT;
    store->next_expiry = KV_NO_EXPIRY;
    store->evicts = kv_store_is_bounded(store) && store->options.when_full == KV_FULL_EVICT;
}

/* A look before the lock, so that a directory that is none of ours does not get a LOCK; then one that counts. */
static kv_status lock_and_look(kv_store *store, contents *c, kv_error *err) {
    kv_status status = look(store, c, err);
    if (status == KV_OK)
        status = kv_lockfile_take(&store->lock_file, &store->dir, store->options.read_only, err);
    return status == KV_OK ? look(store, c, err) : status;
}

kv_status kv_store_open_directory(kv_store *store, kv_error *err) {
    kv_lock_text before = {0};
    contents c;
    set_up(store);
    kv_status status = lock_and_look(store, &c, err);
    if (status == KV_OK)
        status = sign_lock(store, &before, err);
    if (status == KV_OK) {
        status = open_signed(store, &c, err);
        if (status < 0)
            unsign_lock(store, &before);
    }
    if (status < 0) {
        kv_lockfile_release(&store->lock_file);
        return status;
    }
    kv_worker_watch_pools(store);
    kv_worker_start(store);
    return KV_OK;
}

kv_status kv_store_open_memory(kv_store *store, kv_error *err) {
    kv_siphash_key *key = &store->who.hash_key; /* a backup needs it */
    const kv_os *os = store->options.os;
    set_up(store);
    int result = os->random(os->ctx, key, sizeof *key);
    if (result < 0)
        return kv_fail_sys(err, -result, "", "cannot draw random bytes");
    store->recovery.created = store->recovery.clean = true;
    kv_status status = kv_table_init(&store->table, *key, err);
    if (status == KV_OK)
        kv_worker_watch_pools(store);
    return status;
}

kv_status kv_store_close(kv_store *store, kv_error *err) {
    static const kv_lock_text nobody;
    kv_status status = KV_OK;
    kv_worker_stop(store);
    if (store->log != NULL) {
        /* A checkpoint now costs less than replaying the log at the next open would.  Its failure is no loss. */
        if (kv_store_checkpoint_is_due(store, true))
            (void)!kv_store_checkpoint(store);
        status = kv_log_close(store->log, err);
        (void)!kv_dir_unlink(&store->dir, KV_CHECKPOINT_RECYCLED, NULL);
    }
    kv_store_end(store);
    kv_log_destroy(store->log);
    kv_table_fini(&store->table);
    kv_tail_destroy(store->tail);
    kv_checkpoint_destroy(store->checkpoint);
    if (store->dir.fd >= 0) {
        unsign_lock(store, &nobody);
        kv_lockfile_release(&store->lock_file);
    }
    return status;
}
