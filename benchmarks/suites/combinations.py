"""Options that meet: random combinations of them against a loop by hand, and cut at random places.

A combination is drawn from its number. It is trained by `suites.by_hand` and by `fit`; weights,
buffers, optimizers, rows, counters and the outcome have to be equal to the bit. Then it is trained
again, cut at random places and resumed, and has to end as it did uncut.
"""

from __future__ import annotations

import contextlib
import math
import random
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from torch.nn import functional as F

import statetrain as st
from statetrain.compute.seeding import KeyStream
from suites.by_hand import Batch, ByHand, Combination, Ended, Happening, Net, curve
from suites.case import Case, listening, scratch

TITLE = "options that meet"
GOAL = 5000

BAD = {"bad_losses": math.nan, "bad_gradients": 5.0}
COLUMNS = ("epoch", "batch", "step", "samples", "epoch_complete")
SETS = ("train_loss", "valid_loss", "test_loss", "epoch_train_loss")


# ---------------------------------------------------------------- drawing combinations


def drawn(number: int) -> Combination:
    """The combination of a number."""
    draw = random.Random(number)
    sizes = tuple(draw.randint(2, 4) for _ in range(draw.randint(1, 6)))
    several = draw.random() < 0.2
    policy = draw.choice(("raise", "skip", "skip", "stop", "ignore", "roll back"))
    late = policy in ("raise", "skip", "stop") and draw.random() < 0.4
    trouble = draw.random() < 0.5
    places = range(len(sizes))
    valid = tuple(draw.randint(2, 4) for _ in range(draw.randint(1, 3)))
    ema = None
    if draw.random() < 0.4:
        ema = (draw.randint(0, 3), draw.randint(1, 3), draw.random() < 0.6, draw.random() < 0.4)
    keep_best = None
    if (ema is None or not ema[3]) and draw.random() < 0.35:
        keep_best = draw.choice(("train", "valid"))
    has_valid = draw.random() < 0.75 or keep_best == "valid"
    every = (draw.randint(1, 4), draw.choice(("epochs", "steps")))
    if every[1] == "epochs":
        every = (draw.randint(1, 2), "epochs")
    dropout = draw.choice((0.0, 0.3))
    epochs = draw.randint(1, 4)
    accumulate = 1 if several else draw.choice((1, 1, 2, 3))
    weigh = draw.choice((None, None, "mask", "size"))
    # Adam divides by gradients that are 0 but for rounding, and a weighed window is rounded otherwise
    adam = draw.random() < 0.4 and (weigh is None or accumulate == 1)
    return Combination(
        train_sizes=sizes,
        valid_sizes=valid if has_valid else None,
        sized=draw.random() < 0.7,
        epochs=epochs,
        max_steps=draw.choice((None, None, draw.randint(1, 9))),
        validate=every if keep_best == "valid" or (has_valid and draw.random() < 0.9) else None,
        test=draw.choice((None, None, (draw.randint(1, 3), "steps"), (1, "epochs"), "end")),
        accumulate=accumulate,
        weigh=weigh,
        non_finite=policy,
        late=late,
        check_gradients=policy != "ignore" and not late and draw.random() < 0.5,
        bad_losses=tuple(i for i in places if trouble and draw.random() < 0.2),
        bad_gradients=tuple(i for i in places if trouble and draw.random() < 0.15),
        several=several,
        adam=adam,
        fused=late and draw.random() < 0.5,
        norm=draw.random() < 0.6,
        dropout=dropout,
        seed=draw.choice((None, 7)),
        clip=draw.choice((None, None, 0.5)),
        ema=ema,
        keep_best=keep_best,
        rate=draw.choice((None, None, "step", "epoch", "curve step", "curve epoch")),
        happenings=tuple(
            _happening(draw, epochs, len(sizes)) for _ in range(draw.choice((0, 0, 1, 2)))
        ),
        first=draw.random() < 0.5,
        cuts=tuple(_place(draw, epochs, len(sizes)) for _ in range(draw.choice((1, 1, 2)))),
        saved=draw.choice(((1, "batches"), (1, "steps"), (2, "steps"), (1, "epochs"))),
    )


