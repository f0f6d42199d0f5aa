"""A clean run in Python's development mode, and the one warning that is meant."""

import sysconfig
import warnings

import pytest

import pykv

TOUR = """
    import datetime, gc, io, shutil, socket, sys, threading, pykv

    def look(done, total):
        pass

    def upkeep(store):
        store.put("t", "v", ttl=50), store.put("u", "v", ttl=datetime.timedelta(1), sync=True)
        store.put_many({"x": "1"}, ttl=0.001), store.ttl("t"), store.expire("t", 5.5), store.persist("t")
        with store.batch(sync=True) as batch:
            batch.put("u", "w", 50), batch.expire("t", 60), batch.persist("u")
            batch.put_many({"a": "1"}), batch.delete_many(["b"])
        store.checkpoint(progress=look), store.preload(progress=look)
        store.backup(sys.argv[1] + ".copy", progress=look)
        pykv.restore(sys.argv[1] + ".copy", sys.argv[1] + ".restored", progress=look)
        pykv.check(sys.argv[1] + ".copy", progress=look)
        pykv.repair(sys.argv[1] + ".copy", sys.argv[1] + ".repaired", progress=look)
        for made in (".copy", ".restored", ".repaired"):
            shutil.rmtree(sys.argv[1] + made)
        for format in ("jsonl", "redis"):
            file = io.BytesIO()
            pykv.dump(store, file, format=format, progress=look)
            file.seek(0)
            pykv.load(store, file)
        with pykv.serve(store, port=0) as server:
            with socket.create_connection(server.address) as client:
                client.sendall(b"PING\\r\\n")
                assert client.recv(100) == b"+PONG\\r\\n"
            repr(server), server.url, server.running, server._figures(), server.wait(0)
        for bad in (lambda: store.put("k", "v", ttl="5"), lambda: store.expire("k", -1), lambda: store.ttl("none"),
                    lambda: pykv.check(sys.argv[1] + ".none"), lambda: pykv.load(store, io.BytesIO(b"{")),
                    lambda: store.checkpoint(progress=5), lambda: pykv.serve(store, port=-1)):
            try:
                bad()
            except (KeyError, TypeError, ValueError, pykv.Error):
                pass
            else:
                raise SystemExit("no error?")

    def tour(store):
        store["a"] = "1"
        store.put(b"b", bytearray(b"2" * 5000), sync=True)
        store.put_many({str(i): "v" * i for i in range(300)})
        store.update(c="3")
        assert store.get("a") == store["a"] == store.view("a") == b"1"
        store.get_many(["a", "none"])
        with store.batch() as batch:
            batch.put("d", "4")
            batch.delete("a")
        store.incr("n")
        store.replace("n", "5", expected="1")
        store.setdefault("e", "6")
        store.pop("e"), store.pop("e", None), store.popitem()
        store.delete("b"), store.delete_many(["c", "d"])
        list(store), list(store.keys()), list(store.values()), list(store.items())
        len(store), "x" in store, repr(store), store == {}, bool(store)
        store.sync(), store.stats(), store.recovery, store.path, store.closed, store._verify()
        store["no number"] = "v"
        for bad in (lambda: store["none"], lambda: store.put(5, 5), lambda: store.incr("no number"), lambda: store.view("none"),
                    lambda: store.put("k" * 65536, ""), lambda: store.get("\\ud800"), lambda: store.get_many(5)):
            try:
                bad()
            except (KeyError, TypeError, ValueError):
                pass
            else:
                raise SystemExit("no error?")
        threads = [threading.Thread(target=store.put, args=(str(i), "v")) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        walk = iter(store.items())
        next(walk)
        store.clear()

    for path in (None, sys.argv[1]):
        for gil in ("auto", "release"):
            for mode in ("always", "interval", "never"):
                with pykv.open(path, sync=mode, gil=gil) as store:
                    tour(store)
                    if mode == "never":
                        upkeep(store)
    del store
    gc.collect()
"""


@pytest.mark.parametrize("malloc", ["debug"] if sysconfig.get_config_var("Py_GIL_DISABLED") else ["debug", "malloc_debug"])
def test_development_mode_has_nothing_to_say(script, path, malloc):
    """-X dev: debug allocators, assertions, every warning an error."""
    out, err = script.run(TOUR, path, options=("-X", "dev", "-W", "error", "-X", "faulthandler"), env={"PYTHONMALLOC": malloc})
    assert (out, err) == ("", "")


def test_optimized_mode(script, path):
    script.run(TOUR, path, options=("-OO",))


def test_an_unclosed_store_warns_with_its_name(path):
    store = pykv.open(path)
    with pytest.warns(ResourceWarning) as caught:
        del store
    assert len(caught) == 1
    assert str(path) in str(caught[0].message)


def test_an_unclosed_store_in_memory_loses_nothing_that_was_promised():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = pykv.open()
        store["k"] = "v"
        del store


def test_the_warning_as_an_error_closes_all_the_same(script, path):
    _, err = script.run(
        """
        import sys, pykv
        store = pykv.open(sys.argv[1])
        store["k"] = "v"
        del store
        with pykv.open(sys.argv[1], sync="never") as store:  # other options: the first one is closed
            assert store["k"] == b"v"
        """,
        path,
        options=("-W", "error"),
    )
    assert "ResourceWarning" in err
