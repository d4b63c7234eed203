"""lr_find: a learning rate to start with, found on a copy (Smith 2017, arXiv 1506.01186)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import torch
from attrs import frozen

from statetrain.callback import Callback
from statetrain.compute.accelerator import choose_device
from statetrain.compute.copying import computed_in
from statetrain.compute.seeding import (
    own_states,
    owners_in,
    set_own_states,
    set_states,
    states,
)
from statetrain.errors import ConfigError
from statetrain.naming import did_you_mean
from statetrain.training.fitting import fit
from statetrain.training.valley import valley
from statetrain.validators import check_positive, check_whole, check_word, is_number

if TYPE_CHECKING:
    from statetrain.context.context import Context

Spacing = Literal["exponential", "linear"]

# Arguments of fit
_OWN = {
    "epochs",
    "lifecycle",
    "max_steps",
    "non_finite",
    "on_interrupt",
    "stop",
    "valid",
    "validate",
}
_MEMORY = 0.9  # of the smoothed loss, from one row to the next


class Trial(NamedTuple):
    """One step of the search.

    Attributes:
        lr: the rate that the step was made with.
        loss: of its batch, before the step.
        smoothed: the mean of the losses so far, each counting 0.9 times what the next one counts.
    """

    lr: float
    loss: float
    smoothed: float


@frozen(repr=False)
class LRFinder:
    """What `lr_find` found: a table of rates and losses.

    Attributes:
        rows: in the order of the rates.
        spacing: "exponential" or "linear".
        diverged: whether the loss grew so much that the search ended.
    """

    rows: tuple[Trial, ...]
    spacing: Spacing
    diverged: bool

    @overload
    def __getitem__(self, key: int) -> Trial: ...
    @overload
    def __getitem__(self, key: str) -> list[float]: ...
    def __getitem__(self, key: int | str) -> Trial | list[float]:
        """A row, or a column: "lr", "loss" or "smoothed"."""
        if isinstance(key, int):
            return self.rows[key]
        if key not in Trial._fields:
            raise KeyError(f"there is no column {key!r}{did_you_mean(key, Trial._fields)}")
        return [getattr(row, key) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.rows)

    def table(self) -> list[dict[str, float]]:
        """The rows as dicts of `lr`, `loss` and `smoothed`."""
        return [row._asdict() for row in self.rows]

    @property
    def suggestion(self) -> float | None:
        """The rate in the longest valley of the smoothed loss; None if it never falls.

        See `statetrain.training.valley`. It is a rate to train with, not the largest possible one.
        """
        place = valley(self["smoothed"])
        return None if place is None else self.rows[place].lr

    def plot(self, ax: Any = None) -> Any:
        """Draws the losses over the rates with matplotlib, and the suggestion.

        Args:
            ax: the axes to draw on; None makes new ones.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        if ax is None:
            try:
                import matplotlib.pyplot as plt
            except ImportError as error:
                raise ImportError(
                    "plot needs matplotlib; install it with: pip install 'statetrain[plot]'."
                    " table() gives the same as plain rows"
                ) from error
            _, ax = plt.subplots()
        ax.plot(self["lr"], self["loss"], ":", label="loss")
        ax.plot(self["lr"], self["smoothed"], label="smoothed")
        if self.suggestion is not None:
            ax.axvline(
                self.suggestion,
                color="0.6",
                linestyle="--",
                label=f"suggestion: {self.suggestion:.2g}",
            )
        if self.spacing == "exponential":
            ax.set_xscale("log")
        ax.set_xlabel("learning rate")
        ax.set_ylabel("loss")
        ax.legend()
        return ax

    def _repr_html_(self) -> str:
        from statetrain.notebook import table

        rows = [[f"{row.lr:.3e}", f"{row.loss:.4g}", f"{row.smoothed:.4g}"] for row in self.rows]
        return table(Trial._fields, rows, repr(self)[1:-1])

    def __repr__(self) -> str:
        text = f"{len(self)} rates"
        if self.rows:
            text += f" from {self.rows[0].lr:.2g} to {self.rows[-1].lr:.2g}"
        if self.diverged:
            text += ", where the loss diverged"
        suggestion = "none" if self.suggestion is None else f"{self.suggestion:.2g}"
        return f"<LRFinder: {text}; suggestion {suggestion}>"

    def __str__(self) -> str:
        """The table for a person."""
        lines = [
            Trial._fields,
            *((f"{row.lr:.3e}", f"{row.loss:.4g}", f"{row.smoothed:.4g}") for row in self.rows),
        ]
        return (
            "\n".join("  ".join(cell.rjust(10) for cell in line) for line in lines)
            + f"\n\n{self!r}"
        )


