/* store_doc.h - docstrings of Store's methods, apart from the code for its readers' sake.
 * Layer: python.  Included by store.c only.
 *
 * The first lines are the signature that inspect.signature() reads; pykv/_core.pyi repeats it
 * with types, and a test (stubtest) compares them.
 */
#ifndef KVPY_STORE_DOC_H
#define KVPY_STORE_DOC_H

#include "module.h"

PyDoc_STRVAR(store_doc,
"Store(path=None, *, sync='always', sync_interval=0.1, read_only=False, create=True, gil='auto')\n"
"--\n"
"\n"
"A handle on an open store; the base of pykv.Store.");

PyDoc_STRVAR(get_doc,
"get($self, /, key, default=None)\n"
"--\n"
"\n"
"The key's value as bytes, or default when there is no such key.\n"
"\n"
"key is bytes-like or str (taken as UTF-8).  Answers from memory, and under sync='always'\n"
"only what is on disk; never waits for the disk.\n"
"\n"
"Raises TypeError for a key of another type, ClosedError, ForkError.");

PyDoc_STRVAR(put_doc,
"put($self, /, key, value, *, sync=None)\n"
"--\n"
"\n"
"Sets the key's value; as store[key] = value.\n"
"\n"
"key and value are bytes-like or str (taken as UTF-8).  When it returns, the write is as\n"
"durable as the store's sync mode promises; with sync=True it is on disk whatever the mode.\n"
"Writes of several threads at once share one sync of the disk.\n"
"\n"
"Raises LimitError over 65535 bytes of key or 512 MiB of value, StorageError when the disk is\n"
"full or fails, FailedError after an earlier failure, ReadOnlyError, ClosedError, ForkError;\n"
"TypeError for other types and ValueError for sync=False.  A write that raised changed\n"
"nothing, but for FailedError: then only reopening the store shows whether it is there.");

PyDoc_STRVAR(delete_doc,
"delete($self, /, key, *, sync=None)\n"
"--\n"
"\n"
"Deletes the key; True when it was there, False when not.\n"
"\n"
"Durability and exceptions as put().  del store[key] raises KeyError instead of answering\n"
"False.");

PyDoc_STRVAR(get_many_doc,
"get_many($self, keys, /)\n"
"--\n"
"\n"
"A list with the value of each key, None where there is no such key, all as of one moment.\n"
"\n"
"keys is any iterable of bytes-like or str; a list or tuple of bytes is fastest.  The\n"
"look-ups overlap in memory and run without the GIL: several times as fast as one get() after\n"
"the other.\n"
"\n"
"Raises TypeError, ClosedError, ForkError.");

PyDoc_STRVAR(put_many_doc,
"put_many($self, /, items, *, sync=None)\n"
"--\n"
"\n"
"Puts many keys in one atomic commit: readers, and recovery after a crash, see all of it or\n"
"nothing.\n"
"\n"
"items is a mapping, or an iterable of pairs (key, value); of several on one key the last\n"
"counts.  One sync of the disk for all.  Durability and exceptions as put(); LimitError also\n"
"when the commit is over 1 GiB.");

PyDoc_STRVAR(delete_many_doc,
"delete_many($self, /, keys, *, sync=None)\n"
"--\n"
"\n"
"Deletes many keys in one atomic commit; the number of those that were there.\n"
"\n"
"keys is any iterable of bytes-like or str.  Durability and exceptions as put().");

PyDoc_STRVAR(write_doc,
"_write($self, /, operations, *, sync=None)\n"
"--\n"
"\n"
"One atomic commit of a dict: a value of None deletes its key.  The number of keys that\n"
"existed and were deleted.  What Batch is made of.");

PyDoc_STRVAR(incr_doc,
"incr($self, /, key, by=1, *, sync=None)\n"
"--\n"
"\n"
"Adds by to the decimal integer stored under the key (0 when absent); the new value as int.\n"
"\n"
"Atomic.  Raises ValueError when the value is not an integer, OverflowError when by or the\n"
"result does not fit into 64 bits (signed): nothing is changed then.  Durability and\n"
"exceptions as put().");

