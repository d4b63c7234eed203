"""The context: everything that a run knows."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
from attrs import Factory, define

from statetrain.context import keys
from statetrain.context.history import History, format_value
from statetrain.errors import MachineError
from statetrain.machine.position import Position
from statetrain.naming import did_you_mean

if TYPE_CHECKING:
    import torch

    from statetrain.callback import Callback
    from statetrain.compute.accelerator import Accelerator
    from statetrain.losses.losses import LossState
    from statetrain.losses.metrics import Tally

Batch = Any  # whatever the data yields: a tuple, a list, a dict, a dataclass, a tensor, nested


_ON_DEMAND = frozenset(("interms", "grads", "grad_norms", "updates", "update_norms"))


# What `flatten` shows: what belongs to a batch, and the counters; not what a run is made of.
_FLAT = (
    *(
        "hparams",
        "opt_hparams",
        "epoch",
        "iter",
        "valid_iter",
        "step",
        "samples",
        "batch",
        "input",
        "target",
        "batch_size",
        "opt_name",
    ),
    *(
        "params",
        "pred",
        "interms",
        "loss",
        "loss_value",
        "loss_states",
        "grads",
        "grad_norms",
        "grad_norm",
        "updates",
        "update_norms",
    ),
)


@define(eq=False, repr=False)
class Context(Position):
    """The extended state of a run. Fields stand in the order in which they come into being.

    Slots: a misspelt field is an error. What a callback wants to keep for itself goes into
    `buffers`.

    Any part can be read by a path: `ctx["batch.image"]`, `ctx["history[-1].valid_loss"]`.
    """

    # From before the run on.
    model: torch.nn.Module = None  # type: ignore[assignment]  # set before a run reads it
    loss_fns: dict[str, Callable[..., Any]] = Factory(dict)  # by optimizer
    # By name; a lone one is called "opt"
    optimizers: dict[str, torch.optim.Optimizer] = Factory(dict)
    train_data: Iterable[Batch] | None = None
    valid_data: Iterable[Batch] | None = None
    evaluations: dict[str, Iterable[Batch]] = Factory(dict)  # the data of evaluations with a name
    accelerator: Accelerator = None  # type: ignore[assignment]  # set before a run reads it
    callbacks: tuple[Callback, ...] = ()
    min_epochs: int = 0
    max_epochs: float = math.inf  # a whole number, or infinity
    hparams: dict[str, Any] = Factory(dict)  # what the model was made with
    opt_hparams: dict[str, Any] = Factory(dict)  # what the optimizers were made with
    read_batch: Callable[[Batch], Any] = None  # type: ignore[assignment]  # finds the layout of a batch
    # The part of the prediction that the loss and the metrics see; None is all
    pick: Callable[[Any], Any] | None = None
    on_host: bool = True  # whether the loss is read as a number in every batch
    # Computes the gradients in place of `loss.backward(inputs=)`
    backward: Callable[[torch.Tensor, Any], None] | None = None
    scaler: Any = None  # a torch.amp.GradScaler, where the lifecycle scales the loss of float16
    verbose: bool = True
    clock: Callable[[], float] = time.monotonic  # seconds from any moment on
    # What all keys of random numbers begin with; None: the generators go their own way
    seed: int | None = None
    streams: dict[str, torch.Generator] = Factory(dict)  # see `generator`
    # The generator's state with which the validation share was drawn; None if there is none
    split_state: Any = None
    # The optimizers as they were given: class, and settings by parameter group
    opt_given: dict[str, Any] = Factory(dict)
    buffers: dict[str, Any] = Factory(dict)  # free for callbacks
    history: History = Factory(History)
    # Columns that callbacks add to the next row; see `log_metric`
    logged: dict[str, Any] = Factory(dict)
    _records: dict[str, list[Any]] = Factory(dict)  # see `log`
    first_row: int = 0  # the row of the history with which this fit began
    first_step: int = 0  # steps that had been made when this fit began

    # Counters. They change on transitions and in actions only.
    epoch: int = 0  # the present epoch, from 1; 0 before the first
    iter: int = 0  # the present training batch of this epoch, from 1
    valid_iter: int = 0  # the present batch of this validation or evaluation, from 1
    step: int = 0  # steps of the optimizers made; a round of several optimizers is one
    samples: int = 0  # training samples drawn
    earlier_batches: int = 0  # training batches of earlier epochs
    started: float | None = None  # the clock when this fit began; None between fits
    earlier_seconds: float = 0.0  # what earlier fits took
    save_seconds: float = 0.0  # the longest that saving this run has taken

    # From `train` or `valid` on: set by the scope, put back when it closes.
    training: bool = False
    data: Iterable[Batch] | None = None  # the loader in use
    tally: Tally = None  # type: ignore[assignment]  # what is summed up for the next row: that of the set in use
    tallies: dict[str, Tally] = Factory(dict)  # all, by set
    iterator: Iterator[Batch] = None  # type: ignore[assignment]  # the training data's, for the whole epoch
    valid_iterator: Iterator[Batch] = None  # type: ignore[assignment]  # of the validation or evaluation under way
    # The generators' states when iterating over a set began; see `iterating`
    began: dict[str, Any] = Factory(dict)
    # When a run is continued: those of loaders that keep their position themselves
    loader_states: dict[str, Any] = Factory(dict)
    length: int | None = None  # training batches in an epoch; None if nobody can know
    exhausted: bool = False  # whether the epoch's training data has come to its end
    # At `record`: whether the epoch was made to its end, validation included
    epoch_complete: bool = False
    valid_complete: bool = False  # whether the last validation was made to its end

    # From `draw` on.
    drawn: bool = False  # whether there was a batch
    upcoming: Any = None  # the batch after this one, where accumulation has to know the last one
    last_batch: bool = False  # whether this is the epoch's last batch; known with accumulation only
    layout: Any = None  # how this loader's batches are read
    batch: Batch = None

    # From `batch` on, until the batch closes.
    input: Any = None
    target: Any = None
    batch_size: int = 0  # samples
    pending: int = 0  # batches whose gradients wait for a step
    # Set before a run reads it  # the current optimizer; set before `pred`, in validation too
    opt: torch.optim.Optimizer = None  # type: ignore[assignment]
    opt_name: str = ""
    opt_index: int = 0
    inputs: Any = None  # the parameters that backward fills; None is all
    loss_fn: Callable[..., Any] = None  # type: ignore[assignment]  # the current optimizer's
    # Makes the step in place of `opt.step()`
    step_opt: Callable[[torch.optim.Optimizer], Any] | None = None
    # Does the work of a fused state; None: its parts do, one after the other
    graph: Callable[[Any, Any], None] | None = None

    # By optimizer, the last losses, where something watches for spikes
    recent: dict[str, list[float]] = Factory(dict)

    # From `hold` or `keep` on, where the lifecycle has them.
    held: Any = None  # the model's buffers, with a copy of them as they were before this batch
    # The last good weights and optimizers' states, to go back to
    kept: dict[str, Any] | None = None
    rolled_back: int = 0  # how often this fit has gone back

    # A `masking.Mask`, where what is not finite is found on the device and told late
    mask: Any = None
    masked: int = 0  # steps that the device has left out, as far as the host knows
    first_masked: int = -1  # the number of the first of them; -1 if there is none
    told: int = 0  # masked steps that have led to something already

    # From `pred` on.
    pred: Any = None  # what the model returned
    # What its modules returned, by name: those that somebody reads; see `Capture`
    interms: keys.Named | None = None

    # From `loss` on.
    loss_grad: torch.Tensor = None  # type: ignore[assignment]  # shape (), with its graph
    # The same as a number; on a device, where nobody asks for the number, a tensor
    loss_value: Any = None
    # What each loss by keys gave: value, weight, count
    loss_states: dict[str, LossState] = Factory(dict)

    # From `backward` on, what somebody reads, by the parameters' names.
    grads: keys.Named | None = None  # the parameters' own
    grad_norms: keys.Named | None = None  # from `step` on, shape ()

    # From `step` on, likewise, when it has been made.
    updates: keys.Named | None = None  # by how much it changed them
    update_norms: keys.Named | None = None  # shape ()

    # From `grad_norm` on, where the lifecycle has it.
    grad_norm: float | None = None  # the norm of all gradients

    # From `unscale` on, where the lifecycle has it.
    # Whether the gradients of the scaled loss were too large for their type
    overflowed: bool = False

    # ------------------------------------------------------------ what follows from the fields

    @property
    def device(self) -> torch.device:
        """Where batches are placed and the model computes."""
        if self.accelerator is None:
            raise MachineError("this context has no accelerator, so no device")
        return self.accelerator.device

    @property
    def params(self) -> keys.Named:
        """The model's parameters by name, as they are now: `ctx["params.encoder.weight"]`, `ctx["params.**.bias"]`."""
        model = self.model if self.accelerator is None else self.accelerator.unwrap(self.model)
        return keys.Named(model.named_parameters())

    @property
    def loss(self) -> torch.Tensor | None:
        """The loss of this batch without its graph, shape ()."""
        return None if self.loss_grad is None else self.loss_grad.detach()

    @property
    def loss_total(self) -> torch.Tensor | None:
        """The same as `loss`: of several losses, the sum of weight times value."""
        return self.loss

    @property
    def batches(self) -> int:
        """Training batches drawn since the first epoch."""
        return self.earlier_batches + self.iter

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, by its clock, earlier fits included."""
        return self.earlier_seconds + self.fit_seconds

    @property
    def fit_seconds(self) -> float:
        """Seconds that this fit has taken."""
        return 0.0 if self.started is None else self.clock() - self.started

    @property
    def fit_steps(self) -> int:
        """Steps of the optimizers that this fit has made."""
        return self.step - self.first_step

    @property
    def row_due(self) -> bool:
        """Whether something has been counted or logged since the last row, so that `record` writes one."""
        return bool(self.logged) or any(
            mean.count for tally in self.tallies.values() for mean in tally.losses.values()
        )

    def rest(self) -> None:
        """Stops the clock and lets go of the data, between two fits."""
        self.earlier_seconds, self.started = self.seconds, None
        self.iterator = self.valid_iterator = self.upcoming = None  # type: ignore[assignment]  # there is none now

    def fit_rows(self) -> list[dict[str, Any]]:
        """The rows of the history that this fit has written; an earlier fit of the same run is not looked at."""
        return self.history[self.first_row :]

    def generator(self, name: str) -> torch.Generator:
        """A stream of random numbers of one's own, on the CPU: who draws from it moves nobody else's.

        It depends on the run's seed and the name; where there is no seed, on torch's initial one.
        It goes on where it was when a run is continued.

        Args:
            name: of the stream; a callback takes its own name.
        """
        if name not in self.streams:
            self.streams[name] = self.accelerator.stream(self.seed, name)
        return self.streams[name]

    # ------------------------------------------------------------ logging

    @property
    def records(self) -> Mapping[str, list[Any]]:
        """What was logged beside the history, by name. It is written by `log` alone."""
        return MappingProxyType(self._records)

    def log(self, name: str, value: Any) -> None:
        """Adds a value to the record of that name, beside the history. None is not added."""
        if value is not None:
            self._records.setdefault(name, []).append(value)

    def get_log(self, name: str, index: int = -1) -> Any:
        """A value of a record, the last one unless said; None if there is none."""
        values = self._records.get(name, [])
        return values[index] if -len(values) <= index < len(values) else None

    # The field's own word
    def log_metric(self, name: str, value: float, set: str | None = None) -> None:  # noqa: A002
        """Adds a column to the row of the history that is due: the next one, or after `record` this epoch's.

        A guard may monitor it if the callback declares `writes = {"history.<set>_<name>"}`.

        Args:
            name: the metric, without the set.
            value: a number.
            set: "train", "valid" or an evaluation's name; None is the one in use; "" gives the
                column the bare name.

        Raises:
            MachineError: no set was given where neither is in use.
        """
        if set is None:
            if self.tally is None:
                raise MachineError(
                    f"log_metric({name!r}, ...) was called in {self.state!r}, outside train and"
                    " valid; say set='train' or set='valid'"
                )
            set = self.tally.set  # noqa: A001  # as above
        column = f"{set}_{name}" if set else name
        late = (
            self.epoch_complete
            and len(self.history) > self.first_row
            and self.history[-1]["epoch"] == self.epoch
        )
        (self.history[-1] if late else self.logged)[column] = value

    # As above
    def get_metrics(self, set: str = "valid", epoch: int | None = None) -> dict[str, Any]:  # noqa: A002
        """The metrics of a set in an epoch's last row, by name without the set; empty if there are none.

        Args:
            set: "train", "valid" or an evaluation's name.
            epoch: counted from 1; None is the last one that has any.
        """
        return self.history.metrics(set, epoch)

    # As above
    def get_metric(self, name: str, set: str = "valid", epoch: int | None = None) -> Any:  # noqa: A002
        """One of `get_metrics`; None if there is none."""
        return self.get_metrics(set, epoch).get(name)

    # As above
    def format_metrics(self, set: str = "valid", epoch: int | None = None) -> str:  # noqa: A002
        """`get_metrics` for a person: `loss: 0.2931 - accuracy: 0.9412`."""
        return " - ".join(
            f"{name}: {format_value(value)}" for name, value in self.get_metrics(set, epoch).items()
        )

    def state_dict(self) -> dict[str, Any]:
        """What is left when a run is over: weights, rows of the history, records, hyperparameters. Tensors are the model's own.

        Arguments of models and optimizers that are more than plain data are given in words.
        """
        assert self.model is not None
        model = self.model if self.accelerator is None else self.accelerator.unwrap(self.model)
        return {
            "weights": dict(model.state_dict()),
            "history": list(self.history.rows),
            "optimizers": list(self.history.optimizers),
            "records": {name: list(values) for name, values in self.records.items()},
            "hparams": _in_words(self.hparams),
            "opt_hparams": _in_words(self.opt_hparams),
        }

    def clean(self) -> None:
        """Lets go of what a finished run needs no more: data, batch, callbacks' buffers. Model, history and records stay."""
        self.rest()
        self.train_data = self.valid_data = self.data = self.layout = None
        self.evaluations = {}
        self.batch = self.input = self.target = self.pred = self.loss_grad = None  # type: ignore[assignment]  # there is none now
        self.interms = self.grads = self.grad_norms = self.updates = self.update_norms = None
        self.buffers.clear()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def replace(self, **changes: Any) -> Context:
        """Another context with some fields changed; this one stays as it is. What both hold is shared, not copied.

        Raises:
            TypeError: there is no such field.
        """
        known = [field.name for field in attrs.fields(type(self))]
        for name in changes:
            if name not in known:
                raise TypeError(f"a context has no field {name!r}{did_you_mean(name, known)}")
        other = copy.copy(self)
        for name, value in changes.items():
            setattr(other, name, value)
        if "loss_fns" not in changes:  # those by keys are to read the new one
            other.loss_fns = {
                name: loss.read_from(other) if hasattr(loss, "read_from") else loss
                for name, loss in self.loss_fns.items()
            }
        if "loss_fn" not in changes and self.loss_fn is not None:
            own = [name for name, loss in self.loss_fns.items() if loss is self.loss_fn]
            other.loss_fn = other.loss_fns[own[0]] if own else self.loss_fn
        return other

    def flatten(self) -> dict[str, Any]:
        """All that a key can name of a batch and what it led to, by path, in the order in which it comes into being.

        That is counters, hyperparameters, batch, parameters, prediction, losses, and what is
        captured. What is not there is left out.
        """
        found: dict[str, Any] = {}
        for name in _FLAT:
            value = getattr(self, name) if name != "params" or self.model is not None else None
            found |= {
                path: leaf
                for path, leaf in keys.flatten(value, name).items()
                if leaf is not None and not (isinstance(leaf, dict | list) and not leaf)
            }
        return found

    def aux_state(self, *, losses: bool = True, metrics: bool = True) -> dict[str, dict[str, Any]]:
        """What the losses gave for the present batch, and the metrics for all batches of the set in use so far.

        The values of metrics are read on the host, so on a device this waits.

        Args:
            losses: whether to give `"losses"`: a `LossState` by name; of a plain loss one called
                "loss".
            metrics: whether to give `"metrics"`: values by name.
        """
        found: dict[str, dict[str, Any]] = {}
        if losses:
            plain = {"loss": (self.loss, 1.0, self.batch_size)} if self.loss is not None else {}
            found["losses"] = dict(self.loss_states) or plain
        if metrics:
            tally = (
                self.tally
                if self.tally is not None
                else next((one for one in reversed(self.tallies.values()) if one.compute()), None)
            )
            values = tally.compute() if tally is not None else {}
            found["metrics"] = (
                {name.removeprefix(f"{tally.set}_"): value for name, value in values.items()}
                if tally is not None
                else {}
            )
        return found

    def where(self) -> str:
        if not self.epoch:
            return f"batch {self.valid_iter}" if self.valid_iter else ""
        # Not by `training`, which a failure has put back when its note is written.
        batch = (
            f"validation batch {self.valid_iter}"
            if self.valid_iterator is not None
            else f"batch {self.iter}"
        )
        return f"epoch {self.epoch}, {batch}, step {self.step}"

    def advice(self, error: BaseException) -> str:
        from statetrain.training.advice import advice  # on a higher floor, and needed once

        return advice(self, error)

    def __getitem__(self, path: str) -> Any:
        """What lies at a path; see `statetrain.context.keys`.

        None is nothing, at any depth: `ctx["pred"]` before there is a prediction is an error as
        `ctx["pred.logits"]` is, and `ctx["pred?"]` gives None.

        Raises:
            KeyError: there is nothing; the message lists what is there.
        """
        if not isinstance(path, str):
            raise KeyError(f"a context is read by the names of its fields, got {path!r}")
        if (
            (root := keys.root_of(path)) in _ON_DEMAND
            and getattr(self, root) is None
            and not path.endswith("?")
        ):
            raise KeyError(
                f"{path!r} is not captured{f' in state {self.state!r}' if self.state else ''}: it"
                " is, while a batch is open, if a callback, a guard, a loss or a metric declares"
                f" it: reads = {{{path!r}}}"
            )
        if not path.isidentifier():
            return keys.get(self, path)
        try:
            found = getattr(self, path)
        except AttributeError:
            raise KeyError(
                "a context has no"
                f" {path!r}{did_you_mean(path, [name for name in dir(self) if not name.startswith('_')])}"
            ) from None
        if found is None:
            raise KeyError(
                f"{path!r} is None{f' in state {self.state!r}' if self.state else ''}; nothing is"
                " there yet, or at all"
            )
        return found

    def __repr__(self) -> str:
        return (
            "<Context:"
            f" {self.state or 'before the run'}{', ' + self.where() if self.where() else ''}>"
        )

    def __str__(self) -> str:
        def epochs() -> str:
            return (
                f"{self.epoch}"
                if self.max_epochs == math.inf
                else f"{self.epoch} of {self.max_epochs:g}"
            )

        lines = {
            "state": self.state or "before the run",
            "last transition": str(self.transition) if self.transition else "none",
            "outcome": (
                repr(self.outcome)
                if self.outcome
                else "still running"
                if self.state
                else "none yet"
            ),
            "epoch": epochs(),
            "batch": f"{self.iter}" + (f" of {self.length}" if self.length else ""),
            "step": str(self.step),
            "samples": str(self.samples),
            "time": f"{self.seconds:.1f} s",
            "loss": "none yet" if self.loss_value is None else _number(self.loss_value),
            "last row": (
                ", ".join(
                    f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}"
                    for k, v in self.history[-1].items()
                )
                if len(self.history)
                else "none yet"
            ),
        }
        width = max(map(len, lines))
        return "\n".join(f"{name.rjust(width)}  {value}" for name, value in lines.items())


def _in_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _in_words(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_in_words, value)) if type(value) in (list, tuple) else repr(value)
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _number(value: Any) -> str:
    try:
        return f"{float(value):.6g}"
    except (TypeError, ValueError, RuntimeError):  # no real number, or on a device that has failed
        return f"a {type(value).__name__} that cannot be read"
