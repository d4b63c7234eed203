"""The context: everything that a run knows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs import define

from statetrain.context import keys
from statetrain.context.columns import as_columns, joined
from statetrain.context.fields import UNSET, Fact, check_value, field, fields_with, made_of
from statetrain.context.history import COUNTERS
from statetrain.context.overview import in_words, overview
from statetrain.context.position import Position
from statetrain.errors import MachineError
from statetrain.naming import did_you_mean

if TYPE_CHECKING:
    import torch

    from statetrain.callback import Callback
    from statetrain.compute.accelerator import Accelerator
    from statetrain.losses.losses import LossState
    from statetrain.losses.tally import Tally

Batch = Any  # whatever the data yields: a tuple, a list, a dict, a dataclass, a tensor, nested


@define(eq=False, repr=False, kw_only=True)
class Context(Position):
    """The extended state of a run. Fields stand in the order in which they come into being.

    Slots: a misspelt field is an error. What a callback wants to keep for itself goes into
    `buffers`. Each field says what it is, and lists of fields are computed from that: see
    `statetrain.context.fields`.

    Any part can be read by a path: `ctx["batch.image"]`, `ctx["history[-1].valid_loss"]`.
    """

    # ------------------------------------------------------------ from before the run on

    model: torch.nn.Module = field(Fact.SAVED_APART)
    """The model, as the accelerator has prepared it."""

    loss_fns: dict[str, Callable[..., Any]] = field(Fact.SAVED_APART, factory=dict)
    """The losses, by optimizer."""

    optimizers: dict[str, torch.optim.Optimizer] = field(Fact.SAVED_APART, factory=dict)
    """The optimizers by name; a lone one is called "opt"."""

    train_data: Iterable[Batch] | None = field(Fact.SAVED_APART)
    """The batches to train on."""

    valid_data: Iterable[Batch] | None = field(Fact.SAVED_APART)
    """The batches to validate on."""

    evaluations: dict[str, Iterable[Batch]] = field(Fact.SAVED_APART, factory=dict)
    """The data of named evaluations."""

    accelerator: Accelerator = field(Fact.ANEW, Fact.OPEN)
    """Where and how the model computes."""

    callbacks: tuple[Callback, ...] = field(Fact.SAVED_APART, Fact.OPEN, default=())
    """What listens, in the order in which it was given."""

    min_epochs: int = field(Fact.ANEW, default=0)
    """Epochs before the run may stop early."""

    max_epochs: float = field(Fact.ANEW, default=math.inf)
    """Epochs after which the run ends: a whole number, or infinity."""

    hparams: dict[str, Any] = field(Fact.SAVED_APART, Fact.SHOWN, factory=dict)
    """What the model was made with."""

    opt_hparams: dict[str, Any] = field(Fact.SAVED_APART, Fact.SHOWN, factory=dict)
    """What the optimizers were made with."""

    arguments: dict[str, Any] = field(Fact.ANEW, Fact.OPEN, factory=dict)
    """What `fit` was given, by name, for a fork of the run; see `Run.fork`."""

    read_batch: Callable[[Batch], Any] = field(Fact.ANEW)
    """Finds the layout of a batch."""

    pick: Callable[[Any], Any] | None = field(Fact.ANEW)
    """Gives the part of the prediction that the loss and the metrics see; None is all of it."""

    on_host: bool = field(Fact.ANEW, default=True)
    """Whether the loss is read as a number in every batch."""

    compute_gradients: Callable[[torch.Tensor, Any], None] | None = field(Fact.ANEW)
    """Computes the gradients in place of `loss.backward(inputs=)`."""

    advise: Callable[[Context, BaseException], str] | None = field(Fact.ANEW)
    """What to do about an error, as words for its note."""

    scaler: Any = field(Fact.SAVED_APART)
    """A `torch.amp.GradScaler`, where the lifecycle scales the loss of float16."""

    seed: int | None = field(Fact.SAVED_APART)
    """What all keys of random numbers begin with; None: torch's generators are used as they are."""

    chance: Any = field(Fact.ANEW, Fact.OPEN)
    """The run's hold on the global generators, a `compute.chance.Chance`; None without a seed."""

    announced: dict[int, tuple[Any, Any]] = field(Fact.ANEW, factory=dict)
    """For each part of the data that is told the epoch, its first and last number; see `epochs`."""

    streams: dict[str, torch.Generator] = field(Fact.SAVED_APART, factory=dict)
    """Generators by name; see `generator`."""

    split_state: Any = field(Fact.SAVED)
    """The generator's state with which the validation share was drawn; None without a share."""

    opt_given: dict[str, Any] = field(Fact.SAVED, factory=dict)
    """The optimizers as they were given: class, and settings by parameter group."""

    logged: dict[str, Any] = field(Fact.SAVED, factory=dict)
    """Columns that callbacks add to the next row; see `log_metric`."""

    logged_means: dict[str, tuple[Any, float]] = field(Fact.SAVED, Fact.OWN, factory=dict)
    """Means that callbacks add to the next row, as sums and what they count; see `log_mean`."""

    first_step: int = field(Fact.SAVED, default=0)
    """Steps that had been made when this fit began."""

    # ------------------------------------------------------------ counters

    epoch: int = field(Fact.SAVED, Fact.COUNTER, Fact.SHOWN, default=0)
    """The present epoch, from 1; 0 before the first."""

    iter: int = field(Fact.SAVED, Fact.COUNTER, Fact.SHOWN, default=0)
    """The present training batch of this epoch, from 1."""

    valid_iter: int = field(Fact.SAVED, Fact.COUNTER, Fact.SHOWN, default=0)
    """The present batch of this validation or evaluation, from 1."""

    step: int = field(Fact.SAVED, Fact.COUNTER, Fact.SHOWN, default=0)
    """Steps of the optimizers made; a round of several optimizers is one."""

    samples: int = field(Fact.SAVED, Fact.COUNTER, Fact.SHOWN, Fact.OWN, default=0)
    """Training samples drawn."""

    earlier_batches: int = field(Fact.SAVED, Fact.COUNTER, default=0)
    """Training batches of earlier epochs."""

    # ------------------------------------------------------------ from `train` or `valid` on

    training: bool = field(Fact.ANEW, default=False)
    """Whether a training batch is under way; the scope sets it, and puts it back when it closes."""

    data: Iterable[Batch] | None = field(Fact.ANEW, Fact.BORN)
    """The loader in use."""

    tally: Tally = field(Fact.ANEW, Fact.BORN)
    """What is summed up for the next row: that of the set in use."""

    tallies: dict[str, Tally] = field(Fact.SAVED_APART, factory=dict)
    """All tallies, by set."""

    epoch_sums: dict[str, dict[str, tuple[float, float]]] = field(
        Fact.SAVED, Fact.OWN, factory=dict
    )
    """Sums and counts of the training, by column and term, reported by this epoch's rows."""

    iterator: Iterator[Batch] = field(Fact.ANEW)
    """The iterator over the training data, for the whole epoch."""

    valid_iterator: Iterator[Batch] = field(Fact.ANEW)
    """The iterator over the data of the validation or evaluation under way."""

    began: dict[str, Any] = field(Fact.SAVED, factory=dict)
    """The generators' states when iterating over a set began; see `statetrain.data.iterating`."""

    loader_states: dict[str, Any] = field(Fact.SAVED_APART, factory=dict)
    """When a run is continued: the states of loaders that keep their position themselves."""

    length: int | None = field(Fact.ANEW, Fact.BORN)
    """Training batches in an epoch; None if the loader does not say."""

    exhausted: bool = field(Fact.SAVED, Fact.OWN, default=False)
    """Whether the epoch's training data has come to its end."""

    epoch_complete: bool = field(Fact.SAVED, default=False)
    """At `record`: whether nothing of the epoch is left, validation included; `SkipEpoch` leaves
    nothing, a stop within the epoch does."""

    valid_complete: bool = field(Fact.SAVED, default=False)
    """Whether the last validation was completed."""

    # ------------------------------------------------------------ from `draw` on

    drawn: bool = field(Fact.SAVED, Fact.BORN, Fact.OWN, default=False)
    """Whether there was a batch."""

    upcoming: Any = field(Fact.SAVED_APART)
    """The batch after this one, where accumulation has to know the last one."""

    last_batch: bool = field(Fact.SAVED, Fact.BORN, Fact.OWN, default=False)
    """Whether this is the epoch's last batch; known with accumulation only."""

    layout: Any = field(Fact.ANEW, Fact.BORN)
    """How this loader's batches are read."""

    batch: Batch = field(Fact.ANEW, Fact.BORN, Fact.OF_BATCH, Fact.SHOWN, Fact.OWN)
    """The batch, on the device."""

    # ------------------------------------------------------------ from `batch` on

    input: Any = field(Fact.ANEW, Fact.BORN, Fact.OF_BATCH, Fact.SHOWN, Fact.OWN)
    """The part of the batch that the model is called with."""

    target: Any = field(Fact.ANEW, Fact.BORN, Fact.OF_BATCH, Fact.SHOWN, Fact.OWN)
    """The part of the batch that the loss compares with; None if there is none."""

    batch_size: int = field(Fact.SAVED, Fact.BORN, Fact.OF_BATCH, Fact.SHOWN, Fact.OWN, default=0)
    """Samples in the batch."""

    pending: int = field(Fact.SAVED, default=0)
    """Batches whose gradients wait for a step."""

    window_unit: Any = field(Fact.SAVED, Fact.OWN, default=1.0)
    """What the first of the pending batches counts, where they are weighed."""

    window_count: Any = field(Fact.SAVED, Fact.OWN, default=0.0)
    """What the pending batches count together, relative to the first one."""

    opt: torch.optim.Optimizer = field(Fact.ANEW)
    """The current optimizer; set before `pred`, in validation too."""

    opt_name: str = field(Fact.SAVED, Fact.SHOWN, default="")
    """The current optimizer's name."""

    opt_index: int = field(Fact.SAVED, default=0)
    """The current optimizer's position among all."""

    inputs: Any = field(Fact.ANEW)
    """The parameters that backward fills; None is all."""

    loss_fn: Callable[..., Any] = field(Fact.ANEW)
    """The current optimizer's loss."""

    step_opt: Callable[[torch.optim.Optimizer], Any] | None = field(Fact.ANEW)
    """Makes the step in place of `opt.step()`."""

    compiled_step: Callable[[Any, Any], None] | None = field(Fact.ANEW)
    """Does the work of a fused state as one compiled function; None: its parts do, one after the
    other."""

    recent: dict[str, list[float]] = field(Fact.SAVED, Fact.OWN, factory=dict)
    """The last losses by optimizer, where something watches for spikes."""

    # ------------------------------------------------------------ with some options

    held: Any = field(Fact.ANEW)
    """From `hold` on: the model's buffers, with a copy of them as they were before this batch."""

    kept: dict[str, Any] | None = field(Fact.SAVED)
    """From `keep` on: the last good weights and optimizers' states, to go back to."""

    rolled_back: int = field(Fact.SAVED, default=0)
    """How often this fit has gone back."""

    mask: Any = field(Fact.SAVED_APART)
    """A `masking.Mask`: the device finds what is not finite, and the host reads it later."""

    masked: int = field(Fact.SAVED, default=0)
    """Steps that the device has left out, as far as the host knows."""

    first_masked: int = field(Fact.SAVED, default=-1)
    """The number of the first of them; -1 if there is none."""

    told: int = field(Fact.SAVED, default=0)
    """Masked steps that have been acted on already."""

    # ------------------------------------------------------------ from `pred` on

    pred: Any = field(Fact.ANEW, Fact.BORN, Fact.OF_BATCH, Fact.SHOWN, Fact.OWN)
    """What the model returned."""

    interms: keys.Named | None = field(
        Fact.ANEW, Fact.BORN, Fact.OF_BATCH, Fact.CAPTURED, Fact.SHOWN, Fact.OWN
    )
    """What its modules returned, by name, those that are read; see `Capture`."""

    # ------------------------------------------------------------ from `loss` on

    loss_grad: torch.Tensor = field(Fact.ANEW, Fact.BORN, Fact.OF_BATCH, Fact.OWN)
    """The loss with its graph, shape ()."""

    loss_value: Any = field(Fact.SAVED, Fact.BORN, Fact.OF_BATCH, Fact.SHOWN, Fact.OWN)
    """The loss as a number; on a device, where nothing reads the number, a tensor."""

    loss_states: dict[str, LossState] = field(Fact.ANEW, Fact.SHOWN, Fact.OWN, factory=dict)
    """What each loss by keys gave: value, weight, count."""

    # ------------------------------------------------------------ from `backward` on

    grads: keys.Named | None = field(Fact.ANEW, Fact.BORN, Fact.OF_BATCH, Fact.CAPTURED, Fact.SHOWN)
    """The gradients that are read, by the parameters' names: the parameters' own tensors."""

    grad_norms: keys.Named | None = field(Fact.ANEW, Fact.CAPTURED, Fact.SHOWN, made_of=("grads",))
    """From `step` on: the norms of gradients that are read, by name, each of shape ()."""

    updates: keys.Named | None = field(
        Fact.ANEW, Fact.BORN, Fact.OF_BATCH, Fact.CAPTURED, Fact.SHOWN
    )
    """When the step has been made: by how much it changed each parameter that is read."""

    update_norms: keys.Named | None = field(
        Fact.ANEW, Fact.BORN, Fact.OF_BATCH, Fact.CAPTURED, Fact.SHOWN
    )
    """The norms of these changes, by name, each of shape ()."""

    grad_norm: float | None = field(Fact.SAVED, Fact.BORN, Fact.SHOWN)
    """From `grad_norm` on, where the lifecycle has that state: the norm of all gradients."""

    overflowed: bool = field(Fact.SAVED, Fact.BORN, default=False)
    """From `unscale` on: whether the scaled loss's gradients were too large for their type."""

    # ------------------------------------------------------------ what follows from the fields

    @property
    @made_of("accelerator", facts=(Fact.OPEN,))
    def device(self) -> torch.device:
        """Where batches are placed and the model computes."""
        if self.accelerator is None:
            raise MachineError("this context has no accelerator, so no device")
        return self.accelerator.device

    @property
    @made_of("model", facts=(Fact.SHOWN,))
    def params(self) -> keys.Named:
        """The model's parameters by name, as they are now: `ctx["params.encoder.weight"]`."""
        model = self.model if self.accelerator is None else self.accelerator.unwrap(self.model)
        return keys.Named(model.named_parameters())

    @property
    @made_of("loss_grad", facts=(Fact.SHOWN,))
    def loss(self) -> torch.Tensor | None:
        """The loss of this batch without its graph, shape ()."""
        return None if self.loss_grad is None else self.loss_grad.detach()

    @property
    @made_of("loss_grad")
    def loss_total(self) -> torch.Tensor | None:
        """The same as `loss`: of several losses, the sum of weight times value."""
        return self.loss

    @property
    @made_of("earlier_batches", "iter")
    def batches(self) -> int:
        """Training batches drawn since the first epoch."""
        return self.earlier_batches + self.iter

    @property
    @made_of("step", "first_step")
    def fit_steps(self) -> int:
        """Steps of the optimizers that this fit has made."""
        return self.step - self.first_step

    @property
    @made_of("logged", "logged_means", "tallies")
    def row_due(self) -> bool:
        """Whether anything was counted or logged since the last row.

        If so, `record` writes a row.
        """
        return bool(self.logged or self.logged_means) or any(
            mean.count for tally in self.tallies.values() for mean in tally.losses.values()
        )

    def begin(self) -> None:
        """Leaves starting the clock to the table, whose state `fit` does it."""

    def rest(self) -> None:
        """Stops the clock and releases the iterators, between two fits."""
        Position.rest(self)
        self.iterator = self.valid_iterator = self.upcoming = UNSET

    @made_of("compute_gradients", "inputs")
    def backward(self, loss: torch.Tensor) -> None:
        """Computes the gradients of a loss as the accelerator does, for a computation of your own.

        With several optimizers, those of the current one's parameters.

        Args:
            loss: with its graph, shape ().
        """
        if self.compute_gradients is None:
            loss.backward(inputs=self.inputs)
        else:
            self.compute_gradients(loss, self.inputs)

    def generator(self, name: str) -> torch.Generator:
        """A separate stream of random numbers, on the CPU: drawing from it moves no other stream.

        It depends on the run's seed and the name; where there is no seed, on torch's initial one.
        When a run is resumed, it continues from where it was.

        Args:
            name: of the stream; a callback takes its own name.
        """
        if name not in self.streams:
            self.streams[name] = self.accelerator.stream(self.seed, name)
        return self.streams[name]

    # ------------------------------------------------------------ logging

    # The field's own word
    def log_metric(self, name: str, value: Any, set: str | None = None) -> None:  # noqa: A002
        """Adds a column to the next row of the history, or after `record` to this epoch's.

        A guard may monitor it if the callback declares `writes = {"history.<set>_<name>"}`.

        Args:
            name: the metric, without the set.
            value: a number, or a tensor; one of several numbers becomes several columns, as a
                metric's. A tensor on a device is read when the row is written.
            set: "train", "valid" or an evaluation's name; None is the one in use; "" gives the
                column the bare name.

        Raises:
            MachineError: no set was given where neither is in use, or the column is the run's own.
        """
        column = self._column("log_metric", name, set)
        if hasattr(value, "detach"):
            value = value.detach().clone()  # it may be changed before the row is written
        late = (
            self.epoch_complete
            and len(self.history) > self.first_row
            and self.history[-1]["epoch"] == self.epoch
        )
        if late:
            self.history[-1].update(as_columns(column, value))
        else:
            self.logged[column] = value

    # As above
    def log_mean(
        self,
        name: str,
        value: Any,
        set: str | None = None,  # noqa: A002
        *,
        weight: float | None = None,
    ) -> None:
        """Adds a value to a mean, which becomes a column of the next row of the history.

        Call it in each batch, or in some. Nothing waits for a device before the row is written. A
        guard may monitor the column as one of `log_metric`.

        Args:
            name: the metric, without the set.
            value: a number, or a tensor of shape ().
            set: as of `log_metric`.
            weight: what the value counts; None is the samples of the batch, so that the mean is
                that over samples, as a metric's. 1 weighs all batches alike.

        Raises:
            MachineError: as `log_metric`, or the value is not one number.
        """
        column = self._column("log_mean", name, set)
        if math.prod(getattr(value, "shape", ())) != 1:
            raise MachineError(
                f"log_mean({name!r}, ...) takes one number, got a tensor of shape"
                f" {tuple(value.shape)}; log its mean, or its parts by names of their own"
            )
        if hasattr(value, "detach"):
            value = self.accelerator.exact(value.detach())
        count = float(self.batch_size) if weight is None else weight
        total, counted = self.logged_means.get(column, (0.0, 0.0))
        self.logged_means[column] = total + value * count, counted + count

    def _column(self, method: str, name: str, set_name: str | None) -> str:
        """The column of a value that is logged.

        Raises:
            MachineError: no set was given where neither is in use, or the column is the run's own.
        """
        if set_name is None:
            if self.tally is None:
                raise MachineError(
                    f"{method}({name!r}, ...) was called in {self.state!r}, outside train and"
                    " valid; say set='train' or set='valid'"
                )
            set_name = self.tally.set
        column = joined(set_name, name)
        self._check_column(method, column)
        return column

    def _check_column(self, method: str, column: str) -> None:
        """Raises a `MachineError` for a column that the run writes itself."""
        own = ""
        if column in COUNTERS:
            own = "is a counter of every row"
        elif any(column in tally.columns for tally in self.tallies.values()):
            own = "is written by the run"
        if own:
            raise MachineError(f"{method}: the column {column!r} {own}; take another name")

    def take_logged(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what was logged for the next row, as numbers, and clears it.

        Args:
            row: the columns of the row so far.

        Raises:
            MachineError: one of them was logged, too.
        """
        logged: dict[str, Any] = {}
        for name, value in self.logged.items():
            logged |= as_columns(name, value)
        for name, (total, count) in self.logged_means.items():
            logged[name] = float(total) / count
        self.logged.clear()
        self.logged_means.clear()
        for column in logged.keys() & row.keys():
            raise MachineError(
                f"the column {column!r} was logged and is written by the run; log it under another"
                " name"
            )
        return logged

    @made_of("history")
    # As above
    def get_metrics(
        self,
        set: str = "valid",  # noqa: A002
        epoch: int | None = None,
    ) -> dict[str, Any]:
        """The metrics of a set in an epoch's last row, by name without the set.

        Empty if there are none.

        Args:
            set: "train", "valid" or an evaluation's name.
            epoch: counted from 1; None is the last one that has any.
        """
        return self.history.metrics(set, epoch)

    @made_of("history")
    # As above
    def get_metric(
        self,
        name: str,
        set: str = "valid",  # noqa: A002
        epoch: int | None = None,
    ) -> Any:
        """One of `get_metrics`; None if there is none."""
        return self.get_metrics(set, epoch).get(name)

    @made_of("history")
    # As above
    def format_metrics(self, set: str = "valid", epoch: int | None = None) -> str:  # noqa: A002
        """`get_metrics` for a person: `loss: 0.2931 - accuracy: 0.9412`."""
        shown = self.history.shown
        return " - ".join(
            f"{name}: {shown(joined(set, name), value)}"
            for name, value in self.get_metrics(set, epoch).items()
        )

    @made_of("model", "history", "records", "hparams", "opt_hparams")
    def state_dict(self) -> dict[str, Any]:
        """What remains when a run is over: weights, rows of the history, records, hyperparameters.

        Tensors are the model's own. Arguments of models and optimizers that are more than plain
        data are given as text.
        """
        assert self.model is not None
        model = self.model if self.accelerator is None else self.accelerator.unwrap(self.model)
        return {
            "weights": dict(model.state_dict()),
            "history": list(self.history.rows),
            "optimizers": list(self.history.optimizers),
            "sets": list(self.history.sets),
            "records": {name: list(values) for name, values in self.records.items()},
            "hparams": in_words(self.hparams),
            "opt_hparams": in_words(self.opt_hparams),
        }

    def clean(self) -> None:
        """Releases what a finished run no longer needs: data, batch, buffers of callbacks.

        Model, history and records stay.
        """
        self.rest()
        self.train_data = self.valid_data = self.data = self.layout = None
        self.evaluations, self.arguments = {}, {}
        self.batch = self.input = self.target = self.pred = self.loss_grad = UNSET
        for name in _CAPTURED:
            setattr(self, name, None)
        self.buffers.clear()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    # ------------------------------------------------------------ as a value

    def replace(self, **changes: Any) -> Context:
        """Another context with some fields changed; this one stays as it is.

        What both hold is shared, not copied.

        Raises:
            TypeError: there is no such field.
            ConfigError: a field cannot have that value.
        """
        known = [one.name for one in attrs.fields(type(self))]
        for name, value in changes.items():
            if name not in known:
                raise TypeError(f"a context has no field {name!r}{did_you_mean(name, known)}")
            check_value(type(self), name, value)
        other = copy.copy(self)
        for name, value in changes.items():
            setattr(other, name, value)
        if "loss_fns" not in changes:  # those by keys are to read the new one
            other.loss_fns = {name: _rebound(loss, other) for name, loss in self.loss_fns.items()}
        if "loss_fn" not in changes:
            selected = (name for name, loss in self.loss_fns.items() if loss is self.loss_fn)
            other.loss_fn = other.loss_fns.get(next(selected, ""), self.loss_fn)
        return other

    def flatten(self, *, separator: str | None = None) -> dict[str, Any]:
        """All that a key can name of a batch and its results, by path, in order of creation.

        That is parameters, hyperparameters, counters, batch, prediction, losses, and what is
        captured. What is not there is left out.

        Args:
            separator: what stands between the parts of each name; None gives paths that are keys.
        """
        found: dict[str, Any] = {}
        for name in _SHOWN:
            if name == "params" and self.model is None:
                continue
            for path, leaf in keys.flatten(getattr(self, name), name, separator=separator).items():
                empty = isinstance(leaf, dict | list) and not leaf
                if leaf is not None and not empty:
                    found[path] = leaf
        return found

    def aux_state(self, *, losses: bool = True, metrics: bool = True) -> dict[str, dict[str, Any]]:
        """The values of the losses for this batch, and of the metrics for the set so far.

        The values of metrics are read on the host, so on a device this waits.

        Args:
            losses: whether to give `"losses"`: a `LossState` by name; of a plain loss one called
                "loss".
            metrics: whether to give `"metrics"`: values by name.
        """
        found: dict[str, dict[str, Any]] = {}
        if losses:
            found["losses"] = dict(self.loss_states)
            if not self.loss_states and self.loss is not None:
                found["losses"] = {"loss": (self.loss, 1.0, self.batch_size)}
        if metrics:
            found["metrics"] = self._metrics_so_far()
        return found

    def _metrics_so_far(self) -> dict[str, Any]:
        """The metrics of the open set; outside of one, those of the last set that has any."""
        tallies = [self.tally]
        if self.tally is None:
            tallies = list(reversed(self.tallies.values()))
        for tally in tallies:
            values: dict[str, Any] = tally.compute()
            if values or tally is self.tally:
                start = f"{tally.set}_"
                return {name.removeprefix(start): value for name, value in values.items()}
        return {}

    def where(self) -> str:
        if not self.epoch:
            return f"batch {self.valid_iter}" if self.valid_iter else ""
        # Not by `training`, which a failure has put back when its note is written.
        batch = f"batch {self.iter}"
        if self.valid_iterator is not None:
            batch = f"validation batch {self.valid_iter}"
        return f"epoch {self.epoch}, {batch}, step {self.step}"

    def advice(self, error: BaseException) -> str:
        if self.advise is None:
            return ""
        return self.advise(self, error)

    def __getitem__(self, path: str) -> Any:
        """What lies at a path; see `statetrain.context.keys`.

        None is nothing, at any depth: `ctx["pred"]` before there is a prediction is an error as
        `ctx["pred.logits"]` is, and `ctx["pred?"]` gives None.

        Raises:
            KeyError: there is nothing; the message lists what is there.
        """
        if not isinstance(path, str):
            raise KeyError(f"a context is read by the names of its fields, got {path!r}")
        here = ""
        if self.state:
            here = f" in state {self.state!r}"
        root = keys.root_of(path)
        if root in _CAPTURED and getattr(self, root) is None and not path.endswith("?"):
            raise KeyError(
                f"{path!r} is not captured{here}: it is, while a batch is open, if a callback, a"
                f" guard, a loss or a metric declares it: reads = {{{path!r}}}"
            )
        if not path.isidentifier():
            return keys.get(self, path)
        try:
            found = getattr(self, path)
        except AttributeError:
            known = [name for name in dir(self) if not name.startswith("_")]
            raise KeyError(f"a context has no {path!r}{did_you_mean(path, known)}") from None
        if found is None:
            raise KeyError(f"{path!r} is None{here}; nothing is there yet, or at all")
        return found

    def __repr__(self) -> str:
        place = self.state or "before the run"
        return f"<Context: {', '.join(filter(None, (place, self.where())))}>"

    def __str__(self) -> str:
        return overview(self)


def _rebound(loss: Any, ctx: Context) -> Any:
    """A loss that reads another context; itself if it reads none."""
    if hasattr(loss, "read_from"):
        return loss.read_from(ctx)
    return loss


_CAPTURED, _SHOWN = fields_with(Context, Fact.CAPTURED), fields_with(Context, Fact.SHOWN)
