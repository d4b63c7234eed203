"""Proves that a run cut anywhere and resumed in fresh objects equals the uninterrupted run."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from statetrain.callback import Callback

if TYPE_CHECKING:
    from statetrain.context.context import Context
    from statetrain.training.run import Run


def assert_resumable(build: Callable[[], Run], anchors: int | None = 12) -> int:
    """Cuts a run at its anchors, resumes each from disk in fresh objects, and compares the bits.

        def build():
            return st.fit(Net(), data, loss=loss, optimizer=torch.optim.Adam, epochs=2, start=False)

        def test_my_training_can_be_resumed():
            assert_resumable(build)

    Compared are weights and buffers, the optimizers' and callbacks' states, counters, history (but
    for the time), records and the states of all generators. The fresh objects are made under
    another seed, so that nothing comes out right by chance.

    Args:
        build: makes everything from scratch and returns a run that has not started: `fit(...,
            start=False)`. It should be short: it is run as often as it is cut, and twice more.
        anchors: how many of the anchors to cut at, evenly spread; None is all.

    Returns:
        How many anchors it was cut at.

    Raises:
        AssertionError: a continued run differs; the message says where it was cut, and what
            differs.
    """
    straight = state_of(_seeded(build, 0).walk())
    with tempfile.TemporaryDirectory() as folder:
        watched = _seeded(build, 0)
        counting = _CountSteps()
        _with(watched, counting).walk()
        chosen = _spread(counting.count, anchors)
        saving = _Saving(Path(folder), chosen)
        saved = state_of(_with(_seeded(build, 0), saving).walk())
        if words := list(differences(straight, saved)):
            again = list(differences(straight, state_of(_seeded(build, 0).walk())))
            why = "a run that is saved differs from one that is not"
            if again:
                why = "two runs of this script from the same seeds differ"
            raise AssertionError(
                f"{why}, so it cannot be resumed exactly:{list_words(again or words)}"
            )
        for number, path, place in saving.saved:
            ended = state_of(_continued(_seeded(build, 1000 + number), path).walk())
            if words := list(differences(straight, ended)):
                raise AssertionError(
                    f"the run that was cut at anchor {number} of {counting.count} ({place}) and"
                    f" continued differs:{list_words(words)}"
                )
        return len(saving.saved)


class _CountSteps(Callback):
    """Counts the anchors."""

    anywhere = True

    def __init__(self) -> None:
        self.count = 0

    def on_anchor(self, ctx: Context) -> None:
        self.count += 1


class _Saving(Callback):
    """Saves a run at some of its anchors, counted from 1."""

    anywhere = True

    def __init__(self, folder: Path, chosen: set[int]) -> None:
        self.folder, self.chosen, self.count = folder, chosen, 0
        self.saved: list[tuple[int, Path, str]] = []

    def on_anchor(self, ctx: Context) -> None:
        from statetrain.checkpoints.checkpoint import write
        from statetrain.checkpoints.snapshot import snapshot

        self.count += 1
        if self.count in self.chosen:
            found = write(
                self.folder, f"step-{self.count:08d}-{ctx.state}", snapshot(ctx, ctx.machine), {}
            )
            self.saved.append((self.count, found.path, f"{ctx.state}, {ctx.where()}"))


def _seeded(build: Callable[[], Run], seed: int) -> Run:
    import torch

    from statetrain.compute.seeding import seed_all

    torch.manual_seed(seed)
    random.seed(seed)
    seed_all(seed)
    run = build()
    if not hasattr(run, "ctx") or run.ctx.state is not None:
        raise AssertionError(
            "build() must return a run that has not started: fit(..., start=False)"
        )
    return run


def _with(run: Run, callback: Callback) -> Run:
    run.machine = attrs.evolve(run.machine, callbacks=(*run.machine.callbacks, callback))
    return run


def _continued(run: Run, path: Path) -> Run:
    from statetrain.checkpoints.checkpoint import read
    from statetrain.checkpoints.restoring import restore

    data = read(path)
    restore(run.ctx, run.machine, data)
    run.at = data["state"]
    return run


def _spread(count: int, wanted: int | None) -> set[int]:
    if wanted is None or wanted >= count:
        return set(range(1, count + 1))
    return {1 + round(i * (count - 1) / max(wanted - 1, 1)) for i in range(wanted)}


def state_of(run: Run) -> Any:
    """Where a run stands or how it ended, as plain data and copies of tensors, without times."""
    from statetrain.checkpoints import plain
    from statetrain.checkpoints.snapshot import snapshot

    data = snapshot(run.ctx, run.machine)
    del data["seconds"], data["given"]
    data["history"] = [
        {name: value for name, value in row.items() if not _is_measured(name)}
        for row in data["history"]
    ]
    data["callbacks"] = [
        row
        for row in data["callbacks"]
        if row["class"] not in (_CountSteps.__name__, _Saving.__name__)
    ]
    data["outcome"] = repr(run.outcome)
    structure, tensors = plain.encode(data)
    return plain.decode(structure, {name: tensor.cpu().clone() for name, tensor in tensors.items()})


def _is_measured(column: str) -> bool:
    """Whether a column of the history is a time, or follows from times or from the process."""
    return "second" in column or column == "peak_memory"


def differences(one: Any, two: Any, path: str = "") -> Iterator[str]:
    """Where two structures of plain data and tensors differ, bit by bit."""
    if type(one) is not type(two):
        yield f"{path} is {two!r:.100}, expected {one!r:.100}"
    elif isinstance(one, dict):
        for key in dict.fromkeys((*one, *two)):
            yield from differences(
                one.get(key), two.get(key), f"{path}.{key}" if path else str(key)
            )
    elif isinstance(one, list | tuple) and len(one) == len(two):
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            yield from differences(a, b, f"{path}[{i}]")
    elif hasattr(one, "untyped_storage"):
        yield from _unlike_tensors(one, two, path)
    elif (
        hasattr(one, "tobytes") and one.tobytes() == two.tobytes()
    ):  # an array, whose repr takes long
        return
    elif repr(one) != repr(two):  # a NaN is like itself
        yield f"{path} is {two!r:.100}, expected {one!r:.100}"


def _unlike_tensors(one: Any, two: Any, path: str) -> Iterator[str]:
    import torch

    if one.shape != two.shape or one.dtype != two.dtype:
        yield (
            f"{path} is {two.dtype} of shape {tuple(two.shape)}, expected {one.dtype} of shape"
            f" {tuple(one.shape)}"
        )
    elif not torch.equal(
        *(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, two))
    ):
        off = ""
        if not one.is_complex():
            off = f", by up to {(one.double() - two.double()).abs().max().item():.3g}"
        yield f"{path} differs{off}"


def list_words(words: list[str]) -> str:
    """Words as a list for an error, the first ten."""
    shown = words[:10]
    if len(words) > 10:
        shown = [*shown, f"and {len(words) - 10} more"]
    return "".join(f"\n- {word}" for word in shown)
