"""The commands `statetrain checkpoint show | verify | diff`.

They read checkpoints without the run's own classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from statetrain.checkpoints import checkpoint, directory, failure, lock
from statetrain.checkpoints.checkpoint import Saved
from statetrain.errors import CheckpointError

OK, BROKEN = 0, 1
_LINES = 40  # of differences


def _is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint, sound or not; else it is a directory of them.

    Raises:
        FileNotFoundError: it is no directory.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no directory")
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
        monitored = _monitored(saved)
        if saved in best:
            monitored += " (best)"
        cells = [saved.name, *_counters(saved), monitored, _bytes(saved.size)]
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


def _monitored(saved: Saved) -> str:
    value = saved.about.get("value")
    return "" if value is None else f"{saved.about.get('monitor')} {value:.6g}"


def _why(path: Path, error: Exception) -> str:
    names = {entry.name for entry in path.iterdir()}
    if checkpoint.MANIFEST not in names and (
        not names or any(name.endswith(".part") for name in names)
    ):
        return "unfinished; the next run deletes it"
    return f"broken: {str(error).removeprefix(f'{path.name}: ')}"


def _beside(folder: Path) -> Iterator[str]:
    """What else lies in a run's directory."""
    for name, describe in ((lock.FILE, _holder), (failure.FILE, _failed)):
        try:
            data = json.loads((folder / name).read_text(encoding="utf-8"))
            yield describe(data)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError):
            yield f"{name} cannot be read"


def _holder(data: Any) -> str:
    return clean(f"in use by process {data.get('pid')} on {data.get('host')}, unless that is gone")


def _failed(data: Any) -> str:
    lines = [
        f"the last run failed at {data.get('when')}: {data.get('error')}: {data.get('message')}",
        f"{data.get('where')}, in state {data.get('state')}",
    ]
    lines.append(f"{data.get('resume')}; it was started by: {data.get('command')}")
    return "\n  ".join(map(clean, lines))


def _show_one(path: Path) -> None:
    saved, data = checkpoint.read_manifest(path), checkpoint.read(path)
    about = dict(saved.about)
    origin = about.get("origin") or {}
    lines = {
        "checkpoint": (
            f"{saved.name}, the {saved.sequence}. of its directory, {_bytes(saved.size)}, verified"
        ),
        "at": (
            f"{about.get('state')}, epoch {about.get('epoch')}, batch {about.get('iter')}, step"
            f" {about.get('step')}, {about.get('seconds', 0.0):.1f} s"
        ),
        "lifecycle": (
            f"{data['lifecycle']['name']}"
            f" {data['lifecycle']['fingerprint'] or '(without a fingerprint)'}"
        ),
        "versions": ", ".join(f"{name} {version}" for name, version in data["versions"].items()),
        "command": str(origin.get("command") or "not said"),
        "commit": str(origin.get("commit") or "none"),
        "seed": str(data["seed"]),
        "monitored": _monitored(saved) or "nothing",
        "optimizers": (
            ", ".join(
                f"{name}: {one['class']}"
                for name, one in (data["fields"].get("opt_given") or {}).items()
            )
            or "not said"
        ),
        "settings": "; ".join(_settings(about.get("optimizers") or {})) or "not said",
        "callbacks": ", ".join(one["class"] for one in data["callbacks"]) or "none",
        "history": (
            f"{len(data['history'])} rows"
            + (f", the last {_row(data['history'][-1])}" if data["history"] else "")
        ),
    }
    width = max(map(len, lines))
    for name, words in lines.items():
        print(f"{name.rjust(width)}  {clean(words)}")
    weights = {
        name: value
        for name, value in data["model"]["weights"].items()
        if isinstance(value, torch.Tensor)
    }
    print(
        f"{'weights'.rjust(width)}  {sum(value.numel() for value in weights.values()):,} numbers in"
        f" {len(weights)} tensors"
    )
    for name, value in weights.items():
        print(f"{''.rjust(width)}  {clean(name)}  {_shape(value)}")


