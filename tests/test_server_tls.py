"""TLS: handshakes, requests of any size, what is refused at the start and by clients."""

import shutil
import socket
import ssl
import subprocess

import pytest
from serving import PATIENCE, Raw, request, wait_until
from test_server import run_serve

import pykv


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two pairs of certificate and key, self-signed for localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("tls")
    for name in ("a", "b"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
            + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
            + ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"],
            check=True,
            capture_output=True,
        )
    return folder


@pytest.fixture
def store(files):
    with pykv.open() as store:
        try:
            pykv.serve(store, port=0, tls_cert=files / "a.crt", tls_key=files / "a.key").stop()
        except ValueError as error:
            if "no TLS" not in str(error):
                raise
            pytest.skip(str(error))
        yield store


def connect(server, files, **options):
    context = ssl.create_default_context(cafile=files / "a.crt")
    for name, value in options.items():
        setattr(context, name, value)
    raw = Raw(server.address)
    raw.socket = context.wrap_socket(raw.socket, server_hostname="localhost")
    raw.socket.settimeout(PATIENCE)
    return raw


def test_requests(store, files):
    options = {"tls_cert": files / "a.crt", "tls_key": files / "a.key", "threads": 2}
    with pykv.serve(store, port=0, **options) as server:
        assert server.url.startswith("rediss://")
        with connect(server, files) as raw, connect(server, files) as other:
            value = b"x" * 30_000_000
            raw.send(request("SET", "big", value) + request("STRLEN", "big"))
            assert raw.reply() == b"OK" and raw.reply() == len(value)
            assert other.ask("GET", "big") == value
            raw.send(b"".join(request("INCR", "n") for _ in range(5000)))
            assert [raw.reply() for _ in range(5000)] == list(range(1, 5001))


def test_redis_client(store, files):
    redis = pytest.importorskip("redis")
    with pykv.serve(store, port=0, tls_cert=files / "a.crt", tls_key=files / "a.key") as server:
        client = redis.Redis.from_url(server.url, ssl_ca_certs=str(files / "a.crt"))
        assert client.set("a", "b") and client.get("a") == b"b"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_and_plain_text_are_refused(store, files):
    with pykv.serve(store, port=0, tls_cert=files / "a.crt", tls_key=files / "a.key") as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
            context.wrap_socket(socket.create_connection(server.address, PATIENCE))
        with Raw(server.address) as plain:
            plain.send(b"PING\r\n")
            assert plain.at_end() and b"PONG" not in plain.rest
        with connect(server, files) as raw:
            assert raw.ask("PING") == b"PONG"


def test_silent_handshake_times_out(store, files):
    options = {"tls_cert": files / "a.crt", "tls_key": files / "a.key", "request_timeout": 1}
    with pykv.serve(store, port=0, **options) as server, Raw(server.address) as silent:
        assert silent.at_end()
        wait_until(lambda: server._figures()["clients"] == 0)


def test_clients_must_have_a_certificate(store, files):
    options = {"tls_cert": files / "a.crt", "tls_key": files / "a.key", "tls_ca": files / "b.crt"}
    with pykv.serve(store, port=0, **options) as server:
        context = ssl.create_default_context(cafile=files / "a.crt")
        context.load_cert_chain(files / "b.crt", files / "b.key")
        raw = Raw(server.address)
        raw.socket = context.wrap_socket(raw.socket, server_hostname="localhost")
        assert raw.ask("PING") == b"PONG"
        raw.close()
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            with connect(server, files) as without:
                without.ask("PING")


def test_files_that_do_not_fit(store, files):
    for options, text in (
        ({"tls_cert": files / "a.crt", "tls_key": files / "b.key"}, "key"),
        ({"tls_cert": files / "missing", "tls_key": files / "a.key"}, "certificate"),
        ({"tls_cert": files / "a.crt"}, "together"),
    ):
        with pytest.raises(ValueError, match=text):
            pykv.serve(store, port=0, **options)
    done = run_serve("--memory", "--port", 0, "--tls-cert", files / "a.crt", "--tls-key", files / "b.key")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "key" in done.stderr
