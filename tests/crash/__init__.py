"""SIGKILL tests: a worker that is killed, its journal, and a judge of what is found afterwards.

`worker` runs in a process of its own and writes to a store from several threads. Each thread notes
in a `journal`, outside of the store, what it is about to do and what the store answered. After a
SIGKILL, `judge` compares what a reopened store holds with the journals. `victim` is the worker seen from outside;
`moments` are those at which it ends itself, or the power goes, when shim/moment.c is preloaded.
"""
