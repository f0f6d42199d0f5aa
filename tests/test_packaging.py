"""What is shipped: a source distribution from which the package builds, and its metadata."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import pykv

ROOT = Path(__file__).resolve().parent.parent
BUILT = (
    ".git",
    ".hypothesis",
    ".pytest_cache",
    ".mypy_cache",
    "__pycache__",
    "build",
    "dist",
    "*.egg-info",
    "*.so",
)


def run(command, cwd):
    done = subprocess.run(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(kind, tree, target):
    """Calls the build backend, as pip does; gives the path of what it made."""
    target.mkdir()
    code = f"import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])"
    run([sys.executable, "-c", code, str(target)], tree)
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the repository: nothing is built in the repository itself."""
    copy = tmp_path_factory.mktemp("tree") / "pykv"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*BUILT))
    return copy


@pytest.fixture(scope="module")
def sdist(tree, tmp_path_factory):
    """The source distribution, unpacked."""
    made = build("sdist", tree, tmp_path_factory.mktemp("sdist") / "out")
    folder = tmp_path_factory.mktemp("unpacked")
    run(["tar", "-xf", str(made)], folder)
    (root,) = folder.iterdir()
    return root


def files(root, *tops):
    return {
        path.relative_to(root).as_posix()
        for top in tops
        for path in root.joinpath(top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_source_distribution_is_complete(tree, sdist):
    tops = ("csrc", "pykv", "tests", "benchmarks")
    assert files(sdist, *tops) == files(tree, *tops)
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "setup.py", ".ci/run"):
        assert (sdist / name).read_bytes() == (tree / name).read_bytes()


@pytest.mark.slow
def test_a_wheel_built_from_the_source_distribution_works(sdist, tmp_path):
    wheel = build("wheel", sdist, tmp_path / "wheel")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    names = {path.name for path in installed.joinpath("pykv").iterdir()}
    assert {"_core.pyi", "py.typed", "cli.py"} <= names
    (core,) = [name for name in names if re.fullmatch(r"_core\..*\.so", name)]
    assert not [path.name for path in installed.iterdir() if not path.name.startswith("pykv")]
    code = """if True:
        import pykv
        with pykv.open("store") as db:
            db["key"] = "value"
        with pykv.open("store", create=False) as db:
            assert db["key"] == b"value"
        print(pykv._core.__file__)
    """
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert Path(out.strip()) == installed / "pykv" / core


def test_one_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", pykv.__version__)
    assert (
        re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
        == pykv.__version__
    )


def test_the_installed_metadata():
    try:
        installed = metadata.distribution("pykv")
    except metadata.PackageNotFoundError:
        pytest.skip("pykv is not installed, but built in place")
    assert installed.version == pykv.__version__
    assert all("extra ==" in requirement for requirement in installed.requires or [])
    (command,) = installed.entry_points.select(group="console_scripts")
    assert (command.name, command.value) == ("pykv", "pykv.cli:main")
    assert callable(command.load())


def test_only_the_module_is_exported():
    """The C core is hidden: otherwise two modules in a process could take each other's functions."""
    if not shutil.which("nm"):
        pytest.skip("needs nm")
    symbols = run(["nm", "--dynamic", "--defined-only", "--extern-only", pykv._core.__file__], ROOT)
    names = {line.split()[-1] for line in symbols.splitlines()}
    assert {
        name for name in names if not name.startswith(("_init", "_fini", "__", "_edata", "_end"))
    } == {"PyInit__core"}


def test_the_ci_script_is_a_valid_executable():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    run(["bash", "-n", str(script)], ROOT)