_SKIPPABLE = ("batch", "pred", "loss", "backward", "step", "valid_batch", "test_batch")
_ANYWHERE = (*_SKIPPABLE, "epoch", "train", "record", "valid", "test", "next_epoch")
_WITHIN = {
    "SkipBatch": _SKIPPABLE,
    "SkipEpoch": _ANYWHERE[:-1],
    "StopFit": _ANYWHERE,
    "stop": _ANYWHERE,
}


def _happening(draw: random.Random, epochs: int, batches: int) -> Happening:
    what = draw.choice(("SkipBatch", "SkipBatch", "SkipEpoch", "SkipEpoch", "StopFit", "stop"))
    return Happening(what, *_at(draw, draw.choice(_WITHIN[what]), epochs, batches))


def _place(draw: random.Random, epochs: int, batches: int) -> tuple[str, int, int]:
    return _at(draw, draw.choice(_ANYWHERE), epochs, batches)


def _at(draw: random.Random, where: str, epochs: int, batches: int) -> tuple[str, int, int]:
    """A place in the run: a state, the epoch, and the batch if the state counts batches."""
    if where == "epoch":
        return where, draw.randint(1, epochs), 0
    return where, draw.randint(1, epochs), draw.randint(1, batches)


# ---------------------------------------------------------------- both ways of training


def made(asked: Combination) -> tuple[Net, dict[str, Any], dict[str, list[Batch]]]:
    """A model, its optimizers and the data; the same each time."""
    torch.manual_seed(3)
    # Of windows that are weighed, sums are made in another order: so in float64, with a tolerance
    kind = torch.float64 if is_weighed(asked) else torch.float32
    model = Net(asked.norm, asked.dropout).to(kind)
    parts = {"body": model.body, "head": model.head} if asked.several else {"opt": model}
    optimizers: dict[str, Any] = {}
    for name, part in parts.items():
        if asked.adam:
            optimizers[name] = torch.optim.Adam(part.parameters(), lr=0.05, fused=asked.fused)
        else:
            optimizers[name] = torch.optim.SGD(
                part.parameters(), lr=0.1, momentum=0.9, fused=asked.fused
            )
    data = {"train": _batches(asked.train_sizes, 1, kind), "test": _batches((3, 2), 5, kind)}
    for field, value in BAD.items():
        for place in getattr(asked, field):
            data["train"][place][0][0, 0] = value
    if asked.valid_sizes is not None:
        data["valid"] = _batches(asked.valid_sizes, 2, kind)
    torch.manual_seed(4)
    return model, optimizers, data


def _batches(sizes: tuple[int, ...], seed: int, kind: torch.dtype) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for n in sizes:
        x = torch.randn(n, 4, generator=generator).to(kind)
        y = torch.randint(3, (n,), generator=generator)
        counts = torch.rand(n, generator=generator) < 0.6
        counts[0] = True
        batches.append((x, y, counts))
    return batches


def is_weighed(asked: Combination) -> bool:
    """Whether the batches of a window have different weights."""
    return asked.weigh is not None and asked.accumulate > 1


class Happen(st.Callback):
    """Lets happen what a combination says, and cuts the run where it is told to."""

    def __init__(self, asked: Combination, cut: tuple[str, int, int] | None) -> None:
        self.happenings, self.cut = asked.happenings, cut
        self.fired = False
        for name in _ANYWHERE:
            if name.startswith("test") and asked.test is None:
                continue
            there = [h for h in self.happenings if h.where == name]
            if there or (cut is not None and cut[0] == name):
                setattr(self, f"on_enter_{name}", partial(self.act, name))

    def act(self, name: str, ctx: Any) -> None:
        """Does what is to be done in a state."""
        if ctx.state != name:  # an evaluation is heard as a validation, too
            return
        at = ctx.valid_iter if name in ("valid_batch", "test_batch") else ctx.iter
        if self.cut == (name, ctx.epoch, at):
            self.fired = True
            raise Cut
        for happening in self.happenings:
            if (happening.where, happening.epoch, happening.iter) == (name, ctx.epoch, at):
                if happening.what == "stop":
                    ctx.request_stop("enough")
                else:
                    raise getattr(st, happening.what)("it happens")


class Cut(Exception):
    """The power fails."""