def _settings(optimizers: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The settings of each group of parameters of each optimizer."""
    for name, groups in optimizers.items():
        for number, group in enumerate(groups):
            place = name if len(groups) == 1 else f"{name} group {number}"
            yield f"{place}: " + ", ".join(f"{key}={value}" for key, value in group.items())


def _row(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.items()
    )


# ---------------------------------------------------------------- verify


def verify(path: Path) -> int:
    """Prints which checkpoints are whole; gives 1 if one is broken, or none is whole."""
    whole = broken = 0
    for one in [path] if _is_checkpoint(path) else _inside(path):
        if ".corrupt-" in one.name:
            print(f"set aside  {clean(one.name)}")
            continue
        try:
            saved = checkpoint.verify(one)
            whole += 1
            print(f"ok         {clean(one.name)}  {_bytes(saved.size)}")
        except (CheckpointError, OSError) as error:
            why = _why(one, error)
            broken += why.startswith("broken")
            print(
                f"{'broken' if why.startswith('broken') else 'unfinished':<11}{clean(one.name)} "
                f" {clean(why.partition(': ')[2])}".rstrip()
            )
    if not whole and not broken:
        print(f"no checkpoint in {clean(path)}")
    return BROKEN if broken or not whole else OK


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
    return BROKEN if lines else OK


def _newest(path: Path) -> Path:
    if _is_checkpoint(path):
        return path
    found = directory.newest(path, aside=False)
    if found is None:
        raise CheckpointError(f"there is no checkpoint in {path}")
    return found.path


def differences(one: Any, two: Any, path: str = "") -> Iterator[str]:
    """What differs between the data of two checkpoints, in words, each with its path.

    Args:
        one: of the first, as `checkpoint.read` gives it.
        two: of the second.
        path: where they are within larger ones.
    """
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        yield from _different_tensors(one, two, path)
    elif isinstance(one, dict) and isinstance(two, dict):
        yield from _different_entries(one, two, path)
    elif isinstance(one, list | tuple) and type(one) is type(two):
        if len(one) != len(two):
            yield f"{path}: {len(one)} entries, {len(two)}"
        for i, (a, b) in enumerate(zip(one, two, strict=False)):
            yield from differences(a, b, f"{path}[{i}]")
    elif repr(one) != repr(two):  # so that NaN is NaN, and 1 is not 1.0
        yield f"{path}: {one!r:.60}, {two!r:.60}"


def _different_entries(one: dict[Any, Any], two: dict[Any, Any], path: str) -> Iterator[str]:
    for key in dict.fromkeys([*one, *two]):
        at = str(key)
        if path:
            at = f"{path}.{key}"
        if key not in two:
            yield f"{at}: only in the first"
        elif key not in one:
            yield f"{at}: only in the second"
        else:
            yield from differences(one[key], two[key], at)


def _different_tensors(one: torch.Tensor, two: torch.Tensor, path: str) -> Iterator[str]:
    if one.shape != two.shape or one.dtype != two.dtype:
        yield f"{path}: {_shape(one)}, {_shape(two)}"
    elif not _bits(one).equal(_bits(two)):
        if not (one.is_floating_point() or one.is_complex()):
            yield f"{path}: {int((one != two).sum())} of {one.numel()} numbers differ"
        else:
            apart = ~((one == two) | (one.isnan() & two.isnan()))
            most = (
                (one.to(torch.complex128) - two.to(torch.complex128)).abs()[apart].max()
                if apart.any()
                else 0.0
            )
            yield (
                f"{path}: {int(apart.sum())} of {one.numel()} numbers differ, by at most"
                f" {float(most):.3g}"
            )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


# ---------------------------------------------------------------- words


def _shape(value: torch.Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def clean(text: object) -> str:
    """Text for a terminal, without control characters.

    What a file says can neither move the cursor nor reverse the direction of writing.
    """
    return "".join(
        letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1]
        for letter in str(text)
    )
