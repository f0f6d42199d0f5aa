"""Stores that earlier versions of the format left behind, of tests/golden: read completely, and written on.

They were made by tests/golden/make.py, of the code of their time, and are never made again.
"""

import io
import json
import runpy
import tarfile
from pathlib import Path

import pytest

import pykv
from conftest import assert_holds
from test_format import VERSION, newest_checkpoint, read_identity, read_store, replay_all

GOLDEN = Path(__file__).resolve().parent / "golden"
CASES = sorted(path.relative_to(GOLDEN).with_suffix("") for path in GOLDEN.glob("v*/*.json"))


class Golden:
    """One of them, unpacked."""

    def __init__(self, case, folder):
        self.folder = folder
        self.version = int(case.parent.name[1:])
        expected = json.loads((GOLDEN / case).with_suffix(".json").read_text())
        self.clean, self.cut, self.remaining = (expected[name] for name in ("clean", "cut", "remaining"))
        self.items, self.expired = as_items(expected["items"]), as_items(expected["expired"])
        folder.mkdir(mode=0o700)
        packed = (GOLDEN / case).with_suffix(".tar.gz").read_bytes()
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            for member in archive:
                (folder / member.name).write_bytes(archive.extractfile(member).read())

    def check(self, store):
        """Every key, value and expiry; and nothing of what has expired."""
        assert_holds(store, {key: value for key, (value, _) in self.items.items()})
        assert len(store) == len(self.items)
        assert {key: store._expiry_of(key) or 0 for key in self.items} == {
            key: expiry for key, (_, expiry) in self.items.items()
        }
        for key in self.expired:
            assert key not in store and store.get(key) is None
            with pytest.raises(KeyError):
                store.ttl(key)
        store._verify()

    def check_recovery(self, store):
        assert store.recovery["clean"] == self.clean and not store.recovery["created"]
        assert store.recovery["bytes_cut"] == self.cut

    def write(self, store):
        """Of everything something, also over what is there."""

        def put(key, value, ttl=None):
            store.put(key, value, ttl=ttl)
            self.items[key] = (value, store._expiry_of(key) or 0)
            self.expired.pop(key, None)

        old = sorted(self.items)
        put(b"new", b"value")
        put(b"new and expiring", b"value", ttl=100_000)
        for key in list(self.expired)[:1]:
            assert not store.expire(key, 1000)
            put(key, b"back again")
        for key in old[:2]:
            put(key, b"written over")
        for key in old[2:4]:
            assert store.delete(key)
            del self.items[key]
        for key in old[4:6]:
            assert store.expire(key, 200_000)
            self.items[key] = (self.items[key][0], store._expiry_of(key))
        for key in old[6:8]:
            assert store.persist(key)
            self.items[key] = (self.items[key][0], 0)
        with store.batch() as batch:
            batch.put(b"of a batch", b"1" * 5000)
            batch.delete(b"new")
        self.items[b"of a batch"] = (b"1" * 5000, 0)
        del self.items[b"new"]


def as_items(expected):
    """{key: (value, expiry)} of what stands in a case's file."""
    result = {}
    for key, (value, expiry) in expected.items():
        text = value if isinstance(value, str) else value[0] * value[1]
        result[key.encode("latin-1")] = (text.encode("latin-1"), expiry)
    return result


@pytest.fixture(params=CASES, ids=str)
def golden(request, tmp_path):
    return Golden(request.param, tmp_path / "store")


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_none_is_missing():
    cases = runpy.run_path(str(GOLDEN / "make.py"))["CASES"]
    names = {Path(f"v{version}", case.__name__) for version, of_it in cases.items() for case in of_it}
    assert names == set(CASES)
    assert all((GOLDEN / case).with_suffix(".tar.gz").exists() for case in CASES)


