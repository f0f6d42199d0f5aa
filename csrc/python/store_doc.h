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
"Store(path=None, *, sync='always', sync_interval=0.1, read_only=False, create=True,\n"
"      preload=False, max_memory=None, when_full='refuse', checkpoint_log_min=67108864,\n"
"      checkpoint_log_ratio=1.0, gil='auto')\n"
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
"only what is on disk; never waits for a write.  Where that part of the checkpoint is not in\n"
"memory yet, it is read first (see preload()).\n"
"\n"
"Raises TypeError for a key of another type, CorruptionError and StorageError when that part\n"
"cannot be read, ClosedError, ForkError.");

PyDoc_STRVAR(put_doc,
"put($self, /, key, value, *, ttl=None, sync=None)\n"
"--\n"
"\n"
"Sets the key's value; as store[key] = value.\n"
"\n"
"key and value are bytes-like or str (taken as UTF-8).  ttl is the time to live: int or float\n"
"seconds or a datetime.timedelta, above 0, rounded up to milliseconds.  When it has passed, by\n"
"the wall clock, the key is gone, also for those who open the store later.  None: the key never\n"
"expires, whatever ttl it had before.  When put() returns, the write is as\n"
"durable as the store's sync mode promises; with sync=True it is on disk whatever the mode.\n"
"Writes of several threads at once share one sync of the disk.\n"
"\n"
"Raises LimitError over 65535 bytes of key or 512 MiB of value, MemoryLimitError when it would\n"
"need more than the store's max_memory, StorageError when the disk is full or fails, FailedError\n"
"after an earlier failure, ReadOnlyError, ClosedError, ForkError; TypeError for other types,\n"
"ValueError for sync=False, for a ttl that is not above 0 and for one that ends after the year\n"
"10889.  A write that raised changed nothing, but for FailedError: then only reopening the store\n"
"shows whether it is there.\n"
"\n"
"Warns with CheckpointWarning, once, when a checkpoint that the store made by itself has failed;\n"
"where warnings are errors it raises that, and the write is done nevertheless.");

PyDoc_STRVAR(ttl_doc,
"ttl($self, key, /)\n"
"--\n"
"\n"
"The seconds that the key has left, as float; None when it never expires.\n"
"\n"
"By the wall clock, in steps of a millisecond; 0.0 at the moment when it goes.  Raises KeyError\n"
"when there is no such key, or no more, and the exceptions of get().");

PyDoc_STRVAR(expire_doc,
"expire($self, /, key, ttl, *, sync=None)\n"
"--\n"
"\n"
"Lets the key expire when ttl has passed from now; True when it was there, False when not.\n"
"\n"
"ttl is int or float seconds or a datetime.timedelta, above 0; it takes the place of the one\n"
"that the key had.  The value is not written again.  Durability and exceptions as put().");

PyDoc_STRVAR(persist_doc,
"persist($self, /, key, *, sync=None)\n"
"--\n"
"\n"
"Lets the key live for ever, whatever ttl it had; True when it was there, False when not.\n"
"\n"
"Durability and exceptions as put().");

PyDoc_STRVAR(expiry_of_doc,
"_expiry_of($self, key, /)\n"
"--\n"
"\n"
"When the key expires, as int in ms since 1970; 0: never; None: there is no such key.");

PyDoc_STRVAR(expiry_after_doc,
"_expiry_after($self, ttl, /)\n"
"--\n"
"\n"
"The moment so long from now, as int in ms since 1970; 0 for None.  Raises what put() raises for\n"
"a ttl.");

PyDoc_STRVAR(clock_doc,
"_clock($self, /)\n"
"--\n"
"\n"
"The wall clock that expiry goes by, as int in ms since 1970.");

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
"put_many($self, /, items, *, ttl=None, sync=None)\n"
"--\n"
"\n"
"Puts many keys in one atomic commit: readers, and recovery after a crash, see all of it or\n"
"nothing.\n"
"\n"
"items is a mapping, or an iterable of pairs (key, value); of several on one key the last\n"
"counts.  All get the same ttl, as in put().  One sync of the disk for all.  Durability and\n"
"exceptions as put(); LimitError also when the commit is over 1 GiB.");

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
"One atomic commit of a dict: for each key its value, or (value, expiry), or None, which deletes\n"
"it, or an int: another expiry for the key if it is there.  expiry is an int in ms since 1970, 0:\n"
"never.  The number of keys that existed and were deleted.  What Batch is made of.");

PyDoc_STRVAR(incr_doc,
"incr($self, /, key, by=1, *, sync=None)\n"
"--\n"
"\n"
"Adds by to the decimal integer stored under the key (0 when absent); the new value as int.\n"
"\n"
"Atomic.  The key keeps its ttl.  Raises ValueError when the value is not an integer,\n"
"OverflowError when by or the result does not fit into 64 bits (signed): nothing is changed\n"
"then.  Durability and exceptions as put().");

PyDoc_STRVAR(replace_doc,
"replace($self, /, key, value, *, expected, sync=None)\n"
"--\n"
"\n"
"Puts value if the key's value equals expected; True when it did.\n"
"\n"
"expected=None: only if there is no such key.  The key never expires then.  Atomic: of several\n"
"threads that expect the same, one gets True.  Durability and exceptions as put().");

