"""The commands about runs: `statetrain trace show | diff | conforms`, `statetrain watch`."""

from __future__ import annotations

import argparse
from typing import Any

from statetrain.commands.codes import OK, exit_code
from statetrain.errors import ConfigError
from statetrain.naming import printable
from statetrain.outcome import Failed


def add_commands(commands: Any, lifecycle: Any) -> None:
    """Adds them to the program's.

    Args:
        commands: what `add_subparsers` gave.
        lifecycle: makes a lifecycle of a word on the command line.
    """
    trace = commands.add_parser(
        "trace",
        help="Look at traces of runs.",
        description="Look at traces of runs, as fit(trace=...) writes them.",
    )
    parts = trace.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = _command(parts, "show", _show, "Print the transitions of a run.", ("file",))
    show.add_argument("--last", type=_positive, metavar="N", help="only the last N transitions")
    show.add_argument(
        "--states", action="store_true", help="only the names of the states, one a line"
    )
    diff = _command(
        parts,
        "diff",
        _diff,
        "Show where two runs part first. Exits with 1 if they do.",
        ("first", "second"),
    )
    diff.add_argument(
        "--rel",
        type=float,
        default=0.0,
        metavar="R",
        help="how far numbers may lie apart, relative to the larger one",
    )
    conforms = _command(
        parts,
        "conforms",
        _conforms,
        "Check that a run took only arrows of a lifecycle. Exits with 1 if not.",
        ("file",),
    )
    conforms.add_argument(
        "lifecycle",
        type=str,
        help="module:name, supervised, evaluation, prediction, or a JSON file",
    )
    conforms.set_defaults(make=lifecycle)
    watch = _command(
        commands,
        "watch",
        _watch,
        "Follow a run in the terminal, until it ends. Exits with 1 if it failed.",
        ("file",),
    )
    watch.add_argument("--once", action="store_true", help="show how things are, and exit")
    watch.add_argument(
        "--web", action="store_true", help="on a page in a browser, which also shows the past"
    )
    watch.add_argument(
        "--against", metavar="FILE", help="with --web: another run, shown next to the first"
    )
    watch.add_argument(
        "--control", action="store_true", help="with --web: a button that asks the run to stop"
    )
    watch.add_argument("--port", type=int, default=0, help="of the page; 0 takes a free one")


def _command(
    commands: Any, name: str, function: Any, words: str, files: tuple[str, ...]
) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(name, help=words, description=words)
    for one in files:
        sub.add_argument(one, help="a trace file, or a directory in which the newest is meant")
    sub.set_defaults(command=function)
    return sub


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _load(path: str) -> Any:
    from statetrain.trace.reading import find, load

    return load(find(path))


def _show(given: argparse.Namespace) -> int:
    from statetrain.trace.reading import find, load, load_end

    path = find(given.file)
    if given.last is None:
        trace = load(path)
    else:
        trace = load_end(path, given.last)
    if given.states:
        _print("\n".join(trace.states))
        return OK
    for remark in trace.remarks:
        _print(f"({remark})")
    _print(str(trace))
    if trace.outcome is not None:
        _print(trace.error if isinstance(trace.outcome, Failed) else repr(trace.outcome))
    return OK


def _diff(given: argparse.Namespace) -> int:
    from statetrain.trace.difference import difference_of_files
    from statetrain.trace.reading import find

    difference = difference_of_files(find(given.first), find(given.second), given.rel)
    _print(str(difference) if difference is not None else "no difference")
    return exit_code(difference is None)


def _conforms(given: argparse.Namespace) -> int:
    verdict = _load(given.file).conforms(given.make(given.lifecycle))
    _print(str(verdict))
    return exit_code(bool(verdict))


def _watch(given: argparse.Namespace) -> int:
    if given.web:
        from statetrain.commands.web import watch_on_a_page

        watch_on_a_page(given.file, given.against, control=given.control, port=given.port)
        return OK
    if given.against is not None or given.control:
        raise ConfigError("--against and --control are for the page: add --web")
    from statetrain.commands.watch import watch

    return exit_code(not isinstance(watch(given.file, once=given.once), Failed))


def _print(text: str) -> None:
    """Prints what a file says, with control characters escaped: no file moves the cursor."""
    print(printable(text, keep="\n"))