PyDoc_STRVAR(replace_doc,
"replace($self, /, key, value, *, expected, sync=None)\n"
"--\n"
"\n"
"Puts value if the key's value equals expected; True when it did.\n"
"\n"
"expected=None: only if there is no such key.  Atomic: of several threads that expect the\n"
"same, one gets True.  Durability and exceptions as put().");

PyDoc_STRVAR(setdefault_doc,
"setdefault($self, /, key, default=b'')\n"
"--\n"
"\n"
"The key's value; when there is none, puts default first and returns it as bytes.\n"
"\n"
"Atomic.  Durability and exceptions as put().");

PyDoc_STRVAR(pop_doc,
"pop(key[, default])\n"
"\n"
"Deletes the key and returns the value it had.\n"
"\n"
"When there is no such key: default if given, else KeyError.  Atomic: of several threads one\n"
"gets the value.  Durability and exceptions as put().");

PyDoc_STRVAR(popitem_doc,
"popitem($self, /)\n"
"--\n"
"\n"
"Deletes some key and returns (key, value).\n"
"\n"
"In no order.  Raises KeyError when the store is empty.  Durability and exceptions as put().");

PyDoc_STRVAR(clear_doc,
"clear($self, /)\n"
"--\n"
"\n"
"Deletes every key, in one atomic commit.  Durability and exceptions as put().");

PyDoc_STRVAR(view_doc,
"view($self, key, /)\n"
"--\n"
"\n"
"The key's value as a read-only memoryview, without a copy.\n"
"\n"
"It shows the value of this moment: later writes do not change it, and it stays valid after\n"
"close(). Its memory is kept until the view is released.  Raises KeyError, and the exceptions\n"
"of get().");

PyDoc_STRVAR(sync_doc,
"sync($self, /)\n"
"--\n"
"\n"
"Returns when everything written so far, by any thread, is on disk.\n"
"\n"
"Needed only with sync='interval' or 'never'.  Raises StorageError, FailedError, ClosedError,\n"
"ForkError.");

PyDoc_STRVAR(stats_doc,
"stats($self, /)\n"
"--\n"
"\n"
"Figures of the store as a dict: path, sync (the mode), entries, data_bytes, memory_bytes,\n"
"shards, undo_records, snapshots, handles, lsn, visible_lsn, durable_lsn, commits, frames,\n"
"syncs, log_bytes, log_segments, failed.\n"
"\n"
"entries counts visible keys; data_bytes their keys and values, memory_bytes what they take;\n"
"commits, frames (flushes) and syncs count since the open; failed says that a write or sync\n"
"failed, so that writes raise FailedError.  Raises ClosedError, ForkError.");

PyDoc_STRVAR(snapshot_method_doc,
"_snapshot($self, /)\n"
"--\n"
"\n"
"The store as it is now, as a Snapshot.  What keys(), values() and items() are made of.");

PyDoc_STRVAR(verify_doc,
"_verify($self, /)\n"
"--\n"
"\n"
"Walks the whole store and checks its invariants; for tests.  Raises CorruptionError.");

PyDoc_STRVAR(close_doc,
"close($self, /)\n"
"--\n"
"\n"
"Ends the handle: waits for calls in flight, makes everything durable and releases the files.\n"
"\n"
"Later calls raise ClosedError; closing again does nothing.  Views stay valid.  The store\n"
"itself closes with its last handle in this process.  Raises StorageError or FailedError when\n"
"the last sync failed (the handle is closed nevertheless).  In a forked child it does\n"
"nothing.");

PyDoc_STRVAR(reduce_doc,
"__reduce__($self, /)\n"
"--\n"
"\n"
"Raises TypeError: an open store cannot be pickled or copied.");

PyDoc_STRVAR(recovery_doc,
"What the last open found, as a dict: clean (it had been closed properly, or is new), created\n"
"(there was no store before), segments, frames, commits, records and bytes of log that were\n"
"read, bytes_cut of a torn tail that was never acknowledged, seconds.");

PyDoc_STRVAR(path_doc, "The path that the store was opened with, as str; None in memory.");

PyDoc_STRVAR(closed_doc, "True after close().");

#endif
