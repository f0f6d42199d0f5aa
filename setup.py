"""Builds pykv._core from every C file under csrc/. Metadata is in pyproject.toml."""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

FOLDERS = ("base", "os", "engine", "server", "python")

sources = sorted(str(p) for folder in FOLDERS for p in Path("csrc", folder).glob("*.c"))
headers = sorted(str(p) for p in Path("csrc").rglob("*.h"))

# -O2 whatever the interpreter was built with; extra flags (sanitizers, debug builds) come last.
flags = ["-std=c11", "-O2", "-fvisibility=hidden", "-pthread"]
flags += os.environ.get("PYKV_CFLAGS", "").split()

setup(
    # Always compile: what lies in build/ may be of other flags, and setuptools would not notice.
    options={"build_ext": {"force": True}},
    ext_modules=[
        Extension(
            "pykv._core",
            sources=sources,
            depends=headers,
            include_dirs=["csrc"],
            define_macros=[] if sys.platform == "darwin" else [("_GNU_SOURCE", "1")],
            extra_compile_args=flags,
            extra_link_args=["-pthread", *os.environ.get("PYKV_LDFLAGS", "").split()],
        )
    ],
)
