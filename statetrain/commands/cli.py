"""The command line: `statetrain`, or `python -m statetrain`.

A lifecycle is given as `module:name` (a Lifecycle, or a function that makes one), as the name of a
standard one (`supervised`, `evaluation`, `prediction`), or as a JSON file that `Lifecycle.to_dict`
wrote.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from statetrain import jsons
from statetrain.commands import trace as trace_cli
from statetrain.commands.codes import BROKEN, OK, USAGE, exit_code
from statetrain.errors import CheckpointError, ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.naming import did_you_mean


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: the words after the program's name; None takes the process's own.

    Returns:
        The exit code: 0 if all is well, 1 if something does not hold, 2 if the command cannot be
            done.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if not hasattr(given, "command"):
        parser.print_help()
        return USAGE
    try:
        return int(given.command(given))
    except BrokenPipeError:  # as by `| head`: who reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (ValueError, OSError, ImportError, LookupError) as error:
        print(f"statetrain: {error}", file=sys.stderr)
        return USAGE


def _parser() -> argparse.ArgumentParser:
    import statetrain

    parser = argparse.ArgumentParser(
        prog="statetrain", description="See, check and test lifecycles of training."
    )
    parser.add_argument(
        "-V", "--version", action="version", version=f"statetrain {statetrain.__version__}"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(
        name: str, function: Any, words: str, lifecycles: Sequence[str] = ("lifecycle",)
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=words, description=words)
        for one in lifecycles:
            sub.add_argument(
                one, help="module:name, supervised, evaluation, prediction, or a JSON file"
            )
        sub.set_defaults(command=function)
        return sub

    show = command("show", _show, "Print the table of a lifecycle.")
    show.add_argument(
        "--format", choices=["text", "markdown", "json", "mermaid", "dot"], default="text"
    )
    show.add_argument(
        "--ranks",
        action="store_true",
        help="as several ranks walk it: where they meet, and what they agree on",
    )
    draw = command("draw", _draw, "Draw a lifecycle into a file.")
    draw.add_argument("--ranks", action="store_true", help="as several ranks walk it")
    draw.add_argument(
        "file",
        nargs="?",
        help="a .svg, .png, .pdf, .dot or .mmd file; without one, Mermaid text is printed",
    )
    draw.add_argument("--theme", choices=["light", "dark"], default="light")
    draw.add_argument("--detail", choices=["full", "states", "outline"], default="full")
    draw.add_argument(
        "--fold", action="append", default=[], metavar="SCOPE", help="draw a scope as one state"
    )
    draw.add_argument(
        "--since",
        metavar="LIFECYCLE",
        help="another lifecycle: what was added to it, removed and changed stands out",
    )
    draw.add_argument(
        "--trace",
        metavar="FILE",
        type=Path,
        help="a trace of a run: counts, times, the last transitions",
    )
    command("check", _check, "Check that a lifecycle is sound, and say what it is.")
    paths = command(
        "paths", _paths, "List generated test paths, and check the lifecycle along them."
    )
    paths.add_argument("--cover", choices=["states", "transitions", "pairs"], default="transitions")
    simulate = command("simulate", _simulate, "Show the schedule of a run, without model or data.")
    simulate.add_argument("--epochs", type=int, default=3)
    simulate.add_argument("--batches", type=int, default=5)
    simulate.add_argument("--valid-batches", type=int, default=2)
    diff = command("diff", _diff, "Say in words how two lifecycles differ.", ("first", "second"))
    diff.add_argument("--quiet", action="store_true", help="say nothing; the exit code tells")
    words = "Write a page on a run from its trace."
    page = commands.add_parser("report", help=words, description=words)
    page.add_argument("trace", type=Path, help="a file of Tracing(file=...) or fit(trace=...)")
    page.add_argument(
        "file", nargs="?", type=Path, help="where the page goes; without it, next to the trace"
    )
    page.set_defaults(command=_report)
    words = "Print the script that completes these commands in a shell."
    completion = commands.add_parser("completion", help=words, description=words)
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    completion.set_defaults(command=_completion)
    _add_evaluate(commands)
    _add_checkpoints(commands)
    trace_cli.add_commands(commands, lifecycle)
    return parser


def _add_evaluate(commands: Any) -> None:
    words = "Evaluate each checkpoint of a run once, and print a row for it."
    sub = commands.add_parser("evaluate", help=words, description=words)
    sub.add_argument(
        "function", help="module:name of a function of a checkpoint's path; it gives values by name"
    )
    sub.add_argument("folder", type=Path, help="a directory of checkpoints")
    sub.add_argument(
        "file", nargs="?", type=Path, help="for the rows; else evaluations.jsonl there"
    )
    sub.add_argument("--follow", action="store_true", help="wait for more until the run has ended")
    sub.set_defaults(command=_evaluate)


def _evaluate(given: argparse.Namespace) -> int:
    from statetrain.commands.screen import row_of
    from statetrain.naming import printable
    from statetrain.training.following import evaluate_checkpoints

    function = imported(given.function)
    rows = evaluate_checkpoints(given.folder, function, file=given.file, follow=given.follow)
    try:
        for row in rows:
            print(printable(row_of(row)), flush=True)
    except KeyboardInterrupt:  # so a person ends it
        print()
    return OK


def _add_checkpoints(commands: Any) -> None:
    """The commands of `checkpoint_cli`, loaded when one of them is used, since it needs torch."""
    words = "Look into checkpoints, verify them, compare two."
    inner = commands.add_parser("checkpoint", help=words, description=words).add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    for name, words, paths in (
        ("show", "Say what checkpoints there are, or what is in one.", ["path"]),
        ("verify", "Compare checkpoints with their manifests, byte by byte.", ["path"]),
        (
            "diff",
            "Say what differs between two checkpoints; of a directory, its newest.",
            ["first", "second"],
        ),
    ):
        sub = inner.add_parser(name, help=words, description=words)
        for path in paths:
            sub.add_argument(path, type=Path, help="a checkpoint, or a directory of them")
        sub.set_defaults(command=_checkpoint, name=name)


def _checkpoint(given: argparse.Namespace) -> int:
    from statetrain.commands import checkpoint as checkpoint_cli

    try:
        if given.name == "diff":
            return checkpoint_cli.diff(given.first, given.second)
        if given.name == "show":
            return checkpoint_cli.show(given.path)
        return checkpoint_cli.verify(given.path)
    except CheckpointError as error:
        print(f"statetrain: {checkpoint_cli.clean(error)}", file=sys.stderr)
        return BROKEN


def imported(name: str) -> Any:
    """What `module:name` stands for, seen from the present folder.

    Raises:
        ConfigError: the module has no such name.
    """
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    finally:
        sys.path.pop(0)
    if not hasattr(module, attribute):
        raise ConfigError(
            f"module {module_name!r} has no {attribute!r}{did_you_mean(attribute, vars(module))}"
        )
    return getattr(module, attribute)


def lifecycle(name: str) -> Lifecycle:
    """The lifecycle that a word on the command line stands for.

    Raises:
        ConfigError: it stands for none.
    """
    from statetrain.standard.looping import evaluation, prediction
    from statetrain.standard.supervised import supervised

    standard = {
        "supervised": supervised,
        "evaluation": evaluation,
        "prediction": prediction,
    }
    if name in standard:
        return standard[name]()
    if ":" in name and not Path(name).exists():
        found = made = imported(name)
        if callable(found) and not isinstance(found, Lifecycle):
            made = found()
        if not isinstance(made, Lifecycle):
            raise ConfigError(
                f"{name} must be a Lifecycle or a function that makes one, got"
                f" {type(made).__name__}"
            )
        return made
    if Path(name).is_file():
        return Lifecycle.from_dict(jsons.loads(Path(name).read_text(encoding="utf-8")))
    raise ConfigError(
        f"no lifecycle {name!r}: give module:name, a JSON file, or a standard"
        f" one{did_you_mean(name, standard)}"
    )


def _choose(given: argparse.Namespace) -> Lifecycle:
    """The lifecycle that was named, for several ranks if that was asked for."""
    life = lifecycle(given.lifecycle)
    if not given.ranks:
        return life
    from statetrain.standard.several import several

    return several(life)


def _show(given: argparse.Namespace) -> int:
    life = _choose(given)
    if given.format == "json":
        print(jsons.dumps(life.to_dict(), indent=2))
    elif given.format == "markdown":
        from statetrain.lifecycle.text import markdown_table

        print(markdown_table(life))
    else:
        shown = {"text": life.__str__, "mermaid": life.mermaid, "dot": life.dot}[given.format]
        print(shown())
    return OK


def _draw(given: argparse.Namespace) -> int:
    from statetrain.trace import Trace

    life = _choose(given)
    options = {
        "theme": given.theme,
        "detail": given.detail,
        "fold": given.fold,
        "since": lifecycle(given.since) if given.since is not None else None,
        "trace": Trace.load(given.trace) if given.trace is not None else None,
    }
    if given.file is None:
        print(life.mermaid(**options))
        return OK
    life.draw(given.file, **options)
    print(given.file)
    return OK


def _report(given: argparse.Namespace) -> int:
    from statetrain.report import report
    from statetrain.trace import Trace

    file = given.file or given.trace.with_suffix(".html")
    report(Trace.load(given.trace), file)
    print(file)
    return OK


def _completion(given: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError as error:
        raise ImportError(
            "completion needs shtab; install it with: pip install 'statetrain[completion]'"
        ) from error
    print(shtab.complete(_parser(), shell=given.shell))
    return OK


def _check(given: argparse.Namespace) -> int:
    try:
        life = lifecycle(given.lifecycle)
    except ValueError as error:
        print(f"not sound: {error}", file=sys.stderr)
        return BROKEN
    from statetrain.testing import balanced, ends, judge

    print(repr(life))
    try:
        print(f"fingerprint {life.fingerprint}")
    except ValueError as error:
        print(f"no fingerprint: {error}")
    verdicts = [judge(life, one) for one in (balanced(), ends())]
    for verdict in verdicts:
        print(verdict)
    return exit_code(all(verdict.holds for verdict in verdicts))


def _paths(given: argparse.Namespace) -> int:
    from statetrain.testing import paths

    broken = 0
    for path in paths(lifecycle(given.lifecycle), given.cover):
        try:
            path.check()
            print(f"ok      {path}")
        except AssertionError as error:
            broken += 1
            print(f"broken  {error}")
    return exit_code(not broken)


def _simulate(given: argparse.Namespace) -> int:
    from statetrain.testing import simulate

    print(simulate(lifecycle(given.lifecycle), given.epochs, given.batches, given.valid_batches))
    return OK


def _diff(given: argparse.Namespace) -> int:
    from statetrain.lifecycle.difference import diff

    lines = diff(lifecycle(given.first), lifecycle(given.second))
    if not given.quiet:
        print("\n".join(lines) or "no difference")
    return exit_code(not lines)
