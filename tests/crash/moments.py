"""Moments at which a process is killed on purpose: steps of shim/moment.c, by what is going on.

A moment is (when, steps): when in the last step, after the others. Each is a window in which a crash leaves
something else behind; csrc/engine/save.c, log.c, segment.c and open.c say what.
"""

from typing import NamedTuple


class Moment(NamedTuple):
    kind: str
    when: str  # before, half, after
    steps: str
    filler: bool = False  # only comes when segments are soon full
    skip: int = 3  # it is let pass by so often, at the most
    pause: float = 0  # seconds between checkpoints: until there is more than one segment to let go
    needs: str = ""  # a file that the end before this one left behind

    def __str__(self):
        return f"{self.kind}: {self.when} {self.steps}"


def moments(kind, *which, **more):
    return [Moment(kind, *one.split(" ", 1), **more) for one in which]


CHECKPOINT = "a checkpoint"
ROTATION = "a rotation"
RECYCLING = "a recycling"
OPENING = "an opening"

MOMENTS = [
    *moments(
        CHECKPOINT,
        "before create new",
        "after create new",
        "before write new",
        "half write new",
        "after write new",
        "before sync new",
        "after sync new",
        "before sync new;*sync log",
        "before rename new ckpt",
        "after rename new ckpt",
        "before rename new ckpt;sync dir",
        "after rename new ckpt;sync dir",
        "before rename ckpt old",
        "after rename ckpt old",
        "before rename old new",
        "after rename old new",
        "half rename old new;*write new",
        "after rename old new;*write new",
        "before rename old new;*sync new",
        "before rename old new;*rename new ckpt",
        "after rename old new;*rename new ckpt",
        "before rename old new;*rename new ckpt;*sync dir",
    ),
    *moments(
        CHECKPOINT,
        "before rename new ckpt;sync dir;unlink log",
        "after rename new ckpt;sync dir;unlink log",
        "after unlink log;unlink log",
        "after unlink log;rename ckpt old",
        filler=True,
        skip=0,
        pause=0.4,
    ),
    *moments(ROTATION, "before create spare", "after create spare", filler=True, skip=1, pause=0.4),
    *moments(
        ROTATION,
        "half write spare",
        "before sync spare",
        "before rename spare log",
        "after rename spare log",
        "before rename spare log;sync dir",
        "after rename spare log;sync dir",
        "half rename spare log;sync dir;write log",
        "after rename spare log;sync dir;write log",
        "before rename spare log;sync dir;write log;sync log",
        "after rename spare log;sync dir;write log;sync log",
        "half rename spare log;sync dir;write log;sync log;write log",
        "after rename spare log;*rename new ckpt",
        "after create new;*rename spare log;*rename new ckpt",
        filler=True,
    ),
    *moments(
        RECYCLING,
        "before rename log recycled",
        "after rename log recycled",
        "before rename recycled spare",
        "after rename recycled spare",
        "half rename recycled spare;*write spare",
        "after rename recycled spare;*write spare",
        "before rename recycled spare;*sync spare",
        "before rename recycled spare;*rename spare log",
        "after rename recycled spare;*rename spare log",
        "before rename recycled spare;*rename spare log;*sync dir",
        "half rename recycled spare;*rename spare log;*sync dir;*write log;*sync log;*write log",
        "after rename recycled spare;*rename spare log;*sync dir;*write log;*sync log;*write log",
        "after rename log recycled;*rename ckpt old",
        filler=True,
        skip=1,
    ),
    *moments(RECYCLING, "after rename log recycled;unlink log", filler=True, skip=0, pause=0.4),
    # Reads of a checkpoint: header, footer, index, then a shard each, in the background. Of a log: some a segment.
    *moments(OPENING, "before sync dir", "after sync dir", "before read ckpt;*write log", skip=0),
    *moments(OPENING, "before read ckpt", "after read ckpt", skip=15),
    *moments(OPENING, "before read log", "before write log", "half write log", "before sync log", skip=4),
    *moments(OPENING, "before unlink new", "after unlink new", skip=0, needs="checkpoint.tmp"),
    *moments(OPENING, "before unlink spare", "after unlink spare", skip=0, needs="spare.log"),
    *moments(OPENING, "before unlink recycled", "after unlink recycled", skip=0, needs="recycled.log"),
    *moments(OPENING, "before unlink old", "after unlink old", skip=0, needs="recycled.ckpt"),
    *moments(OPENING, "after read ckpt;*rename new ckpt", "after read ckpt;*rename ckpt old", skip=0),
]

KINDS = (CHECKPOINT, ROTATION, RECYCLING, OPENING)
