"""The commands `statetrain checkpoint show | verify | diff`.

They read checkpoints without the run's own classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from statetrain import jsons
from statetrain.checkpoints import checkpoint, directory, failure, lock
from statetrain.checkpoints.checkpoint import Saved
from statetrain.commands.codes import OK, exit_code
from statetrain.commands.comparing import differences
from statetrain.commands.contents import describe_contents, describe_monitored, describe_size
from statetrain.errors import CheckpointError
from statetrain.naming import printable

_LINES = 40  # of differences


def _is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint, sound or not; else it is a directory of them.

    Raises:
        FileNotFoundError: it is not a directory.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a directory")
    return any(
        (path / name).exists()
        for name in (checkpoint.MANIFEST, checkpoint.STATE, checkpoint.TENSORS)
    )


def _inside(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.startswith("step-") and path.is_dir() and not path.is_symlink()
    )


# ---------------------------------------------------------------- show


def show(path: Path) -> int:
    """Prints what checkpoints a directory has, or what is in one; gives the exit code."""
    if _is_checkpoint(path):
        _show_one(path)
        return OK
    rows = _rows(path)
    if not rows:
        print(f"no checkpoint in {clean(path)}")
    _print_rows(rows)
    for line in _beside(path):
        print(line)
    return OK


def _rows(folder: Path) -> list[list[str]]:
    """The cells of each checkpoint in a directory, oldest first; broken ones have two cells."""
    lines = []
    found = []
    for one in _inside(folder):
        try:
            found.append(checkpoint.read_manifest(one))
        except (CheckpointError, OSError) as error:
            lines.append((0, [one.name, _why(one, error)]))
    best = directory.by_value(found)[:1]
    for saved in found:
        monitored = describe_monitored(saved)
        if saved in best:
            monitored += " (best)"
        cells = [saved.name, *_counters(saved), monitored, describe_size(saved.size)]
        lines.append((saved.sequence, cells))
    return [row for _, row in sorted(lines, key=lambda line: line[0])]


def _print_rows(rows: list[list[str]]) -> None:
    """Prints rows in columns; a row of two cells, of a broken checkpoint, as it is."""
    whole = [row for row in rows if len(row) > 2]
    widths = [max(len(cell) for cell in column) for column in zip(*whole, strict=True)]
    for row in rows:
        cells = [clean(cell) for cell in row]
        if len(row) > 2:
            cells = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        print("  ".join(cells).rstrip())


def _counters(saved: Saved) -> list[str]:
    about = saved.about
    return [str(about.get("state")), f"epoch {about.get('epoch')}", f"step {about.get('step')}"]


def _why(path: Path, error: Exception) -> str:
    names = {entry.name for entry in path.iterdir()}
    if checkpoint.MANIFEST not in names and (
        not names or any(name.endswith(".part") for name in names)
    ):
        return "unfinished; the next run deletes it"
    return f"broken: {str(error).removeprefix(f'{path.name}: ')}"


def _beside(folder: Path) -> Iterator[str]:
    """What else lies in a run's directory."""
    for name, describe in ((lock.FILE, _describe_holder), (failure.FILE, _describe_failure)):
        try:
            data = jsons.loads((folder / name).read_text(encoding="utf-8"))
            yield describe(data)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError):
            yield f"{name} cannot be read"


def _describe_holder(data: Any) -> str:
    return clean(f"in use by process {data.get('pid')} on {data.get('host')}, unless that is gone")


def _describe_failure(data: Any) -> str:
    lines = [
        f"the last run failed at {data.get('when')}: {data.get('error')}: {data.get('message')}",
        f"{data.get('where')}, in state {data.get('state')}",
    ]
    lines.append(f"{data.get('resume')}; it was started by: {data.get('command')}")
    return "\n  ".join(map(clean, lines))


def _show_one(path: Path) -> None:
    lines = list(describe_contents(checkpoint.read_manifest(path), checkpoint.read(path)))
    width = max(len(name) for name, _ in lines)
    for name, words in lines:
        print(f"{name.rjust(width)}  {clean(words)}")


# ---------------------------------------------------------------- verify


def verify(path: Path) -> int:
    """Prints which checkpoints are whole; gives 1 if one is broken, or none is whole."""
    verdicts = {_verify_one(one) for one in ([path] if _is_checkpoint(path) else _inside(path))}
    if verdicts.isdisjoint({"ok", "broken"}):
        print(f"no checkpoint in {clean(path)}")
    return exit_code("ok" in verdicts and "broken" not in verdicts)


def _verify_one(path: Path) -> str:
    """Prints a verdict on a checkpoint and gives its first words."""
    words = ""
    if ".corrupt-" in path.name:
        verdict = "set aside"
    else:
        try:
            verdict, words = "ok", describe_size(checkpoint.verify(path).size)
        except (CheckpointError, OSError) as error:
            why = _why(path, error)
            verdict = "unfinished"
            if why.startswith("broken"):
                verdict = "broken"
            words = why.partition(": ")[2]
    print(f"{verdict:<11}{clean(path.name)}  {clean(words)}".rstrip())
    return verdict


# ---------------------------------------------------------------- diff


def diff(first: Path, second: Path) -> int:
    """Prints what differs between two checkpoints; gives 1 if anything does."""
    one, two = (checkpoint.read(_newest(path)) for path in (first, second))
    lines = list(differences(one, two))
    for line in lines[:_LINES]:
        print(clean(line))
    if len(lines) > _LINES:
        print(f"and {len(lines) - _LINES} more")
    if not lines:
        print("no difference")
    return exit_code(not lines)


def _newest(path: Path) -> Path:
    if _is_checkpoint(path):
        return path
    found = directory.newest(path, aside=False)
    if found is None:
        raise CheckpointError(f"there is no checkpoint in {path}")
    return found.path


def clean(text: object) -> str:
    """Text for a terminal, without control characters.

    What a file says can neither move the cursor nor reverse the direction of writing.
    """
    return printable(str(text), keep="\n")
