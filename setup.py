"""Builds pykv._core from every C file under csrc/. Metadata is in pyproject.toml."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup

FOLDERS = ("base", "os", "engine", "server", "python")

sources = sorted(str(p) for folder in FOLDERS for p in Path("csrc", folder).glob("*.c"))
headers = sorted(str(p) for p in Path("csrc").rglob("*.h"))

# -O2 whatever the interpreter was built with; extra flags (sanitizers, debug builds) come last.
flags = ["-std=c11", "-O2", "-fvisibility=hidden", "-pthread"]
flags += os.environ.get("PYKV_CFLAGS", "").split()

TLS_PROBE = """
#include <openssl/ssl.h>
int main(void) { return SSL_CTX_new(TLS_server_method()) == 0; }
"""


def find_tls():
    """(compiler flags, linker flags) with which a few lines of OpenSSL build; None if none do."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    candidates = [([], ["-lssl", "-lcrypto"])]
    try:
        found = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "openssl"], capture_output=True, text=True, check=True
        ).stdout.split()
        libraries = [f for f in found if f.startswith(("-l", "-L"))]
        candidates.insert(0, ([f for f in found if f not in libraries], libraries))
    except (OSError, subprocess.CalledProcessError):
        pass
    for compile_flags, link_flags in candidates:
        with tempfile.TemporaryDirectory() as folder:
            source, program = Path(folder, "probe.c"), Path(folder, "probe")
            source.write_text(TLS_PROBE)
            command = [*compiler, *compile_flags, str(source), "-o", str(program), *link_flags]
            try:
                if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                    return compile_flags, link_flags
            except OSError:
                break
    return None


version = re.search(r'__version__ = "(.+)"', Path("pykv", "__init__.py").read_text()).group(1)
macros = [("PYKV_VERSION", f'"{version}"')]  # what INFO tells
if sys.platform != "darwin":
    macros.append(("_GNU_SOURCE", "1"))
link_flags = ["-pthread", "-lm"]
# PYKV_TLS=0: build without, as where OpenSSL is missing.
tls = find_tls() if os.environ.get("PYKV_TLS") != "0" else None
if tls is None:
    print("pykv: OpenSSL was not found, the server is built without TLS")
else:
    macros.append(("KV_TLS", "1"))
    flags += tls[0]
    link_flags += tls[1]

setup(
    # Always compile: what lies in build/ may be of other flags, and setuptools would not notice.
    options={"build_ext": {"force": True}},
    ext_modules=[
        Extension(
            "pykv._core",
            sources=sources,
            depends=headers,
            include_dirs=["csrc"],
            define_macros=macros,
            extra_compile_args=flags,
            extra_link_args=[*link_flags, *os.environ.get("PYKV_LDFLAGS", "").split()],
        )
    ],
)
