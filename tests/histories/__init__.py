"""Recorded histories of concurrent calls, judged: could a store that does one after the other have answered so?

`checker` is the judge: the specification of a key, and the search for an order. `clients` do random calls through
a Store or a server's socket, and record each with the time before it and the time after it. `worker` does so in a
process of its own, which is killed; its record is a journal (crash/journal.py).
"""