def callbacks_for(asked: Combination, cut: tuple[str, int, int] | None) -> list[st.Callback]:
    """The callbacks that a combination asks for."""
    found: list[st.Callback] = []
    name = "body" if asked.several else "opt"
    named = {"optimizer": name} if asked.several else {}
    rates = torch.optim.lr_scheduler
    if asked.clip is not None:
        found.append(st.GradientClip(asked.clip))
    if asked.rate == "step":
        found.append(st.LRScheduler(rates.ExponentialLR, per="step", gamma=0.9, **named))
    if asked.rate == "epoch":
        found.append(st.LRScheduler(rates.ExponentialLR, per="epoch", gamma=0.5, **named))
    if asked.rate in ("curve step", "curve epoch"):
        found.append(st.Schedule(f"{name}.lr", curve, per=asked.rate.split()[1]))  # type: ignore[arg-type]
    if asked.ema is not None:
        start, every, valid, restore = asked.ema
        found.append(st.EMA(0.8, start=start, every=every, valid=valid, restore=restore))
    if asked.keep_best is not None:
        column = f"{asked.keep_best}_loss" + "_head" * asked.several
        found.append(st.KeepBest(column, "min"))
    happen = Happen(asked, cut)
    return [happen, *found] if asked.first else [*found, happen]


def by_hand(asked: Combination) -> dict[str, Any]:
    """How it goes by hand."""
    model, optimizers, data = made(asked)
    seed = partial(_seed, asked.seed)
    loop = ByHand(asked, model, optimizers, data, seed)
    ran = loop.run()
    return state_of(model, optimizers, ran) | {"average": _bits(loop.average)}


def _seed(seed: int | None, batch: int) -> None:
    """The seed of a batch is the run's choice; that it is the batch's own is what matters."""
    torch.default_generator.manual_seed(KeyStream(seed, "batch").key(batch))


def by_fit(asked: Combination, folder: Path | None = None, cut: Any = None) -> dict[str, Any]:
    """How it goes with `fit`; with a folder, saved there, and going on from what is there."""
    model, optimizers, data = made(asked)
    callbacks = callbacks_for(asked, cut)
    if folder is not None:
        saving = st.Checkpoint(folder, st.Every(*asked.saved), preflight=False)  # type: ignore[arg-type]
        callbacks = [*callbacks, saving]
    train: Any = data["train"] if asked.sized else partial(_read, data["train"])
    loss: Any = F.cross_entropy
    if asked.weigh == "mask":
        loss = st.Loss(F.cross_entropy, input="pred", target="batch[1]", mask="batch[2]")
    options: dict[str, Any] = {"finite_check": "late"} if asked.late else {}
    if asked.valid_sizes is not None:
        options["valid"] = data["valid"]
        options["validate"] = None if asked.validate is None else st.Every(*asked.validate)  # type: ignore[arg-type]
    try:
        run = st.fit(
            model,
            train,
            loss=loss,
            optimizer=optimizers if asked.several else optimizers["opt"],
            epochs=asked.epochs,
            max_steps=asked.max_steps,
            evaluations=_evaluations(asked, data["test"]),
            callbacks=callbacks,
            input="[0]",
            target="[1]",
            size=_size if asked.weigh == "size" else None,
            seed=asked.seed,
            accumulate=asked.accumulate,
            non_finite=_policy(asked.non_finite),
            check_gradients=asked.check_gradients,
            resume=None if folder is None else "last",
            verbose=False,
            device="cpu",
            **options,
        )
    except st.NonFiniteLoss as error:
        run = error.run  # type: ignore[attr-defined]  # a promise of `fit`
    ctx = run.ctx
    ended = Ended(
        [dict(row) for row in run.history],
        ctx.epoch,
        ctx.step,
        ctx.samples,
        ctx.batches,
        type(run.outcome).__name__,
    )
    ema = next((one for one in callbacks if isinstance(one, st.EMA)), None)
    average = ema.model if ema is not None and ema._count else None
    return state_of(model, ctx.optimizers, ended) | {"average": _bits(average)}


def _read(batches: list[Batch]) -> Iterator[Batch]:
    yield from batches


def _size(batch: Batch) -> int:
    return int(batch[2].sum())


def _policy(name: str) -> Any:
    return st.RollBack(2, 0.5, st.Every(2, "steps")) if name == "roll back" else name


def _evaluations(asked: Combination, data: Any) -> list[st.Evaluation]:
    if asked.test is None:
        return []
    when: Any = asked.test if isinstance(asked.test, str) else st.Every(*asked.test)  # type: ignore[arg-type]
    return [st.Evaluation("test", data, when)]


