"""A typed program that uses expiry, checkpoints, copies, checks and dumps checks; wrong ones do not."""

import textwrap

from test_types import check

SAMPLE = """
    import datetime
    import io

    import pykv

    with pykv.open(
        "data.kv",
        preload=True,
        max_memory=1 << 30,
        when_full="evict",
        checkpoint_log_min=1 << 20,
        checkpoint_log_ratio=None,
    ) as store:
        store.put("k", "v", ttl=5)
        store.put("k", "v", ttl=0.5, sync=True)
        store.put_many({"k": "v"}, ttl=datetime.timedelta(hours=1))
        left: float | None = store.ttl("k")
        there: bool = store.expire("k", 5, sync=True) or store.persist("k")
        with store.batch() as batch:
            batch.put("k", "v", ttl=5)
            batch.put("k", "v", datetime.timedelta(1))
            batch.expire("k", 5.5)
            batch.persist("k")

        def show(done: int, total: int) -> None:
            print(done / total)

        store.checkpoint()
        store.checkpoint(progress=show)
        store.preload(progress=None)
        store.backup("copy", progress=lambda done, total: print(done))
        error: str | None = store.stats()["checkpoint_error"]
        items: int = store.recovery["checkpoint_items"]
        count: int = pykv.dump(store, "file", format="redis", progress=show)
        pykv.dump(store, io.BytesIO())
        with open("file", "rb") as file:
            loaded: pykv.LoadReport = pykv.load(store, file, partial=True)
        print(loaded.items + loaded.expired, loaded.format.upper())

    report: pykv.CheckReport = pykv.check("data.kv", progress=show)
    for problem in report.problems:
        where: tuple[str | None, int | None] = (problem.path, problem.offset)
        print(problem.message, problem.loss, report.ok)
    repaired: pykv.RepairReport = pykv.repair(b"data.kv", "new.kv")
    suspects: list[bytes] = repaired.suspects
    pykv.restore("copy", "new.kv", progress=show)
    try:
        pass
    except pykv.LoadError as failed:
        line: int | None = failed.line or failed.offset
    except pykv.MemoryLimitError:
        pass
    kind: type[RuntimeWarning] = pykv.CheckpointWarning
"""

WRONG = [
    'pykv.open("x", when_full="panic")',
    'pykv.open("x", max_memory="1 GiB")',
    'pykv.open("x", checkpoint_log_min=None)',
    "store.put(b'', b'', 5)",
    "store.put(b'', b'', ttl='5')",
    "store.expire(b'', None)",
    "store.expire(b'')",
    "x: float = store.ttl(b'')",
    "store.checkpoint(print)",
    "store.checkpoint(progress=5)",
    "store.backup(None)",
    "store.backup()",
    "pykv.dump(store, 'file', format='xml')",
    "pykv.dump(store, 'file', 'jsonl')",
    "pykv.load(store, 5)",
    "pykv.check(5)",
    "pykv.repair('a')",
    "pykv.check('a').problems[0].line",
]


def test_a_typed_program_checks(tmp_path):
    done = check(tmp_path, textwrap.dedent(SAMPLE))
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_programs_do_not(tmp_path):
    lines = ["import pykv", "store = pykv.open()", *WRONG]
    done = check(tmp_path, "\n".join(lines) + "\n")
    reported = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    missed = [line for number, line in enumerate(lines, 1) if number > 2 and number not in reported]
    assert missed == [], done.stdout
