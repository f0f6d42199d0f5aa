"""The `pykv` command.

Exit codes: 0 done; 1 there is no such key (or `demo` found a loss); 2 an error, with one line
`pykv: ...` on standard error; 130 interrupted; 141 the reader of standard output went away.

Keys and values are bytes: those of the arguments are taken as the shell passed them, those
printed are printed raw. With --json a key or value is a string when it is UTF-8, and otherwise an
object {"base64": "..."}.
"""

import argparse
import base64
import errno
import json
import os
import sys

import pykv

EXIT_OK, EXIT_MISSING, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_PIPE = 0, 1, 2, 130, 141


def main(argv=None):
    """Runs one command; gives the exit code. `argv`: the arguments, by default the process's."""
    try:
        arguments = _parser().parse_args(argv)
        code = arguments.command(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return EXIT_PIPE
    except (pykv.Error, OSError, ValueError, MemoryError) as error:
        _abandon_stdout()
        _complain(_describe(error))
        return EXIT_ERROR


# ---- Commands ----------------------------------------------------------------------------------


def _put(arguments):
    value = arguments.value
    if value == b"-":
        value = _binary(sys.stdin).read()
    with pykv.open(arguments.store, sync=arguments.sync) as store:
        store.put(arguments.key, value)
    return EXIT_OK


def _get(arguments):
    with _open_to_read(arguments) as store:
        value = store.get(arguments.key)
    if value is None:
        return _missing(arguments)
    if arguments.json:
        _print_json({"key": _text(arguments.key), "value": _text(value)})
    else:
        _binary(sys.stdout).write(value + b"\n" if sys.stdout.isatty() else value)
    return EXIT_OK


def _delete(arguments):
    with pykv.open(arguments.store, create=False) as store:
        found = store.delete(arguments.key)
    return EXIT_OK if found else _missing(arguments)


def _keys(arguments):
    with _open_to_read(arguments) as store:
        keys = [key for key in store if key.startswith(arguments.prefix)]
    # The store is closed by now: whoever reads the keys through a pipe may open it.
    for key in keys:
        if arguments.json:
            _print_json(_text(key))
        else:
            _binary(sys.stdout).write(key + b"\n")
    return EXIT_OK


def _stats(arguments):
    with _open_to_read(arguments) as store:
        figures = {**store.stats(), "recovery": store.recovery}
    if arguments.json:
        _print_json(figures)
        return EXIT_OK
    recovery = figures.pop("recovery")
    figures.update((f"recovery.{name}", value) for name, value in recovery.items())
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {_figure(value)}")
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
            kind = str if positional == "STORE" else os.fsencode
            sub.add_argument(
                positional.lower(), metavar=positional, type=kind, help=_HELP[positional]
            )
        if json_text:
            sub.add_argument("--json", action="store_true", help=json_text)
        return sub

    as_json = 'print JSON; bytes that are not UTF-8 appear as {"base64": "..."}'
    put = add("put", _put, "store a value under a key", "STORE", "KEY", "VALUE")
    put.add_argument(
        "--sync",
        choices=("always", "interval", "never"),
        default="always",
        help="open the store in this mode (default: always); closing it syncs in any case",
    )
    add("get", _get, "print the value of a key", "STORE", "KEY", json_text=as_json)
    add("delete", _delete, "delete a key", "STORE", "KEY")
    text = "print the keys, one a line, in no particular order"
    keys = add("keys", _keys, text, "STORE", json_text=as_json)
    keys.add_argument(
        "--prefix", type=os.fsencode, default=b"", help="only keys that begin with these bytes"
    )
    add("stats", _stats, "print figures about a store", "STORE", json_text="print them as JSON")

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
        metavar="N",
        help="read about N words of the text (default: all)",
    )
    demo.add_argument("--keep", action="store_true", help="leave the store on disk")
    return parser


_HELP = {
    "STORE": "the store's directory",
    "KEY": "the key",
    "VALUE": "the value; - reads it from standard input",
}


def _at_least_1(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


# ---- Helpers -----------------------------------------------------------------------------------


def _open_to_read(arguments):
    return pykv.open(arguments.store, read_only=True, create=False)


def _binary(stream):
    if stream is None:
        raise OSError(errno.EBADF, "a standard stream that the command needs is closed")
    return stream.buffer


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


def _complain(text):
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if sys.stderr is not None:
        print(f"pykv: {line}", file=sys.stderr)


def _abandon_stdout():
    """Drops what is buffered: else the interpreter's exit would try, and fail, once more."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