def state_of(model: Net, optimizers: Any, ran: Ended) -> dict[str, Any]:
    """All that is compared: every tensor, the rates, the rows, the counters, the outcome."""
    found = {
        "outcome": ran.outcome,
        "counters": (ran.epoch, ran.step, ran.samples, ran.batches),
        "rows": [_row(row) for row in ran.rows],
        "weights": _bits(model),
    }
    for name, optimizer in optimizers.items():
        found[f"rate of {name}"] = [float(group["lr"]) for group in optimizer.param_groups]
        own = [p for group in optimizer.param_groups for p in group["params"]]
        found[f"state of {name}"] = [_state(optimizer.state.get(p, {})) for p in own]
    return found


def _state(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state of a parameter; zeros are as good as none, which a fused one begins with."""
    kept = {name: value for name, value in state.items() if value is not None and value.any()}
    return {name: _plain(value) for name, value in kept.items()}


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in row.items() if n in COLUMNS or n.startswith(SETS)}


def _bits(model: Any) -> Any:
    if model is None:
        return None
    return {name: _plain(value) for name, value in model.state_dict().items()}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


# ---------------------------------------------------------------- comparing


def differences(one: Any, other: Any, tolerance: float, path: str = "") -> Iterator[str]:
    """Where two nested values differ; a NaN equals a NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in one.keys() | other.keys():
            if name not in one or name not in other:
                yield f"{path}.{name} is in one only"
            else:
                yield from differences(one[name], other[name], tolerance, f"{path}.{name}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield f"{path} has {len(one)}, and {len(other)}"
        for i, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from differences(a, b, tolerance, f"{path}[{i}]")
    elif not _same(one, other, tolerance):
        yield f"{path} is {one!r}, and {other!r}"


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        if tolerance:
            return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    return bool(one == other)


def compare_by_hand(asked: Combination) -> None:
    """Trains a combination by hand and with `fit`.

    Raises:
        AssertionError: they differ; it says where.
    """
    # The sums of weighed windows are made in another order here
    tolerance = 1e-9 if is_weighed(asked) else 0.0
    with _silent():
        wrong = sorted(differences(by_hand(asked), by_fit(asked), tolerance))
    assert not wrong, f"by hand, and with fit: {'; '.join(wrong[:6])}; {asked}"


def compare_resumed(asked: Combination) -> int:
    """Trains a combination uncut, and cut and resumed; how often it was cut.

    Raises:
        AssertionError: they differ; it says where.
    """
    count = 0
    with _silent(), scratch() as base:
        for cut in asked.cuts:
            with contextlib.suppress(Cut):
                by_fit(asked, base / "run", cut)
                break  # the run does not come to that place
            count += 1
        if count == 0:
            return 0
        resumed = by_fit(asked, base / "run")
        wrong = sorted(differences(by_fit(asked), resumed, 0.0))
    assert not wrong, f"uncut, and resumed: {'; '.join(wrong[:6])}; {asked}"
    return count


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What is warned of and logged about the troubles is no news."""
    with listening(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def cases() -> list[Case]:
    """Distinct combinations: by hand, and others that are cut and resumed."""
    against = [
        Case(f"combination {i}, by hand", partial(_by_number, compare_by_hand, i))
        for i in range(4000)
    ]
    resumed = [
        Case(f"combination {i}, resumed", partial(_by_number, compare_resumed, i))
        for i in range(1000)
    ]
    return against + resumed


def _by_number(compare: Callable[[Combination], object], number: int) -> object:
    return compare(drawn(number))


def reduced(asked: Combination, fails: Callable[[Combination], bool]) -> Combination:
    """A simpler combination that fails as well: each option is left out while it still does."""
    simple = Combination(train_sizes=(2,))
    again = True
    while again:
        again = False
        for field in attrs.fields(Combination):
            for value in _simpler(getattr(asked, field.name), getattr(simple, field.name)):
                smaller = attrs.evolve(asked, **{field.name: value})
                if fails(smaller):
                    asked, again = smaller, True
                    break
    return asked


def _simpler(value: Any, simplest: Any) -> Iterator[Any]:
    if value == simplest:
        return
    yield simplest
    if isinstance(value, tuple):
        yield from (value[:i] + value[i + 1 :] for i in range(len(value)) if len(value) > 1)
