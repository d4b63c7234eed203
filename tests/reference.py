"""One training loop written by hand, with every option of `supervised()`, and sharing no code with the library.

What `fit` does is compared with what this does, bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from attrs import Factory, define

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@define
class Ran:
    """How it went: the rows of the history, the counters, and how it ended."""

    rows: list[dict[str, Any]] = Factory(list)
    epoch: int = 0
    step: int = 0
    samples: int = 0
    batches: int = 0
    ended: str = ""


def train(
    model: torch.nn.Module,
    data: Iterable[Any],
    losses: dict[str, Loss],
    optimizers: dict[str, torch.optim.Optimizer],
    *,
    epochs: int,
    clock: Callable[[], float],
    valid: Iterable[Any] | None = None,
    validate: tuple[int, str] = (1, "epochs"),
    patience: int | None = None,
    monitor: str = "",
    min_epochs: int = 0,
    seconds: float | None = None,
    max_steps: int | None = None,
    non_finite: str = "raise",
    check_gradients: bool = False,
    accumulate: int = 1,
    closure: bool = False,
    metric: Loss | None = None,
    sized: bool = True,
) -> Ran:
    """Trains the model in place.

    Args:
        model, data, valid, losses, optimizers: data as iterables of `(input, target)`, losses and
            optimizers by name.
        epochs, clock, min_epochs, max_steps, non_finite, check_gradients, accumulate, closure: as
            in `supervised`.
        validate: an interval and its unit: "epochs", "steps" or "seconds".
        patience, monitor: stop between epochs when so many rows have not improved.
        seconds: stop at the next batch after so long.
        metric: averaged over samples, as the column `<set>_metric`.
        sized: whether it is known how many batches there are.
    """
    ran, began, (interval, unit) = Ran(), clock(), validate
    validated_at, validated_after, pending = 0.0, -1, 0
    halted = exhausted = False
    # By set and name: total and number of samples
    sums: dict[str, dict[str, list[float]]] = {
        "train": {},
        "valid": {},
    }

    # What rows inside the epoch have reported, by name
    whole: dict[str, list[float]] = {}

    def halt() -> bool:
        return halted or (seconds is not None and clock() - began >= seconds)

    def out_of_steps() -> bool:
        return max_steps is not None and ran.step >= max_steps

    def due(inside: bool) -> bool:
        nonlocal validated_at, validated_after
        if valid is None or (inside and unit == "epochs"):
            return False
        if unit != "epochs" and validated_after == ran.batches:
            return False  # nothing has been trained since
        count = {"epochs": ran.epoch, "steps": ran.step, "seconds": clock() - began}[unit]
        if count // interval == validated_at // interval:
            return False
        validated_at, validated_after = count, ran.batches
        return True

    def add(kind: str, name: str, value: float, size: int) -> None:
        entry = sums[kind].setdefault(name, [0.0, 0])
        entry[0] += value * size
        entry[1] += size

    def count(kind: str, name: str, pred: torch.Tensor, target: torch.Tensor, loss: float) -> None:
        add(kind, f"loss_{name}" if len(losses) > 1 else "loss", loss, len(target))
        if metric is not None and name == list(losses)[-1]:
            with torch.no_grad():
                add(kind, "metric", float(metric(pred, target)), len(target))

    def row_of_this_epoch() -> dict[str, Any] | None:
        return ran.rows[-1] if ran.rows and ran.rows[-1]["epoch"] == ran.epoch else None

    def record(complete: bool) -> None:
        columns = [f"loss_{name}" for name in losses] if len(losses) > 1 else ["loss"]
        columns += ["metric"] if metric is not None else []
        values = {}
        earlier = bool(whole)
        for name, (total, size) in sums["train"].items():
            entry = whole.setdefault(name, [0.0, 0])
            entry[0] += total
            entry[1] += size
        for kind in ("train", "valid"):
            if sums[kind]:
                for name in columns:
                    total, size = sums[kind].get(name, (0.0, 0))
                    if (
                        size or name == "metric"
                    ):  # a loss that no batch was counted for has no column
                        values[f"{kind}_{name}"] = total / size if size else math.nan
                sums[kind].clear()
        means = {}
        if exhausted and earlier:
            means = {f"epoch_train_{n}": t / size for n, (t, size) in whole.items() if size}
        before = row_of_this_epoch()
        if before is not None and not values and before["step"] == ran.step:
            before |= {**means, "epoch_complete": complete}
        if values:
            values |= means
            row = {
                "epoch": ran.epoch,
                "batch": ran.batches,
                "step": ran.step,
                "samples": ran.samples,
                "seconds": clock() - began,
            }
            ran.rows.append({**row, "epoch_complete": complete, **values})

    def evaluate() -> bool:
        assert valid is not None
        model.eval()
        sums["valid"].clear()
        batches = iter(valid)
        with torch.no_grad():
            while not halt():  # the last step's validation is made
                batch = next(batches, None)
                if batch is None:
                    return True
                for name, loss_fn in losses.items():
                    pred = model(batch[0])
                    count("valid", name, pred, batch[1], loss_fn(pred, batch[1]).item())
        sums["valid"].clear()
        return False

    before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def refused(value: float) -> bool:
        nonlocal pending, halted
        if math.isfinite(value) or non_finite == "ignore":
            return False
        for buffer, value_before in before:  # a batch that is refused leaves no trace in them
            buffer.copy_(value_before)
        if non_finite == "raise":
            raise FloatingPointError(value)
        halted = halted or non_finite == "stop"
        pending = 0
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        return True

    def replay(
        x: Any, y: Any, name: str, optimizer: Any, own: Any, computed: torch.Tensor
    ) -> Callable[[], torch.Tensor]:
        """What an optimizer calls that wants the loss anew, as often as it likes; once, it has been computed already."""
        first = [computed]

        def compute() -> torch.Tensor:
            if first:
                return first.pop()
            optimizer.zero_grad()
            loss = losses[name](model(x), y)
            loss.backward(inputs=own)
            return loss

        return compute

    def train_on(x: torch.Tensor, y: torch.Tensor, last: bool) -> bool:
        """Whether every optimizer made its step."""
        nonlocal pending
        before[:] = [(buffer, buffer.clone()) for buffer in model.buffers()]
        for name, optimizer in optimizers.items():
            own = [p for group in optimizer.param_groups for p in group["params"]]
            if pending == 0:
                optimizer.zero_grad()
            pred = model(x)
            loss = losses[name](pred, y)
            if refused(loss.item()):
                return False
            count("train", name, pred, y, loss.item())
            loss.backward(inputs=own)
            pending += 1
            if pending < accumulate and not last:
                return False
            for p in own:
                if pending > 1:
                    p.grad /= pending
            if check_gradients and refused(sum(p.grad.double().square().sum().item() for p in own)):
                return False
            optimizer.step(replay(x, y, name, optimizer, own, loss) if closure else None)
            pending = 0
        ran.step += 1
        return True

    def train_an_epoch() -> None:
        nonlocal pending, exhausted
        pending, exhausted = 0, False
        whole.clear()
        model.train()
        batches, ended = numbered(data), False
        while not halt() and (ended or not out_of_steps()):
            batch = next(batches, None)
            if batch is None:
                exhausted = True
                record(complete=evaluate() if due(inside=False) else True)
                return
            (x, y), last = batch
            ended = sized and last
            ran.batches += 1
            ran.samples += len(x)
            # The last step's validation is that of the epoch's end, where that is known
            if train_on(x, y, last) and not ended and due(inside=True):
                evaluate()
                record(complete=False)
                model.train()
        record(complete=False)

    try:
        while not (halt() or (out_of_steps() and (ran.epoch < epochs or not exhausted))):
            if (
                patience is not None
                and ran.epoch >= min_epochs
                and waited(ran.rows, monitor) >= patience
            ):
                break
            if ran.epoch == epochs:
                ran.ended = "Completed"
                return ran
            ran.epoch += 1
            train_an_epoch()
        ran.ended = "Stopped"
    except FloatingPointError:
        ran.ended = "Failed"
    return ran


def numbered(data: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Each batch with whether it is the last one."""
    batches = iter(data)
    batch = next(batches, None)
    while batch is not None:
        after = next(batches, None)
        yield batch, after is None
        batch = after


def waited(rows: list[dict[str, Any]], monitor: str) -> int:
    """How many rows have gone by since the best one; a NaN is none."""
    best, since = math.inf, 0
    for row in rows:
        if monitor in row:
            better = row[monitor] < best
            best, since = (row[monitor], 0) if better else (best, since + 1)
    return since


def bits(model: torch.nn.Module, *optimizers: torch.optim.Optimizer) -> dict[str, bytes]:
    """Every bit of parameters, buffers and optimizer states, by name."""
    found = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                found[f"{i}.{j}.{name}"] = (
                    value.numpy().tobytes()
                    if isinstance(value, torch.Tensor)
                    else repr(value).encode()
                )
    return found
