"""Several interpreters in one process share a store by its path."""

import sys
import textwrap

import pytest

import pykv
from conftest import python_environment

try:
    import _interpreters as interpreters  # 3.13
except ImportError:
    interpreters = pytest.importorskip(
        "_xxsubinterpreters", reason="this Python has no subinterpreters to use from Python"
    )


def run_in(interpreter, source, **names):
    """Runs the source there; a failure here is an exception."""
    head = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    result = interpreters.run_string(interpreter, head + textwrap.dedent(source))
    assert result is None, getattr(result, "formatted", result)


def created():
    """A new one that finds what the tests find."""
    paths = python_environment()["PYTHONPATH"].split(":")
    new = interpreters.create()
    run_in(new, f"import sys; sys.path[:0] = {paths!r}")
    return new


@pytest.fixture
def interpreter():
    new = created()
    yield new
    interpreters.destroy(new)


def test_a_store_of_its_own(interpreter, tmp_path):
    run_in(
        interpreter,
        """
        import pykv
        with pykv.open() as memory:
            memory["k"] = "v"
            assert memory["k"] == b"v"
        with pykv.open(path) as store:
            store.put_many({str(i): "v" for i in range(1000)})
            store._verify()
        """,
        path=str(tmp_path / "store"),
    )
    with pykv.open(tmp_path / "store") as store:
        assert len(store) == 1000


def test_two_interpreters_share_one_store(interpreter, disk):
    store = disk.open()
    store[b"k"] = b"from main"
    run_in(
        interpreter,
        """
        import pykv
        store = pykv.open(path, sync=sync)
        assert store["k"] == b"from main"
        store["k"] = "from the other"
        assert store.incr("n") == 1
        assert store.stats()["handles"] == 2
        """,
        path=str(disk.path),
        sync=disk.options["sync"],
    )
    assert store[b"k"] == b"from the other"
    assert store.incr(b"n") == 2
    run_in(interpreter, "assert store['n'] == b'2'; store.close()")
    assert store.stats()["handles"] == 1
    store[b"l"] = b"w"


def test_exceptions_are_each_interpreters_own(interpreter, tmp_path):
    run_in(
        interpreter,
        """
        import pykv
        store = pykv.open()
        store.close()
        try:
            store.get("k")
        except pykv.ClosedError:
            pass
        try:
            pykv.open(path, create=False)
        except pykv.StorageError as error:
            assert error.errno
        """,
        path=str(tmp_path / "none"),
    )
    with pytest.raises(pykv.StorageError):
        pykv.open(tmp_path / "none", create=False)


def test_an_interpreter_that_ends_with_an_open_store(disk):
    store = disk.open()
    for i in range(5):
        other = created()
        run_in(
            other,
            """
            import pykv
            store = pykv.open(path, sync=sync)
            store[str(number)] = "v"
            walk = iter(store.items())
            next(walk)
            """,
            path=str(disk.path),
            sync=disk.options["sync"],
            number=i,
        )
        interpreters.destroy(other)
        assert store[b"%d" % i] == b"v"
    assert store.stats()["handles"] == 1
    store._verify()


def test_an_interpreter_that_ends_with_a_running_server(disk):
    """Its clients are told, its port is free, and the other handles on the store go on."""
    from servers import free_port
    from serving import Raw

    if not hasattr(pykv, "serve"):
        pytest.skip("this build has no server")
    port = free_port()
    store = disk.open()
    for number in range(3):
        other = created()
        run_in(
            other,
            """
            import pykv
            store = pykv.open(path, sync=sync)
            server = pykv.serve(store, port=port)
            """,
            path=str(disk.path),
            sync=disk.options["sync"],
            port=port,
        )
        with Raw(("127.0.0.1", port)) as raw:
            assert raw.ask("INCR", "n") == number + 1
            interpreters.destroy(other)
            assert raw.at_end()
    assert store == {b"n": b"3"} and store.stats()["handles"] == 1


def test_the_module_survives_its_reimport(script):
    """Multi-phase init: a second module object is a second module, and both work."""
    script.run(
        """
        import sys
        import pykv
        first = pykv.open()
        first["k"] = "v"
        for name in [name for name in sys.modules if name.startswith("pykv")]:
            del sys.modules[name]
        import pykv as again
        assert again is not pykv
        second = again.open()
        second["k"] = "w"
        assert (first["k"], second["k"]) == (b"v", b"w")
        first.close()
        try:
            first.get("k")
        except pykv.ClosedError:
            pass
        second.close()
        """
    )


@pytest.mark.skipif(sys.version_info < (3, 12), reason="interpreters with a GIL of their own came with 3.12")
def test_interpreters_with_a_gil_each_at_work_at_once(disk):
    """One thread per interpreter, in parallel, on one store: the sum is exact."""
    import threading

    paths = python_environment()["PYTHONPATH"].split(":")
    store = disk.open()
    source = textwrap.dedent(
        f"""
        import sys
        sys.path[:0] = {paths!r}
        import pykv
        store = pykv.open({str(disk.path)!r}, sync={disk.options["sync"]!r})
        for i in range(200):
            store.incr("n")
            store.put_many({{f"{{i}} {{j}}": "v" for j in range(20)}})
        store.close()
        """
    )
    others = [interpreters.create() for _ in range(3)]
    errors = []

    def work(other):
        try:
            run_in(other, source)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        interpreters.destroy(other)
    assert errors == []
    assert store[b"n"] == b"600"
    assert len(store) == 4001
