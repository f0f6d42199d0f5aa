"""The `pykv` command.

Exit codes: 0 done; 1 there is no such key (or `check` or `repair` found a problem, or `demo` a
loss); 2 an error, with one line `pykv: ...` on standard error; 130 interrupted; 141 the reader of
standard output went away.

STORE is a store's directory, or the URL of a server that speaks the Redis protocol (see
`pykv.connect`); its password may be in the URL, or in the environment as PYKV_PASSWORD or
REDISCLI_AUTH, which other users of the machine cannot see.

Keys and values are bytes: those of the arguments are taken as the shell passed them, those
printed are printed raw. With --json a key or value is a string when it is UTF-8, and otherwise an
object {"base64": "..."}.
"""

import argparse
import base64
import contextlib
import errno
import json
import os
import sys
import warnings

import pykv
from pykv import cli_serve, streams

EXIT_OK, EXIT_MISSING, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_PIPE = 0, 1, 2, 130, 141
EXIT_PROBLEM = 1


def main(argv=None):
    """Runs one command; gives the exit code. `argv`: the arguments, by default the process's."""
    try:
        arguments = _parser().parse_args(argv)
        with _warnings_in_one_line():
            code = arguments.command(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return EXIT_PIPE
    except (pykv.Error, OSError, ValueError, OverflowError, MemoryError, ImportError) as error:
        _abandon_stdout()
        _complain(_describe(error))
        return EXIT_ERROR


# ---- Commands ----------------------------------------------------------------------------------


def _put(arguments):
    value = arguments.value
    if value == b"-":
        value = b"".join(streams.blocks(_binary(sys.stdin)))
    sync = arguments.sync
    if not _is_url(arguments.store):
        with pykv.open(arguments.store, sync=sync or "always") as store:
            store.put(arguments.key, value, ttl=arguments.ttl)
        return EXIT_OK
    if sync in ("interval", "never"):
        raise ValueError(f"--sync {sync} is for a store's directory: a server has its own mode")
    with _connect(arguments.store) as store:
        store.put(arguments.key, value, ttl=arguments.ttl, sync=True if sync else None)
    return EXIT_OK


def _get(arguments):
    with _open_to_read(arguments) as store:
        value = store.get(arguments.key)
    if value is None:
        return _missing(arguments)
    if arguments.json:
        _print_json({"key": _text(arguments.key), "value": _text(value)})
    else:
        with _output() as write:
            write(value + b"\n" if sys.stdout.isatty() else value)
    return EXIT_OK


def _delete(arguments):
    with _open_to_write(arguments) as store:
        found = store.delete(arguments.key)
    return EXIT_OK if found else _missing(arguments)


def _ttl(arguments):
    with _open_to_read(arguments) as store:
        try:
            seconds = store.ttl(arguments.key)
        except KeyError:
            return _missing(arguments)
    if arguments.json:
        _print_json({"key": _text(arguments.key), "ttl": seconds})
    else:
        print("never" if seconds is None else f"{seconds:.3f}")
    return EXIT_OK


def _expire(arguments):
    with _open_to_write(arguments) as store:
        found = store.expire(arguments.key, arguments.seconds)
    return EXIT_OK if found else _missing(arguments)


def _persist(arguments):
    with _open_to_write(arguments) as store:
        found = store.persist(arguments.key)
    return EXIT_OK if found else _missing(arguments)


def _incr(arguments):
    with _open_to_write(arguments, create=True) as store:
        number = store.incr(arguments.key, arguments.by)
    print(number)
    return EXIT_OK


def _keys(arguments):
    with _open_to_read(arguments) as store:
        keys = [key for key in store if key.startswith(arguments.prefix)]
    # The store is closed by now: whoever reads the keys through a pipe may open it.
    if arguments.json:
        for key in keys:
            _print_json(_text(key))
        return EXIT_OK
    with _output() as write:
        for key in keys:
            write(key + b"\n")
    return EXIT_OK


def _stats(arguments):
    with _open_to_read(arguments) as store:
        figures = dict(store.stats())
        if not _is_url(arguments.store):
            figures["recovery"] = store.recovery
    if arguments.json:
        _print_json(figures)
        return EXIT_OK
    figures.pop("info", None)  # of a server: a hundred lines
    recovery = figures.pop("recovery", {})
    figures.update((f"recovery.{name}", value) for name, value in recovery.items())
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {_figure(value)}")
    return EXIT_OK


def _checkpoint(arguments):
    with _open_to_write(arguments) as store, _progress("checkpoint") as progress:
        store.checkpoint(progress=progress)
    return EXIT_OK


def _backup(arguments):
    _demand_directories("backup", arguments.store, arguments.dest)
    with _open_to_read(arguments) as store, _progress("backup") as progress:
        store.backup(arguments.dest, progress=progress)
    return EXIT_OK


def _restore(arguments):
    _demand_directories("restore", arguments.backup, arguments.dest)
    with _progress("restore") as progress:
        pykv.restore(arguments.backup, arguments.dest, progress=progress)
    return EXIT_OK


def _check(arguments):
    _demand_directories("check", arguments.store)
    with _progress("check") as progress:
        report = pykv.check(arguments.store, progress=progress)
    if arguments.json:
        _print_json(_report_fields(report))
    else:
        _print_problems(report)
        print(
            f"{report.problem_count:,} problems; read {report.bytes_read:,} bytes in "
            f"{report.files:,} files: {report.entries:,} keys in the checkpoint, "
            f"{report.records:,} records in the log"
        )
    return EXIT_OK if report.ok else EXIT_PROBLEM


def _repair(arguments):
    _demand_directories("repair", arguments.source, arguments.dest)
    with _progress("repair") as progress:
        report = pykv.repair(arguments.source, arguments.dest, progress=progress)
    if arguments.json:
        suspects = [_text(key) for key in report.suspects]
        _print_json({**_report_fields(report), "suspects": suspects})
    else:
        _print_problems(report)
        for key in report.suspects:
            print(_line(f"may be lost or outdated: {os.fsdecode(key)}"))
        _print_more(report.suspect_count - len(report.suspects), "such keys")
        print(f"{report.problem_count:,} problems; saved {report.items:,} keys")
    return EXIT_OK if report.ok else EXIT_PROBLEM


def _dump(arguments):
    to_stdout = arguments.file == "-"
    on_screen = to_stdout and sys.stdout is not None and sys.stdout.isatty()
    with _open_to_read(arguments) as store, _progress("dump", not on_screen) as progress:
        file = _binary(sys.stdout) if to_stdout else arguments.file
        pykv.dump(store, file, format=arguments.format, progress=progress)
    return EXIT_OK


def _load(arguments):
    file = _binary(sys.stdin) if arguments.file == "-" else arguments.file
    with _open_to_write(arguments, create=True) as store, _progress("load") as progress:
        try:
            report = pykv.load(store, file, partial=arguments.partial, progress=progress)
        except pykv.LoadError as error:
            if error.report is None:
                raise
            raise pykv.LoadError(
                f"{error}; {error.report.items:,} items before it are loaded"
            ) from None
    if arguments.json:
        _print_json(report._asdict())
    else:
        print(f"{report.items:,} items loaded, {report.expired:,} had expired")
    return EXIT_OK


def _demo(arguments):
    from pykv import demo  # only here: nothing else needs it

    a = arguments
    return demo.main(a.dir, a.threads, a.kills, a.limit, a.keep, a.json)


# ---- Arguments ---------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Reports a usage error in one line, like every other error."""

    def error(self, message):
        _complain(f"{message} (see: {self.prog} --help)")
        raise SystemExit(EXIT_ERROR)


def _parser():
    parser = _Parser(prog="pykv", description="An embedded, durable, in-memory key-value store.")
    parser.add_argument("--version", action="version", version=f"pykv {pykv.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name, command, text, *positionals, json_text=None):
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=command)
        for positional in positionals:
            name = positional.strip("[]")
            optional = {"nargs": "?", "default": "-"} if name != positional else {}
            sub.add_argument(
                name.lower(), metavar=name, type=_KINDS.get(name, str), help=_HELP[name], **optional
            )
        if json_text:
            sub.add_argument("--json", action="store_true", help=json_text)
        return sub

    as_json = 'print JSON; bytes that are not UTF-8 appear as {"base64": "..."}'
    put = add("put", _put, "store a value under a key", "STORE", "KEY", "VALUE")
    put.add_argument(
        "--sync",
        choices=("always", "interval", "never"),
        help="open the store in this mode (default: always); closing it syncs in any case. On a "
        "server: always is an error where it does not promise that",
    )
    put.add_argument(
        "--ttl", type=_seconds, metavar="SECONDS", help="let it expire after so many seconds"
    )
    add("get", _get, "print the value of a key", "STORE", "KEY", json_text=as_json)
    add("delete", _delete, "delete a key", "STORE", "KEY")
    text = "print the keys, one a line, in no particular order"
    keys = add("keys", _keys, text, "STORE", json_text=as_json)
    keys.add_argument(
        "--prefix", type=os.fsencode, default=b"", help="only keys that begin with these bytes"
    )
    text = "print how many seconds a key has left, or never"
    add("ttl", _ttl, text, "STORE", "KEY", json_text='print JSON; "ttl" is null for never')
    add("expire", _expire, "let a key expire after so many seconds", "STORE", "KEY", "SECONDS")
    add("persist", _persist, "let a key never expire", "STORE", "KEY")
    text = "add to the integer stored under a key, 0 when there is none, and print the result"
    incr = add("incr", _incr, text, "STORE", "KEY")
    incr.add_argument("--by", type=int, default=1, metavar="N", help="how much (default: 1)")
    add("stats", _stats, "print figures about a store", "STORE", json_text="print them as JSON")

    text = "write the whole state into one file, from which the next open starts"
    add("checkpoint", _checkpoint, text, "STORE")
    add("backup", _backup, "copy a store into a new directory", "STORE", "DEST")
    text = "check a backup, and copy it into a new directory"
    add("restore", _restore, text, "BACKUP", "DEST")
    text = "read all of a store and print each problem; exits with 1 when there are any"
    add("check", _check, text, "STORE", json_text="print the report as JSON")
    text = (
        "write what is whole in a damaged store into a new directory, and print what is lost; "
        "exits with 1 when there were problems"
    )
    add("repair", _repair, text, "SOURCE", "DEST", json_text="print the report as JSON")
    dump = add("dump", _dump, "write all items to a file, as text", "STORE", "[FILE]")
    dump.add_argument(
        "--format",
        choices=("jsonl", "redis"),
        default="jsonl",
        help="JSON Lines, or commands that redis-cli --pipe accepts (default: jsonl)",
    )
    text = "put the items of a file, JSON Lines or Redis commands, into a store; all or nothing"
    load = add("load", _load, text, "STORE", "[FILE]", json_text="print the report as JSON")
    load.add_argument(
        "--partial", action="store_true", help="if there is an error, put what stands before it"
    )

    text = "serve a store to other processes by the Redis protocol"
    cli_serve.add_arguments(add("serve", cli_serve.run, text))

    demo = add(
        "demo",
        _demo,
        "load the words of Python's own library from many threads, kill the loading process "
        "again and again, and check that no acknowledged write is lost",
        json_text="print the result as JSON",
    )
    demo.add_argument("--dir", default=".", help="where to make the store's folder (default: here)")
    demo.add_argument("--threads", type=_at_least_1, default=8, help="writers (default: 8)")
    demo.add_argument(
        "--kills", type=_at_least_1, default=3, help="kill so many times (default: 3)"
    )
    demo.add_argument(
        "--limit",
        type=_at_least_1,
        metavar="WORDS",
        help="read about so many words of the text (default: all)",
    )
    demo.add_argument("--keep", action="store_true", help="leave the store on disk")
    return parser


_HELP = {
    "STORE": "the store's directory, or the URL of a server: redis://HOST:PORT, rediss://, unix://",
    "KEY": "the key",
    "VALUE": "the value; - reads it from standard input",
    "SECONDS": "a number above 0",
    "DEST": "a new directory, or an empty one",
    "BACKUP": "the backup's directory",
    "SOURCE": "the damaged store's directory; it is not changed",
    "FILE": "the file; - (the default) is the standard stream",
}


def _at_least_1(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _seconds(text):
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


# What arguments are; str if not given here.
_KINDS = {"KEY": os.fsencode, "VALUE": os.fsencode, "SECONDS": _seconds}


# ---- Helpers -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _progress(label, wanted=True):
    """A progress function that draws a bar when standard error is a terminal; else None."""
    if not wanted or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from pykv.progress import Progress

    with Progress(label, 1) as bar:

        def update(done, total):
            bar.total = max(total, 1)
            bar.update(done)

        yield update
        bar.done = bar.total


@contextlib.contextmanager
def _warnings_in_one_line():
    """Shows a CheckpointWarning as the command shows errors."""
    show = warnings.showwarning

    def show_in_one_line(message, category, *more):
        if issubclass(category, pykv.CheckpointWarning):
            _complain(str(message))
        else:
            show(message, category, *more)

    warnings.showwarning = show_in_one_line
    try:
        yield
    finally:
        warnings.showwarning = show


def _report_fields(report):
    return {
        "ok": report.ok,
        **report._asdict(),
        "problems": [problem._asdict() for problem in report.problems],
    }


def _print_problems(report):
    for problem in report.problems:
        print(_line(str(problem)))
    _print_more(report.problem_count - len(report.problems), "problems")


def _print_more(count, what):
    if count:
        print(f"... and {count:,} more {what}")


def _is_url(store):
    return store.startswith(("redis://", "rediss://", "unix://"))


def _connect(url):
    password = os.environ.get("PYKV_PASSWORD") or os.environ.get("REDISCLI_AUTH")
    in_url = ":" in url.partition("://")[2].rpartition("@")[0]
    return pykv.connect(url, password=None if in_url else password or None)


def _open_to_read(arguments):
    if _is_url(arguments.store):
        return _connect(arguments.store)
    return pykv.open(arguments.store, read_only=True, create=False)


def _open_to_write(arguments, create=False):
    if _is_url(arguments.store):
        return _connect(arguments.store)
    return pykv.open(arguments.store, create=create)


def _demand_directories(command, *stores):
    if any(map(_is_url, stores)):
        raise ValueError(f"{command} works on a store's directory, not on the URL of a server")


def _binary(stream):
    if stream is None:
        raise OSError(errno.EBADF, "a standard stream that the command needs is closed")
    return stream.buffer


def _output():
    """What writes bytes to standard output: all of them, also where that has no buffer (python -u)."""
    return streams.output(_binary(sys.stdout))


def _missing(arguments):
    _complain(f"no such key: {os.fsdecode(arguments.key)}")
    return EXIT_MISSING


def _text(data):
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _print_json(thing):
    print(json.dumps(thing))


def _figure(value):
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if isinstance(value, float) else value


def _describe(error):
    if not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    return place + error.strerror


def _line(text):
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _complain(text):
    """Where nobody can be told, the exit code still says it."""
    with contextlib.suppress(OSError):
        if sys.stderr is not None:
            print(f"pykv: {_line(text)}", file=sys.stderr, flush=True)


def _abandon_stdout():
    """Drops what is buffered: else the interpreter's exit would try, and fail, once more."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
