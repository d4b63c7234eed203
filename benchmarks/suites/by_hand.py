"""A loop written by hand in plain torch, with the options that `fit` has, to compare combinations with.

It shares no code with the library. What is asked for is a `Combination`; `suites.combinations`
draws them and compares.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from attrs import Factory, define, frozen
from torch.nn import functional as F

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Loader = Callable[[], Iterator[Batch]]


@frozen
class Happening:
    """Something that a callback does in a hook.

    Args:
        what: "SkipBatch", "SkipEpoch" or "StopFit", which it raises; "stop", which it requests.
        where: the state on whose entering it happens.
        epoch: in which.
        iter: at which batch of the epoch; in a validation batch, of the validation.
    """

    what: str
    where: str
    epoch: int
    iter: int


@frozen(kw_only=True)
class Combination:
    """Options that meet. Sizes are those of the batches."""

    train_sizes: tuple[int, ...]
    valid_sizes: tuple[int, ...] | None = None
    sized: bool = True
    epochs: int = 2
    max_steps: int | None = None
    validate: tuple[int, str] | None = (1, "epochs")
    test: tuple[int, str] | str | None = None
    accumulate: int = 1
    weigh: str | None = None  # by a "mask" or a "size"
    non_finite: str = "raise"  # or a policy; "roll back" is RollBack(2, 0.5, Every(2, "steps"))
    late: bool = False
    check_gradients: bool = False
    bad_losses: tuple[int, ...] = ()  # batches with a NaN in their input
    bad_gradients: tuple[int, ...] = ()  # whose loss is finite, and whose gradients are not
    several: bool = False
    adam: bool = False
    fused: bool = False
    norm: bool = True
    dropout: float = 0.0
    seed: int | None = None
    clip: float | None = None
    ema: tuple[int, int, bool, bool] | None = None  # start, every, valid, restore
    keep_best: str | None = None  # "train" or "valid"
    rate: str | None = (
        None  # "step", "epoch", "plateau" of LRScheduler; "curve step", "curve epoch"
    )
    happenings: tuple[Happening, ...] = ()
    first: bool = True  # whether the callback that makes things happen is given first
    cuts: tuple[tuple[str, int, int], ...] = ()  # states, epochs and batches where the run is cut
    saved: tuple[int, str] = (1, "batches")


class Net(torch.nn.Module):
    """Two parts, so that two optimizers have one each."""

    def __init__(self, norm: bool, dropout: float) -> None:
        super().__init__()
        middle = [torch.nn.BatchNorm1d(5)] if norm else []
        self.body = torch.nn.Sequential(
            torch.nn.Linear(4, 5), *middle, torch.nn.ReLU(), torch.nn.Dropout(dropout)
        )
        self.head = torch.nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, 3); with a 5 as first number, their gradients are not finite."""
        pred: torch.Tensor = self.head(self.body(x))
        if x[0, 0].item() == 5.0:
            pred = pred + (0 * pred.sum()).abs().sqrt()  # the root of 0 has no derivative
        return pred


@define
class Ended:
    """How it went."""

    rows: list[dict[str, Any]] = Factory(list)
    epoch: int = 0
    step: int = 0
    samples: int = 0
    batches: int = 0
    outcome: str = ""


class _SkipBatch(Exception): ...


class _SkipEpoch(Exception): ...


class _StopFit(Exception): ...


class _NotFinite(Exception): ...


_EVENTS = {"SkipBatch": _SkipBatch, "SkipEpoch": _SkipEpoch, "StopFit": _StopFit}


def curve(count: int) -> float:
    """What a schedule of the learning rate gives."""
    return 0.1 / (1 + count)


@define
class Sums:
    """Totals and counts, by column."""

    entries: dict[str, list[float]] = Factory(dict)

    def add(self, name: str, total: float, count: float) -> None:
        """Adds to a column."""
        entry = self.entries.setdefault(name, [0.0, 0])
        entry[0] += total
        entry[1] += count