PyDoc_STRVAR(setdefault_doc,
"setdefault($self, /, key, default=b'')\n"
"--\n"
"\n"
"The key's value; when there is none, puts default first and returns it as bytes.\n"
"\n"
"Atomic.  What it puts never expires.  Durability and exceptions as put().");

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

PyDoc_STRVAR(checkpoint_doc,
"checkpoint($self, /, *, progress=None)\n"
"--\n"
"\n"
"Writes the whole state into one file, on disk when it returns; the log before it is let go.\n"
"\n"
"The next open starts from that file, however much was written before.  The store does this by\n"
"itself as its log grows (see pykv.open).  Costs one write of all data, and lets readers and\n"
"writers go on meanwhile.  At most one is made at a time: this waits for one that is being made,\n"
"and makes another if something was written since.  A store in memory has none.\n"
"\n"
"progress is called with (done, total), in bytes, at most some 20 times a second; other threads\n"
"run all the time.  An exception that it raises, or Ctrl-C, ends the call and is what the call\n"
"raises (when done is total, the work may be done all the same).  In it, as in a signal handler\n"
"that runs meanwhile, close() and another checkpoint() or backup() of the store are a ValueError: they\n"
"would wait for this one.\n"
"\n"
"Raises StorageError when the disk is full or fails, CorruptionError when a part of the last\n"
"checkpoint that was not in memory yet cannot be read, FailedError, ReadOnlyError, ClosedError,\n"
"ForkError; TypeError for a progress that cannot be called.  What failed changed nothing.");

PyDoc_STRVAR(backup_doc,
"backup($self, /, dest, *, progress=None)\n"
"--\n"
"\n"
"Makes the directory dest a store of its own, with the state of the moment when the copy ends.\n"
"\n"
"dest is a path that is not there yet, or an empty directory.  On disk when it returns.  Costs a\n"
"copy of the data; readers and writers go on meanwhile.  progress as in checkpoint().\n"
"\n"
"Raises what checkpoint() raises, StorageError when dest is there and not empty or has no room,\n"
"and LockedError when another process makes a store of it.  What was made in dest is removed then.");

PyDoc_STRVAR(preload_doc,
"preload($self, /, *, progress=None)\n"
"--\n"
"\n"
"Returns when everything is in memory.\n"
"\n"
"An open is done before that: a part that is asked for is read then, the others by a thread in\n"
"the background.  progress as in checkpoint().  Raises CorruptionError when some of it cannot be\n"
"read, StorageError, MemoryError, ClosedError, ForkError.");

PyDoc_STRVAR(stats_doc,
"stats($self, /)\n"
"--\n"
"\n"
"Figures of the store as a dict: path, sync (the mode), entries, data_bytes,\n"
"memory_bytes, shards, undo_records, snapshots, handles, lsn, visible_lsn, durable_lsn,\n"
"commits, frames, syncs, log_bytes, log_segments, failed, direct_io, shards_loaded,\n"
"checkpoints, checkpoint_lsn, checkpoint_bytes, checkpoint_failures, checkpoint_error,\n"
"expired, evicted, memory_charged, max_memory, load_error.\n"
"\n"
"entries counts visible keys; data_bytes their keys and values, memory_bytes what they take;\n"
"memory_charged is what max_memory (0: no bound) bounds.  shards_loaded says how much of the\n"
"last checkpoint is in memory.  commits, frames (flushes), syncs, checkpoints,\n"
"checkpoint_failures, expired (keys swept away) and evicted (keys removed for want of memory)\n"
"count since the open.  failed says that a write or sync failed, so that writes raise\n"
"FailedError; direct_io that the log is written past the system's cache (sync=\"always\", where\n"
"the system can); checkpoint_error why the last checkpoint failed, load_error why a part of a\n"
"checkpoint cannot be read: str, or None.  Raises ClosedError, ForkError.");

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
"Later calls raise ClosedError, and so does a checkpoint() or backup() that still waits for another\n"
"one to end; closing again does nothing.  Views stay valid.  The store\n"
"itself closes with its last handle in this process, and makes a checkpoint first when that\n"
"saves more at the next open than it costs.  Raises StorageError or FailedError when the last\n"
"sync failed (the handle is closed nevertheless); warns with CheckpointWarning as put() does.  In\n"
"a forked child it does nothing.  ValueError, and it is not closed, when a progress function or a\n"
"signal handler calls it from within a call on this handle.");

PyDoc_STRVAR(reduce_doc,
"__reduce__($self, /)\n"
"--\n"
"\n"
"Raises TypeError: an open store cannot be pickled or copied.");

PyDoc_STRVAR(recovery_doc,
"What the last open found, as a dict: clean (it had been closed properly, or is new), created\n"
"(there was no store before), segments, frames, commits, records and bytes of log that were\n"
"read, bytes_cut of a torn tail that was never acknowledged, checkpoint_items in the checkpoint\n"
"that the log goes on from (0: there is none), seconds.");

PyDoc_STRVAR(path_doc, "The path that the store was opened with, as str; None in memory.");

PyDoc_STRVAR(closed_doc, "True after close().");

#endif