def test_it_decodes(golden):
    """By the decoder of test_format.py."""
    if golden.cut:
        pytest.skip("a torn tail is the engine's to judge")
    identity, segments = read_store(golden.folder)
    assert replay_all(segments, newest_checkpoint(golden.folder)) == {**golden.items, **golden.expired}
    assert golden.version >= max(identity.version, *(segment.version for segment in segments))


def test_it_is_read(golden, open_store):
    before = files(golden.folder)
    store = open_store(golden.folder, read_only=True)
    golden.check(store)
    golden.check_recovery(store)
    store.close()
    assert files(golden.folder) == before


def test_it_is_written_on(golden, open_store):
    version = read_identity(golden.folder).version
    store = open_store(golden.folder)
    golden.check(store)
    golden.check_recovery(store)
    assert not {*golden.remaining} - {"spare.log"} & {path.name for path in golden.folder.iterdir()}
    golden.write(store)
    golden.check(store)
    store.close()

    identity, segments = read_store(golden.folder)
    assert identity.version == version and segments[-1].version == VERSION
    older = [frame for segment in segments if segment.version < VERSION for frame in segment.frames]
    assert all(key != b"new" for frame in older for _, _, key, *_ in frame.records())
    decoded = replay_all(segments, newest_checkpoint(golden.folder))
    assert {key: item for key, item in decoded.items() if key not in golden.expired} == golden.items

    store = open_store(golden.folder)
    golden.check(store)
    assert store.recovery["clean"]
    store.checkpoint()
    store["behind"] = "the checkpoint"
    golden.items[b"behind"] = (b"the checkpoint", 0)
    golden.check(store)
    store.close()

    store = open_store(golden.folder, preload=True)
    assert store.recovery["checkpoint_items"] >= len(golden.items) - 1
    # And what had expired, when it was swept behind the checkpoint.
    assert 1 <= store.recovery["records"] <= 1 + len(golden.expired)
    golden.check(store)
    store.close()
    _, segments = read_store(golden.folder)
    assert all(segment.version == VERSION for segment in segments)


def test_it_is_only_opened_and_closed(golden, open_store):
    """Twice, without a write: a segment of version 1 takes marks and closing frames, and nothing newer."""
    for _ in range(2):
        store = open_store(golden.folder)
        golden.check(store)
        store.close()
    _, segments = read_store(golden.folder)
    if golden.version == 1:
        assert {segment.version for segment in segments} == {1}
        assert all(r[0] < 4 and not r[4] for s in segments for f in s.frames for r in f.records())
    store = open_store(golden.folder)
    assert store.recovery["clean"]
    golden.check(store)


def test_a_store_of_version_1_takes_a_checkpoint_at_once(open_store, tmp_path):
    """Without any commit of version 2 before it."""
    golden = Golden(Path("v1", "rotated"), tmp_path / "store")
    store = open_store(golden.folder)
    store.checkpoint()
    golden.check(store)
    store.close()
    assert newest_checkpoint(golden.folder).items == golden.items
    store = open_store(golden.folder)
    golden.check(store)
    golden.write(store)
    store.close()
    golden.check(open_store(golden.folder))


def test_a_backup_of_a_store_of_version_1(open_store, tmp_path):
    golden = Golden(Path("v1", "killed"), tmp_path / "store")
    store = open_store(golden.folder)
    store.backup(tmp_path / "copy")
    golden.write(store)
    store.close()
    copy = Golden(Path("v1", "killed"), tmp_path / "again")
    copy.check(open_store(tmp_path / "copy"))
    assert read_identity(tmp_path / "copy").version == VERSION


def test_it_is_found_in_order(golden):
    """A torn tail is no damage."""
    before = files(golden.folder)
    report = pykv.check(golden.folder)
    assert report.ok and not report.problems, report
    assert files(golden.folder) == before


def test_it_is_repaired(golden, tmp_path, open_store):
    report = pykv.repair(golden.folder, tmp_path / "repaired")
    assert report.ok and not report.problems, report
    golden.check(open_store(tmp_path / "repaired"))
