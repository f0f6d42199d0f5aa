"""CPython's own tests of the mapping protocol, where the interpreter ships them."""

import pytest

import pykv

mapping_tests = pytest.importorskip(
    "test.mapping_tests", reason="this Python installation does not ship test.mapping_tests"
)


class TestMappingProtocol(mapping_tests.BasicTestMappingProtocol):
    """Keys and values are bytes: the reference's own are text and tuples."""

    options = {}

    def _reference(self):
        return {b"1": b"2", b"key1": b"value1", b"key2": b"1 2 3"}

    def _empty_mapping(self):
        store = pykv.open(**self.options)
        self.addCleanup(store.close)
        self.addCleanup(lambda: store.closed or store._verify())
        return store


class TestMappingProtocolReleasingTheGIL(TestMappingProtocol):
    options = {"gil": "release"}


class TestMappingProtocolOnDisk(TestMappingProtocol):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path):
        self.place = tmp_path
        self.count = 0

    def _empty_mapping(self):
        self.count += 1
        store = pykv.open(self.place / str(self.count), sync="never")
        self.addCleanup(store.close)
        self.addCleanup(lambda: store.closed or store._verify())
        return store


class TestMappingProtocolOnRedis(TestMappingProtocol):
    """With one store for all: the tests use one at a time."""

    kind = "redis-server"

    @pytest.fixture(autouse=True)
    def _connection(self, connect_to):
        self.store = connect_to(self.kind)

    def _empty_mapping(self):
        self.store.clear()
        return self.store


class TestMappingProtocolOnPykvsServer(TestMappingProtocolOnRedis):
    kind = "pykv-server"
