"""The stubs say what the extension does, and a typed program checks."""

import subprocess
import sys
import textwrap

import pytest

import pykv
from conftest import python_environment

pytest.importorskip("mypy", reason="mypy is not installed")

SAMPLE = """
    from collections.abc import Iterator, MutableMapping

    import pykv
    from pykv import Batch, Store


    def count_words(store: Store, words: list[str]) -> dict[bytes, int]:
        for word in words:
            store.incr(word)
        return {key: int(value) for key, value in store.items()}


    def generic(mapping: MutableMapping[bytes, bytes]) -> bytes | None:
        mapping[b"k"] = b"v"
        return mapping.get(b"k")


    with pykv.open("data.kv", sync="interval", sync_interval=0.5, gil="release") as store:
        store["text"] = "text"
        store[bytearray(b"k")] = memoryview(b"v")
        store.put(b"k", "v", sync=True)
        maybe: bytes | None = store.get("k")
        certain: bytes = store.get("k", b"")
        number: int | bytes = store.get("k", 5)
        many: list[bytes | None] = store.get_many(["a", b"b"])
        store.put_many({"a": b"b"})
        store.put_many([("a", "b"), (b"c", bytearray())])
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
        size: int = len(store)
        there: bool = b"k" in store
        entries: int = store.stats()["entries"]
        clean: bool = store.recovery["clean"]
        where: str | None = store.path
        with store.batch() as batch:
            batch.put("k", b"v")
            batch.delete("k")
            batch["k"] = "v"
            del batch["k"]
        kind: type[Batch] = type(batch)
        generic(store)
        count_words(store, ["a"])
        store.update({b"a": b"b"}, key="value")

    try:
        pykv.open("x")
    except pykv.LockedError as locked:
        pid: int | None = locked.pid
    except pykv.CorruptionError as damaged:
        place: tuple[str | None, int | None] = (damaged.path, damaged.offset)
    except pykv.StorageError as failed:
        number_of_error: int | None = failed.errno
"""

# Each of these lines must be an error.
WRONG = [
    'pykv.open("x", sync="sometimes")',
    'pykv.open("x", gil="never")',
    "pykv.open(5)",
    'pykv.open("x", "always")',
    "store.put(5, b'')",
    "store.put(b'', 5)",
    "store.put(b'', b'', sync=False)",
    "store.replace(b'', b'')",
    "store.incr(b'', '1')",
    "store.incr(b'', 1.5)",
    "x: bytes = store.get(b'')",
    "y: str = store[b'']",
    "store[b''] = None",
    "store.get_many(5)",
    "store.get_many([5])",
    "store.setdefault(b'', 5)",
    "store.batch().put(b'', None)",
    "store.path = 'x'",
    "store.stats()['no such figure']",
]


def mypy(arguments, folder):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=python_environment(MYPYPATH=""),
        capture_output=True,
        text=True,
    )


def test_the_stubs_are_true(tmp_path):
    done = mypy(["mypy.stubtest", "pykv._core"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def check(tmp_path, source):
    (tmp_path / "sample.py").write_text(source)
    return mypy(["mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "sample.py"], tmp_path)


def test_a_typed_program_checks(tmp_path):
    done = check(tmp_path, textwrap.dedent(SAMPLE))
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_programs_do_not(tmp_path):
    lines = ["import pykv", "store = pykv.open()", *WRONG]
    done = check(tmp_path, "\n".join(lines) + "\n")
    reported = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    missed = [line for number, line in enumerate(lines, 1) if number > 2 and number not in reported]
    assert missed == [], done.stdout


def test_the_package_is_marked_as_typed():
    from pathlib import Path

    folder = Path(pykv.__file__).parent
    assert (folder / "py.typed").exists() and (folder / "_core.pyi").exists()


def test_every_public_name_has_a_docstring_and_a_signature():
    import inspect

    for name in pykv.__all__:
        value = getattr(pykv, name)
        if callable(value):
            assert inspect.getdoc(value), name
    for owner in (pykv.Store, pykv.RemoteStore, pykv.Batch):
        for name, value in inspect.getmembers(owner):
            if not name.startswith("_") and callable(value):
                assert inspect.getdoc(value), f"{owner.__name__}.{name}"
                if (owner.__name__, name) != ("Store", "pop"):  # its default has no value to show
                    inspect.signature(value)