class ByHand:
    """The loop.

    Args:
        asked: the options.
        model: is trained in place.
        optimizers: by name.
        data: of "train", "valid" and "test".
        seeds: seeds the generators for a batch, by its number.
    """

    def __init__(
        self,
        asked: Combination,
        model: Net,
        optimizers: dict[str, torch.optim.Optimizer],
        data: dict[str, list[Batch]],
        seeds: Callable[[int], None],
    ) -> None:
        self.asked, self.model, self.optimizers, self.data = asked, model, optimizers, data
        self.seeds, self.ran = seeds, Ended()
        self.stopping = self.exhausted = self.complete = self.valid_complete = False
        self.iter = self.pending = 0
        self.marks: dict[str, int] = {}
        self.looked: dict[str, int] = {}
        self.sums = {name: Sums() for name in ("train", "valid", "test")}
        self.whole = Sums()
        self.average: Net | None = None
        self.averaged = 0
        self.best: tuple[float, dict[str, Any]] | None = None
        self.kept: tuple[Any, Any] | None = None
        self.rolled_back = self.masked = self.told = 0
        self.factor = 1.0
        self.window_bad, self.window_count = False, 0.0
        self.buffers: dict[str, torch.Tensor] = {}
        self.plateau: list[Any] = []
        self.scheduled = 0

    # ------------------------------------------------------------ what happens in hooks

    def enter(self, where: str, at: int | None = None) -> None:
        """What callbacks do when a state is entered."""
        at = self.iter if at is None else at
        for happening in self.asked.happenings:
            if (happening.where, happening.epoch, happening.iter) == (where, self.ran.epoch, at):
                if happening.what == "stop":
                    self.stopping = True
                else:
                    raise _EVENTS[happening.what]

    # ------------------------------------------------------------ the run

    def run(self) -> Ended:
        """Trains."""
        try:
            self.fit()
        except _StopFit:
            self.ran.outcome = "Stopped"
        except _NotFinite:
            self.ran.outcome = "Failed"
        if self.ran.outcome != "Failed":
            self.put_back(self.model)
        return self.ran

    def fit(self) -> None:
        """Epoch after epoch."""
        asked, ran = self.asked, self.ran
        self.schedule_begins()
        while True:
            self.between_epochs()
            stops = self.stopping or (
                self.out_of_steps() and (ran.epoch < asked.epochs or not self.exhausted)
            )
            if stops or ran.epoch >= asked.epochs:
                complete = self.complete
                self.test_at_end()
                if self.complete and not complete:
                    self.judge()
                    self.schedule_epoch()
                ran.outcome = "Stopped" if stops or self.stopping else "Completed"
                return
            ran.epoch += 1
            self.iter, self.complete = 0, False
            try:
                self.epoch()
            except _SkipEpoch:
                self.discard()
                self.exhausted = True
            except _StopFit:
                if asked.test != "end":
                    raise
                self.discard()
                self.stopping = True

    def between_epochs(self) -> None:
        """What is done before the next epoch."""
        if self.complete:
            self.judge()
            self.schedule_epoch()
        self.enter("next_epoch")

    def epoch(self) -> None:
        """One epoch, with its rows."""
        self.pending, self.exhausted = 0, False
        for sums in (*self.sums.values(), self.whole):
            sums.entries.clear()
        batches = self.batches()
        if self.asked.first:  # what happens in a hook keeps later callbacks from hearing it
            self.enter("epoch")
        if self.asked.rate == "curve epoch":
            self.set_rate(curve(self.ran.epoch - 1) * self.factor)
        if not self.asked.first:
            self.enter("epoch")
        while True:
            self.part(batches)
            self.settle()
            self.record()
            if not self.exhausted and not self.stops_inside():
                continue
            return

    def part(self, batches: Iterator[tuple[Batch, bool]]) -> None:
        """Trains until a row is due, and makes the evaluations that are due."""
        try:
            if self.train(batches):  # stopped
                return
        except _SkipEpoch:
            self.discard()
            self.exhausted = True
            self.window_bad = False
        except _StopFit:
            if self.asked.test != "end":
                raise
            self.discard()
            self.window_bad = False
            self.stopping = True
            return
        done = True
        if self.is_due("valid"):
            done = self.evaluate("valid")
        if done and self.is_due("test"):
            self.evaluate("test")

    def train(self, batches: Iterator[tuple[Batch, bool]]) -> bool:
        """Trains until an evaluation is due or the data is at its end; True if it has to stop."""
        self.model.train()
        self.valid_complete = True
        self.enter("train")
        while not self.stops_inside():
            self.keep_copy()
            item = next(batches, None)
            if item is None:
                self.exhausted = True
                return False
            self.iter += 1
            self.ran.batches += 1
            try:
                stepped = self.batch(*item)
            except _SkipBatch:
                self.discard()
                self.window_bad = False
                stepped = False
            self.after_batch()
            if stepped and self.evaluation_inside():
                return False
        return True

    def evaluation_inside(self) -> bool:
        """Whether an evaluation is due before the end of the epoch."""
        if self.at_the_end():
            return False
        return self.is_due("valid", inside=True) or self.is_due("test", inside=True)

    def batches(self) -> Iterator[tuple[Batch, bool]]:
        """The batches of an epoch, each with whether it is the last one."""
        data = self.data["train"]
        return iter([(batch, i + 1 == len(data)) for i, batch in enumerate(data)])

    def at_the_end(self) -> bool:
        """Whether it is known that no batch is left."""
        return self.asked.sized and self.iter == len(self.data["train"])

    def out_of_steps(self) -> bool:
        """Whether all steps have been made."""
        return self.asked.max_steps is not None and self.ran.step >= self.asked.max_steps

    def stops_inside(self) -> bool:
        """Whether the epoch is cut short."""
        return self.stopping or (self.out_of_steps() and not self.at_the_end())

    # ------------------------------------------------------------ a batch

    def batch(self, batch: Batch, last: bool) -> bool:
        """Trains on a batch; whether it made a step."""
        x, y, counts = batch
        if self.asked.seed is not None:
            self.seeds(self.ran.batches)
        self.enter("batch")
        self.ran.samples += self.size(batch)
        if self.pending == 0:
            self.clear()
        self.hold()
        stepped = True
        for name, optimizer in self.optimizers.items():
            if self.asked.several:
                optimizer.zero_grad()
                self.pending = 0
            stepped = self.turn(name, optimizer, (x, y, counts), last) and stepped
            if not stepped:
                return False
        self.ran.step += 1
        self.after_step()
        return True

    def turn(self, name: str, optimizer: Any, batch: Batch, last: bool) -> bool:
        """One optimizer's forward, backward and step; whether it made the step."""
        asked = self.asked
        own = [p for group in optimizer.param_groups for p in group["params"]]
        self.enter("pred")
        pred = self.model(batch[0])
        self.enter("loss")
        loss, total, count = self.loss(pred, batch)
        finite = math.isfinite(loss.item())
        if not finite and not asked.late and asked.non_finite != "ignore":
            self.refuse()
            return False
        if finite or not asked.late:
            self.sums["train"].add(self.column("train", name), total, count)
        else:
            self.window_bad = True
        self.enter("backward")
        weight = count if asked.weigh is not None and asked.accumulate > 1 else 1.0
        if self.pending == 0:
            self.window_count = 0.0
        self.window_count += weight
        (loss * weight).backward(inputs=own)
        self.pending += 1
        if self.pending < asked.accumulate and not last:
            return False
        divisor = self.window_count or 1.0
        if divisor != 1.0:
            for p in own:
                p.grad.div_(divisor)
        bad = not all(p.grad.isfinite().all() for p in own)
        if asked.check_gradients and bad:
            self.refuse()
            return False
        self.enter("step")
        if asked.clip is not None:
            torch.nn.utils.clip_grad_norm_(own, asked.clip)
        self.step(optimizer, bad)
        if asked.rate == "step" and name != "head":
            self.scale_rate(0.9)
        self.pending = 0
        return True

    def step(self, optimizer: Any, bad: bool) -> None:
        """The optimizer's step; a late check leaves it out."""
        if self.asked.late and (bad or self.window_bad):
            self.masked += 1
            self.load_buffers()
        else:
            optimizer.step()
        self.window_bad = False

    def loss(self, pred: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, float, float]:
        """The loss, its total and what that counts."""
        if self.asked.weigh == "mask":
            each = F.cross_entropy(pred, batch[1], reduction="none")
            number = int(batch[2].sum())
            zero = torch.zeros_like(each)
            loss = torch.where(batch[2], each, zero).sum() / max(number, 1)
            return loss, loss.item() * number, number
        loss = F.cross_entropy(pred, batch[1])
        return loss, loss.item() * self.size(batch), self.size(batch)

    def size(self, batch: Batch) -> int:
        """The number of samples."""
        return int(batch[2].sum()) if self.asked.weigh == "size" else len(batch[0])

    def column(self, kind: str, name: str) -> str:
        """Where a loss is written."""
        return f"{kind}_loss_{name}" if self.asked.several else f"{kind}_loss"

    def clear(self) -> None:
        """Drops all gradients."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def discard(self) -> None:
        """Drops the window."""
        self.clear()
        self.pending = 0

    # ------------------------------------------------------------ what is not finite

    def hold(self) -> None:
        """Remembers the buffers: of a late check once a window, else with each batch."""
        if not self.asked.late or self.pending == 0:
            self.buffers = {name: b.clone() for name, b in self.model.named_buffers()}

    def load_buffers(self) -> None:
        """Puts them back."""
        for name, buffer in self.model.named_buffers():
            buffer.copy_(self.buffers[name])

    def refuse(self) -> None:
        """What a batch that is not finite leads to."""
        policy = self.asked.non_finite
        self.load_buffers()
        self.discard()
        if policy == "roll back":
            if self.rolled_back >= 2 or self.kept is None:
                raise _NotFinite
            self.go_back()
        elif policy == "raise":
            raise _NotFinite
        self.stopping = self.stopping or policy == "stop"

    def settle(self) -> None:
        """What a late check has found is acted on before each row."""
        if not self.asked.late or self.masked == self.told:
            return
        self.told = self.masked
        if self.asked.non_finite == "raise":
            raise _NotFinite
        self.stopping = self.stopping or self.asked.non_finite == "stop"

    def keep_copy(self) -> None:
        """Keeps what can be gone back to."""
        if self.asked.non_finite != "roll back":
            return
        if self.kept is not None and self.ran.step // 2 <= self.marks.get("keep", 0) // 2:
            return
        self.marks["keep"] = self.ran.step
        tensors = self.model.state_dict().values()
        if all(tensor.isfinite().all() for tensor in tensors):
            states = {n: copy.deepcopy(o.state_dict()["state"]) for n, o in self.optimizers.items()}
            self.kept = copy.deepcopy(self.model.state_dict()), states

    def go_back(self) -> None:
        """Takes the copy, and halves the rates."""
        assert self.kept is not None
        weights, states = self.kept
        self.model.load_state_dict(weights)
        for name, optimizer in self.optimizers.items():
            groups = optimizer.state_dict()["param_groups"]
            state = copy.deepcopy(states[name])  # the optimizer goes on with what it is given
            optimizer.load_state_dict({"state": state, "param_groups": groups})
            for group in optimizer.param_groups:
                group["lr"] *= 0.5
        self.factor *= 0.5
        self.rolled_back += 1

    # ------------------------------------------------------------ schedules, averages, the best

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of the first optimizer."""
        for group in next(iter(self.optimizers.values())).param_groups:
            group["lr"] = rate

    def scale_rate(self, factor: float) -> None:
        """Multiplies it."""
        for group in next(iter(self.optimizers.values())).param_groups:
            group["lr"] *= factor

    def schedule_begins(self) -> None:
        """A curve sets the first rate."""
        if self.asked.rate in ("curve step", "curve epoch"):
            self.set_rate(curve(0))

    def schedule_epoch(self) -> None:
        """A schedule goes on after each complete epoch."""
        if self.asked.rate == "epoch" and self.scheduled != self.ran.epoch:
            self.scheduled = self.ran.epoch
            self.scale_rate(0.5)

    def after_batch(self) -> None:
        """A curve sets the rate of the next step."""
        if self.asked.rate == "curve step":
            self.set_rate(curve(self.ran.step) * self.factor)

    def after_step(self) -> None:
        """The average goes on."""
        if self.asked.ema is None:
            return
        start, every, _, _ = self.asked.ema
        since = self.ran.step - start
        if since > 0 and since % every == 0:
            self.take_in()

    def take_in(self) -> None:
        """Averages weights and statistics; a counter is copied."""
        self.averaged += 1
        if self.average is None:
            self.average = copy.deepcopy(self.model)
            return
        with torch.no_grad():
            own = self.model.state_dict()
            for name, mine in self.average.state_dict().items():
                if mine.is_floating_point():
                    mine.lerp_(own[name], 1 - 0.8)
                else:
                    mine.copy_(own[name])

    def judged(self) -> Net:
        """What evaluations look at."""
        if self.asked.ema is not None and self.asked.ema[2] and self.average is not None:
            return self.average
        return self.model

    def judge(self) -> None:
        """Keeps the weights of the best row."""
        kind = self.asked.keep_best
        if kind is None or not self.ran.rows:
            return
        name = self.column(kind, list(self.optimizers)[-1])
        value = self.ran.rows[-1].get(name, math.nan)
        weights = self.judged().state_dict()
        better = self.best is None or value < self.best[0]
        if (
            better
            and not math.isnan(value)
            and all(tensor.isfinite().all() for tensor in weights.values())
        ):
            self.best = value, copy.deepcopy(weights)

    def put_back(self, model: Net) -> None:
        """The weights that the run ends with."""
        if self.best is not None:
            model.load_state_dict(self.best[1])
        if self.asked.ema is not None and self.asked.ema[3] and self.average is not None:
            model.load_state_dict(self.average.state_dict())

    def ended(self) -> Net:
        """What the evaluation at the end looks at: the weights that the run ends with."""
        model = copy.deepcopy(self.judged())
        self.put_back(model)
        return model

    # ------------------------------------------------------------ evaluations and rows

    def is_due(self, kind: str, inside: bool = False) -> bool:
        """Whether an evaluation is due; asked at once it is marked by `evaluate`."""
        when = self.asked.validate if kind == "valid" else self.asked.test
        if kind not in self.data or when is None or isinstance(when, str):
            return False
        n, unit = when
        if unit == "epochs":
            return not inside and self.exhausted and self.crossed(kind, self.ran.epoch, n)
        if self.looked.get(kind) == self.ran.batches:
            return False
        return self.crossed(kind, self.ran.step, n)

    def crossed(self, kind: str, count: int, n: int) -> bool:
        """Whether a multiple of n has been reached since the last time."""
        return count // n > self.marks.get(kind, 0) // n

    def mark(self, kind: str) -> None:
        """Notes that an evaluation begins."""
        when = self.asked.validate if kind == "valid" else self.asked.test
        assert when is not None
        self.looked[kind] = self.ran.batches
        if not isinstance(when, str):
            self.marks[kind] = self.ran.epoch if when[1] == "epochs" else self.ran.step

    def test_at_end(self) -> None:
        """The evaluation at the end of the training, and its row."""
        if self.asked.test != "end":
            return
        for sums in (*self.sums.values(), self.whole):  # of an epoch that was left without a row
            sums.entries.clear()
        with contextlib.suppress(_SkipEpoch):
            self.mark("test")
            self.evaluate("test", to_the_end=True)
            self.record("end_record")

    def evaluate(self, kind: str, to_the_end: bool = False) -> bool:
        """Goes through data without training; False if that was broken off."""
        self.mark(kind)
        sums = self.sums[kind]
        sums.entries.clear()
        if kind == "valid":
            self.valid_complete = False
        model = self.ended() if to_the_end else self.judged()
        try:
            model.eval()
            self.enter(kind)
            with torch.no_grad():
                for i, batch in enumerate((*self.data[kind], None)):
                    if self.stopping and not to_the_end:
                        sums.entries.clear()
                        return False
                    if batch is not None:
                        self.evaluate_on(kind, model, batch, i + 1)
        except _SkipEpoch:
            sums.entries.clear()
            return False
        except _StopFit:
            if self.asked.test != "end" or kind != "valid":
                raise
            sums.entries.clear()
            self.discard()
            self.stopping = True
            return False
        finally:
            self.model.train()
        if kind == "valid":
            self.valid_complete = True
        return True

    def evaluate_on(self, kind: str, model: Net, batch: Batch, at: int) -> None:
        """One batch."""
        try:
            self.enter(f"{kind}_batch", at)
            for name in self.optimizers:
                _, total, count = self.loss(model(batch[0]), batch)
                self.sums[kind].add(self.column(kind, name), total, count)
        except _SkipBatch:
            pass

    def record(self, state: str = "record") -> None:
        """Writes a row, or completes the one that is there."""
        self.enter(state)
        ran = self.ran
        last = ran.rows[-1] if ran.rows and ran.rows[-1]["epoch"] == ran.epoch else None
        late = last is not None and self.complete
        self.complete = self.exhausted and self.valid_complete
        values = {}
        earlier = bool(self.whole.entries)
        for name, (total, count) in self.sums["train"].entries.items():
            self.whole.add(name, total, count)
        for sums in self.sums.values():
            for name, (total, count) in sums.entries.items():
                values[name] = total / count if count else 0.0
            sums.entries.clear()
        whole = {}
        if self.exhausted and earlier:
            parts = self.whole.entries.items()
            whole = {f"epoch_{name}": total / count for name, (total, count) in parts if count}
        if self.exhausted:
            self.whole.entries.clear()
        if last is not None and (late or (not values and last["step"] == ran.step)):
            last.update(values | whole)
            last["epoch_complete"] = self.complete
        elif values:
            row = {"epoch": ran.epoch, "batch": ran.batches, "step": ran.step}
            row |= {"samples": ran.samples, "epoch_complete": self.complete}
            ran.rows.append(row | values | whole)
        if self.asked.keep_best == "valid":
            self.judge()