def lr_find(
    model: torch.nn.Module | type[torch.nn.Module],
    train: Any,
    *,
    loss: Callable[..., Any] | None = None,
    optimizer: torch.optim.Optimizer | Callable[..., torch.optim.Optimizer],
    opt_hparams: Mapping[str, Any] | None = None,
    start: float = 1e-7,
    end: float = 1.0,
    steps: int = 100,
    spacing: Spacing = "exponential",
    stop_above: float = 4.0,
    **options: Any,
) -> LRFinder:
    """Trains a copy while the learning rate grows from step to step, and records the losses.

    The model, the optimizer, the loss and the generators (torch's, Python's and NumPy's global
    ones, and those of a loader) are afterwards as they were before. All parameter groups of the
    optimizer get the same rate; its other settings stay. The training data is gone through as often
    as it takes.

    The loss is smoothed over some ten steps and momentum delays it further, so with few steps over
    many decades the suggestion comes late: give at least 50 steps a decade where there is momentum.

    Args:
        model, train, loss, optimizer, opt_hparams: as in `fit`; one optimizer.
        start: the rate of the first step, above 0.
        end: the rate of the last step, above `start`.
        steps: how many, at least 2.
        spacing: "exponential": each rate is the one before times the same factor; "linear": plus
            the same difference.
        stop_above: the search ends when the smoothed loss lies above its lowest by more than
            `stop_above - 1` times the lowest's size, or is not finite; infinity never stops it.
            Above 1.
        options: further arguments for `fit`, such as `input`, `device`, `accumulate` or
            `dataloader_options`.

    Returns:
        The table, with a suggestion and a plot.

    Raises:
        ConfigError: the arguments cannot make a search.
        BaseException: as `fit`.
    """
    rates = _rates(start, end, steps, spacing)
    if not is_number(stop_above) or not stop_above > 1:
        raise ConfigError(f"lr_find: stop_above must be a number above 1, got {stop_above!r}")
    if isinstance(optimizer, Mapping):
        raise ConfigError(
            f"lr_find searches the rate of one optimizer, got {len(optimizer)}; give one, and train"
            " the others' parts apart"
        )
    if taken := sorted(_OWN & set(options)):
        raise ConfigError(
            f"lr_find sets {', '.join(taken)} itself; leave"
            f" {'it' if len(taken) == 1 else 'them'} out"
        )
    callbacks = options.pop("callbacks", ())
    others = (callbacks,) if isinstance(callbacks, Callback) else tuple(callbacks)
    with generators_kept(train, options.get("device", "auto")):
        # Copied together: the optimizer's copy trains the model's copy.
        model, optimizer, loss = copy.deepcopy((model, optimizer, loss), computed_in(model))
        search = _Search(rates, stop_above)
        fit(
            model,
            train,
            loss=loss,
            optimizer=optimizer,
            opt_hparams=opt_hparams,
            epochs=None,
            max_steps=steps,
            non_finite="stop",
            callbacks=(*others, search),
            on_interrupt="raise",
            **{"verbose": False, **options},
        )
    return LRFinder(tuple(search.rows), spacing, search.diverged)


class _Search(Callback):
    """Sets the rate of each step, and notes the loss."""

    reads = {
        "on_enter_batch": ("pending",),
        "on_exit_loss": ("loss_value", "batch_size"),
        "on_exit_compute": ("loss_value", "batch_size"),
        "on_enter_step": ("opt",),
        "on_exit_step": ("pending",),
    }
    writes = {"on_enter_step": ("optimizers",)}

    def __init__(self, rates: list[float], stop_above: float) -> None:
        self.rows: list[Trial] = []
        self.diverged = False
        self._rates, self._stop_above = rates, stop_above
        self._total, self._samples = 0.0, 0  # of the batches of the step
        self._weighted = self._weights = 0.0  # what the smoothed loss is made of

    def on_enter_batch(self, ctx: Context) -> None:
        if ctx.pending == 0:  # a window begins; the one before may have been discarded
            self._total, self._samples = 0.0, 0

    def on_exit_loss(self, ctx: Context) -> None:
        self._count(ctx)

    def on_exit_compute(self, ctx: Context) -> None:
        self._count(ctx)

    def _count(self, ctx: Context) -> None:
        self._total += ctx.loss_value * ctx.batch_size
        self._samples += ctx.batch_size
        self.diverged = self.diverged or not math.isfinite(ctx.loss_value)

    def on_enter_step(self, ctx: Context) -> None:
        for group in ctx.opt.param_groups:
            group["lr"] = self._rates[len(self.rows)]

    def on_exit_step(self, ctx: Context) -> None:
        if ctx.pending:  # the step was left by an event
            return
        loss = self._total / self._samples
        self._weighted = _MEMORY * self._weighted + loss
        self._weights = _MEMORY * self._weights + 1
        self.rows.append(Trial(self._rates[len(self.rows)], loss, self._weighted / self._weights))
        lowest = min(row.smoothed for row in self.rows)
        if self.rows[-1].smoothed > lowest + (self._stop_above - 1) * abs(lowest):
            self.diverged = True
            ctx.request_stop("the loss diverged")


def _rates(start: float, end: float, steps: int, spacing: Spacing) -> list[float]:
    check_word("lr_find: spacing", spacing, ("exponential", "linear"))
    for name, value in (("start", start), ("end", end)):
        check_positive(f"lr_find: {name}", value, "learning rate")
    if not start < end:
        raise ConfigError(f"lr_find goes upwards, got start={start!r} and end={end!r}")
    check_whole("lr_find: steps", steps, 2)
    shares = [i / (steps - 1) for i in range(1, steps - 1)]
    if spacing == "exponential":
        between = [start * (end / start) ** share for share in shares]
    else:
        between = [start + (end - start) * share for share in shares]
    return [float(start), *between, float(end)]


@contextmanager
def generators_kept(train: Any, device: Any) -> Iterator[None]:
    """Restores the states of all generators that training may draw from."""
    owners = owners_in(train)
    own, shared = own_states(*owners), None
    if str(device) != "cpu":  # asking a device for its state starts it
        shared = choose_device(device)
    before = states(shared)
    try:
        yield
    finally:
        set_states(before, shared)
        set_own_states(own, *owners)
