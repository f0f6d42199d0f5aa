/* memory_os.h - a file system in memory that knows what a power cut would leave of it.
 *
 * The fault model: what a cut can leave, and so all that the engine may rely on.
 *
 *  1. What is written, truncated, made, renamed or removed is seen at once by every reader of the
 *     running system.  On the disk it is a *change* that is not yet synced.
 *  2. sync(file): every earlier write to and truncation of this file survives a power cut, and
 *     with them its size.  It says nothing about the file's name, nor about other files.
 *  3. dir_sync(dir): every earlier making, renaming and removing of a name in it survives.  It
 *     says nothing about the bytes of the files.
 *  4. Of the changes that are not synced, any subset may have reached the disk, in any order that
 *     keeps the last one of each byte or name last.  A rename is whole or not there.  A write is a
 *     series of sectors of 512 bytes (counted from the file's start): a cut can leave some of them
 *     and not the others, but never half of one; or it can leave zeros or garbage where the write
 *     was going.  Two writes to the same sector reach it in either order: it may end as the
 *     earlier one left it.
 *  5. Bytes of a file that no write has reached read as zeros.
 *  6. A sync that fails may have written any of its changes; and none of them is made durable by a
 *     later sync that succeeds: the system has forgotten that they were not written.
 *  7. A directory made by dir_open survives.
 *  8. Reading sees what was written.  Locks end with the handle, and with the power.
 *  9. A write may begin with bytes that are there already: the head of a sector that is written again for what
 *     follows it (direct I/O).  These are safe, whatever becomes of the rest (powersafe overwrite; garbage begins
 *     at the first byte that changes).
 * 10. A handle with direct I/O on takes transfers of whole aligned blocks only; another ends the test.
 *
 * Not in it: a disk that calls a sync done when it is not, or changes bytes that nobody writes (a
 * cut harms no sector but those on their way to the disk; damage is memory_os_poke's matter);
 * sectors below 512 bytes; a rename that leaves both names or none; a file system that does not
 * come back by itself, or not with its directory; a cut within a call (it leaves what one before
 * the call or one after it can leave); calls that fail, but for the sync of point 6 (fault_os.h
 * does that).
 *
 * What a cut leaves is a fresh memory_os, so that a store can be opened on it as after a restart:
 *
 *     memory_fate fates[] = {{MEMORY_KEPT, 0}, {MEMORY_TORN, 1}};
 *     memory_os *after = memory_os_cut(m, fates, 2);   // of the later changes nothing is left
 *
 * Thread-safe: a cut can be taken at any moment of a running store, which does not notice.
 * Paths of directories are opaque strings; there are no directories in directories.
 */
#ifndef MEMORY_OS_H
#define MEMORY_OS_H

#include "os/os.h"

#define MEMORY_SECTOR 512u
#define MEMORY_DIRECT_ALIGNMENT 512u /* at first */
#define MEMORY_NAME_SIZE 64

typedef struct memory_os memory_os;

/* Empty.  `seed`: of the bytes that random() gives.  Owned: memory_os_destroy. */
memory_os *memory_os_create(uint64_t seed);
void memory_os_destroy(memory_os *memory);

/* What the code under test is given.  Borrowed from `memory`. */
const kv_os *memory_os_table(memory_os *memory);

/* The alignment of direct I/O on files for which it is turned on from now on; 0: this system has none. */
void memory_os_set_direct(memory_os *memory, unsigned alignment);
/* Writes so far by handles with direct I/O on. */
uint64_t memory_os_direct_writes(memory_os *memory);

/* ---- Changes that are not synced ----------------------------------------------------------- */

typedef enum memory_change_kind {
    MEMORY_WRITE,    /* name, offset, size */
    MEMORY_TRUNCATE, /* name, size: the new one; room reserved is this, too */
    MEMORY_MAKE,     /* name */
    MEMORY_RENAME,   /* name, to */
    MEMORY_REMOVE,   /* name */
} memory_change_kind;

typedef struct memory_change {
    memory_change_kind kind;
    char name[MEMORY_NAME_SIZE]; /* the file's: when it was opened, for a write */
    char to[MEMORY_NAME_SIZE];
    uint64_t offset;
    uint64_t size;
    size_t tears; /* boundaries of sectors inside the write: it can be torn at 1 ... tears */
    bool same;    /* a write of the very bytes that were there */
} memory_change;

size_t memory_os_change_count(memory_os *memory);                 /* oldest first */
memory_change memory_os_change(memory_os *memory, size_t index); /* index < count */

/* ---- Power cuts ------------------------------------------------------------------------------ */

typedef enum memory_fate_kind {
    MEMORY_LOST,
    MEMORY_KEPT,
    MEMORY_TORN,      /* a write: only its part before boundary number `at` is there */
    MEMORY_TORN_HEAD, /* a write: only its part from boundary number `at` on is there */
    MEMORY_TORN_ZEROED,  /* a write: its part before boundary number `at`, and behind it zeros */
    MEMORY_TORN_GARBLED, /* the same with other bytes behind it */
    MEMORY_ZEROED,    /* a write: zeros are there */
    MEMORY_GARBLED,   /* a write: other bytes are there, chosen by `at` */
    MEMORY_OVERTAKEN, /* a write: what it shares with change number `at`, in sectors, is not there */
} memory_fate_kind; /* all but the first on other changes: kept */

typedef struct memory_fate {
    memory_fate_kind kind;
    uint64_t at;
} memory_fate;

/* Syncs that had an effect: as long as it is the same, changes are only added. */
uint64_t memory_os_syncs(memory_os *memory);

/* What the next start finds: all that is synced, and of the changes what `fates` says of each;
 * those from index `count` on are lost.  Owned. */
memory_os *memory_os_cut(memory_os *memory, const memory_fate *fates, size_t count);

/* The same with the first `kept` changes kept and the others lost. */
memory_os *memory_os_cut_after(memory_os *memory, size_t kept);

/* What the next process finds when this one is killed: all of it, synced or not, and nothing
 * open.  Owned. */
memory_os *memory_os_copy(memory_os *memory);

/* Time goes by: the system has written all changes to the disk, unasked. */
void memory_os_settle(memory_os *memory);

/* The nth sync from now, of a file or a directory, answers -sys_errno (point 6).  A failure from
 * fault_os, in contrast, leaves the changes to the next sync. */
void memory_os_fail_sync(memory_os *memory, uint64_t nth, int sys_errno);

/* ---- Behind the back of the code under test ---------------------------------------------------- */

/* The bytes as a reader sees them: 0, or -ENOENT, or -ERANGE beyond the end. */
int memory_os_peek(memory_os *memory, const char *dir, const char *name, uint64_t offset,
                   void *buffer, size_t size);

/* Damages the file, both as it is read and on the disk; the same answers. */
int memory_os_poke(memory_os *memory, const char *dir, const char *name, uint64_t offset,
                   const void *bytes, size_t size);

/* Names and bytes of all files in the directory as a reader sees them, as one number. */
uint64_t memory_os_digest(memory_os *memory, const char *dir);

/* Its size, or -ENOENT. */
int64_t memory_os_size(memory_os *memory, const char *dir, const char *name);

/* Files and directories that are open: 0 at the end of a test. */
size_t memory_os_open_count(memory_os *memory);

#endif
