"""A typed program that uses a store on a server checks; wrong ones do not."""

import textwrap

from test_types import SAMPLE as EMBEDDED
from test_types import check

SAMPLE = """
    from collections.abc import Iterator, MutableMapping

    import pykv
    from pykv import Batch, Capabilities, RemoteStore, Store


    def either(store: Store | RemoteStore) -> None:
        store.put("k", "v", ttl=5, sync=True)
        value: bytes | None = store.get("k")
        with store.batch() as batch:
            batch["k"] = "v"
        pykv.dump(store, "file")
        pykv.load(store, "file", partial=True)
        store.update(store)


    def generic(mapping: MutableMapping[bytes, bytes]) -> None:
        mapping[b"k"] = b"v"


    with pykv.connect("redis://localhost", password="p", timeout=None, retries=0) as store:
        store["text"] = "text"
        store[bytearray(b"k")] = memoryview(b"v")
        certain: bytes = store.get("k", b"")
        number: int | bytes = store.get("k", 5)
        many: list[bytes | None] = store.get_many(["a", b"b"])
        store.put_many([("a", "b"), (b"c", bytearray())], ttl=5.5)
        deleted: bool = store.delete("k")
        gone: int = store.delete_many(["k"])
        now: int = store.incr("n", -1, sync=True)
        done: bool = store.replace("k", "v", expected=None)
        default: bytes = store.setdefault("k", "v")
        popped: bytes = store.pop("k")
        other: bytes | None = store.pop("k", None)
        pair: tuple[bytes, bytes] = store.popitem()
        keys: Iterator[bytes] = iter(store)
        view: memoryview = store.view("k")
        left: float | None = store.ttl("k")
        there: bool = store.expire("k", 5) or store.persist("k")
        store.checkpoint(progress=lambda done, total: print(done))
        entries: int = store.stats()["entries"]
        field: str = store.stats()["info"]["redis_version"]
        known: Capabilities = store.capabilities
        if known.durable_writes == "always" and known.backend == "redis":
            print(known.version, store.url.upper(), store.path is None)
        kind: type[Batch] = type(store.batch())
        generic(store)
        either(store)
        either(pykv.open())

    try:
        pykv.connect("x")
    except pykv.ConnectionLostError as lost:
        what: tuple[bool, int | None] = (lost.maybe_done, lost.errno)
    except pykv.UnsupportedError:
        pass
"""

WRONG = [
    "pykv.connect(b'redis://localhost')",
    "pykv.connect('redis://localhost', 5)",
    "pykv.connect('redis://localhost', retries='5')",
    "store.put(5, b'')",
    "store.put(b'', b'', 5)",
    "store.put(b'', b'', sync=False)",
    "store.replace(b'', b'')",
    "store.incr(b'', 1.5)",
    "x: bytes = store.get(b'')",
    "store[b''] = None",
    "store.get_many(5)",
    "store.expire(b'', None)",
    "store.backup('copy')",
    "store.capabilities.version = '5'",
    "store.url = 'x'",
    "store.stats()['no such figure']",
]


def test_a_typed_program_checks(tmp_path):
    done = check(tmp_path, textwrap.dedent(SAMPLE))
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_checks_for_an_embedded_store_checks_for_a_remote_one(tmp_path):
    source = textwrap.dedent(EMBEDDED).split("\ntry:")[0]
    for before, after in {
        'pykv.open("data.kv", sync="interval", sync_interval=0.5, gil="release")': 'pykv.connect("redis://h")',
        "store: Store": "store: RemoteStore",
        "import Batch, Store": "import Batch, RemoteStore",
        '    clean: bool = store.recovery["clean"]\n': "",
    }.items():
        assert before in source
        source = source.replace(before, after)
    done = check(tmp_path, source)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_programs_do_not(tmp_path):
    lines = ["import pykv", "store = pykv.connect('redis://localhost')", *WRONG]
    done = check(tmp_path, "\n".join(lines) + "\n")
    reported = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    missed = [line for number, line in enumerate(lines, 1) if number > 2 and number not in reported]
    assert missed == [], done.stdout
