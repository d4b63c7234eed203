"""The standard lifecycles: supervised training, evaluation, prediction.

`supervised()` starts from the table below. Each option is an edit of it, made in a fixed order; an
option that is off adds no state and no arrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs
from attrs import frozen

from statetrain.contracts.declaring import Access, access_of
from statetrain.errors import ConfigError, LossError
from statetrain.events import SkipBatch, SkipEpoch, StopFit
from statetrain.guards.base import AnyOf, Guard, as_guard, leaves
from statetrain.guards.criteria import (
    Accumulating,
    Every,
    Masked,
    MaxSteps,
    MinEpochs,
    NonFinite,
    NotYet,
    Once,
    Spike,
    another_optimizer,
    batch_drawn,
    batches_left,
    interrupted,
    more_epochs,
    stop_requested,
    train_data_left,
)
from statetrain.guards.stopping import holds_of_nothing
from statetrain.lifecycle.lifecycle import FAILED, Lifecycle, State, Transition
from statetrain.naming import did_you_mean, label_of
from statetrain.standard import actions as do
from statetrain.standard.fusing import check_word, fuse, in_the_way
from statetrain.standard.modes import Evaluating, Quiet, Training
from statetrain.standard.precision import Precision, mixed_precision, refuse_late_scale
from statetrain.standard.rollback import RollBack, keeping
from statetrain.standard.rollback import arrows as rolling_back

if TYPE_CHECKING:
    from statetrain.context.context import Context

Policy = Literal["raise", "skip", "stop", "ignore"] | RollBack
When: TypeAlias = Guard | Literal["end"]

# Names that hooks may mention though an option that is off leaves the state out.
STANDARD = frozenset(
    (
        *(
            "fit",
            "next_epoch",
            "epoch",
            "train",
            "next_batch",
            "draw",
            "batch",
            "pred",
            "loss",
            "backward",
            "grad_norm",
            "compute",
            "counted",
            "hold",
            "keep",
            "report",
            "settle",
        ),
        *(
            "unscale",
            "step",
            "update",
            "valid",
            "next_valid_batch",
            "valid_draw",
            "valid_batch",
            "valid_pred",
            "valid_loss",
            "valid_compute",
            "collect",
        ),
        *(
            "record",
            "end",
            "predict",
            "next_predict_batch",
            "predict_draw",
            "predict_batch",
            "predict_pred",
        ),
    )
)


@frozen
class _Stops:
    """When a run is to stop at once, by where that is asked. Steps alone cut nothing short: an epoch that they end with is whole.

    Args:
        guards: of which one has to hold.
    """

    guards: tuple[Guard, ...]

    def between_epochs(self) -> Guard:
        """Any of them."""
        return self._named(self.guards)

    def in_epoch(self) -> Guard:
        """But for the last step where it is an epoch's last too: its data is found to be at its end, and validation is asked about."""
        return self._named(
            guard & batches_left if isinstance(guard, MaxSteps) else guard for guard in self.guards
        )

    def in_validation(self) -> Guard:
        """But for steps, of which a validation makes none: one that is due at the last step is made."""
        return self._named(guard for guard in self.guards if not isinstance(guard, MaxSteps))

    @staticmethod
    def _named(guards: Iterable[Guard]) -> Guard:
        return reduce(or_, guards).named("stop now")


def _training(stops: _Stops) -> Lifecycle:
    """Training alone: no validation, no option."""
    return Lifecycle(
        "supervised",
        states=[
            State("fit", do.begin, mode=Quiet()),
            State("next_epoch", within="fit", anchor=True),
            State("epoch", do.open_epoch, "fit", close=do.close_epoch, reopen=do.reopen_epoch),
            State("train", do.open_train, "epoch", mode=Training()),
            State("next_batch", within="train", anchor=True),
            State("draw", do.draw, "train"),
            State("batch", do.open_batch, "train", close=do.close_batch),
            State("pred", do.pred, "batch"),
            State("loss", do.loss, "batch"),
            State("backward", do.backward, "batch"),
            State("step", do.step, "batch"),
            State("record", do.record, "epoch"),
            State("end", final=True),
        ],
        transitions=[
            Transition("fit", "next_epoch"),
            Transition("next_epoch", "end", stops.between_epochs(), do.say_why),
            Transition("next_epoch", "epoch", more_epochs, do.count_epoch),
            Transition("next_epoch", "end"),
            Transition("epoch", "train"),
            Transition("train", "next_batch"),
            Transition("next_batch", "record", stops.in_epoch()),
            Transition("next_batch", "draw"),
            Transition("draw", "batch", batch_drawn, do.count_batch),
            Transition("draw", "record"),
            Transition("batch", "pred"),
            Transition("pred", "loss"),
            Transition("loss", "backward", effect=do.count_loss),
            Transition("backward", "step"),
            Transition("step", "next_batch"),
            Transition("record", "next_epoch"),
            Transition("draw", "next_batch", effect=do.discard_window, event=SkipBatch),
            Transition("batch", "next_batch", effect=do.discard_window, event=SkipBatch),
            Transition("train", "record", effect=do.end_epoch_early, event=SkipEpoch),
            Transition("epoch", "next_epoch", effect=do.end_epoch_early, event=SkipEpoch),
            Transition("fit", "end", effect=do.say_why, event=StopFit),
            Transition("fit", "end", effect=do.say_why, event=KeyboardInterrupt),
        ],
        also=STANDARD,
    )


def _loop_states(name: str, within: str | None) -> list[State]:
    """The states of going through validation data without training: `valid`, or `predict`."""
    return [
        State(
            name,
            do.open_valid,
            within,
            mode=Evaluating(),
            close=do.close_valid,
            reopen=do.reopen_valid,
        ),
        State(f"next_{name}_batch", within=name, anchor=True),
        State(f"{name}_draw", do.valid_draw, name),
        State(f"{name}_batch", do.open_valid_batch, name, close=do.close_batch),
        State(f"{name}_pred", do.pred, f"{name}_batch"),
    ]


def _evaluation_states(name: str, within: str) -> list[State]:
    """The same for an evaluation with a name of its own."""
    opening = State(
        name,
        do.OpenEvaluation(name),
        within,
        mode=Evaluating(name),
        close=do.close_valid,
        reopen=do.ReopenEvaluation(name),
    )
    return [
        opening,
        *(
            attrs.evolve(s, action=do.evaluation_draw) if s.name == f"{name}_draw" else s
            for s in _loop_states(name, within)[1:]
        ),
    ]


def _loop_arrows(name: str, after: str, stop: Transition) -> list[Transition]:
    head, draw, batch = f"next_{name}_batch", f"{name}_draw", f"{name}_batch"
    return [
        Transition(name, head),
        stop,
        Transition(head, draw),
        Transition(draw, batch, batch_drawn, do.count_valid_batch),
        Transition(draw, after),
        Transition(batch, f"{name}_pred"),
        Transition(draw, head, event=SkipBatch),
        Transition(batch, head, event=SkipBatch),
    ]


def _valid_part(
    within: str | None, stop: Transition, name: str = "valid"
) -> list[State | Transition]:
    """States and arrows of a validation, or of an evaluation with a name of its own."""
    states = (
        _loop_states(name, within) if name == "valid" else _evaluation_states(name, within or "")
    )
    return [
        *states,
        State(f"{name}_loss", do.valid_loss, f"{name}_batch"),
        *_loop_arrows(name, "record", stop),
        Transition(f"{name}_pred", f"{name}_loss"),
        Transition(f"{name}_loss", f"next_{name}_batch"),
        Transition(
            name,
            "record",
            effect=do.drop_validation if name == "valid" else do.DropEvaluation(name),
            event=SkipEpoch,
        ),
    ]


def supervised(
    *,
    stop: Guard | None = None,
    non_finite: Policy = "raise",
    check_gradients: bool = False,
    spike: Spike | None = None,
    accumulate: int = 1,
    validate: Guard | None = Every(1, "epochs"),  # noqa: B008  # a frozen value
    optimizers: int = 1,
    closure: bool = False,
    max_steps: int | None = None,
    min_epochs: int = 0,
    compute: Callable[[Any], Any] | None = None,
    valid_compute: Callable[[Any], Any] | None = None,
    precision: Precision | None = None,
    seeded: bool = False,
    buffers: bool = False,
    check: Literal["now", "late"] = "now",
    evaluations: Mapping[str, When] | None = None,
    fused: bool | Literal["auto"] = False,
    prefetch: bool = False,
) -> Lifecycle:
    """The lifecycle of supervised training, with the options that are on.

    Args:
        stop: ends the run when it holds. What reads the history is asked between epochs; what reads
            counters, the clock or a request (`TimeLimit`, `MaxSteps`, ...) at every loop head.
        non_finite: what a NaN or infinite loss leads to, before it can reach the weights. "raise"
            fails the run, "skip" goes on with the next batch, "stop" ends the run, a `RollBack`
            goes back to the last good weights with a lower learning rate, "ignore" draws no arrow.
        check_gradients: whether a state `grad_norm` computes the norm of all gradients after each
            backward, with the same policy: a finite loss can have gradients that are not.
        spike: what counts as a loss far above those before, as `Spike(4)`; it has the same policy.
        accumulate: batches whose averaged gradients make one step; a short last window counts by
            its own length.
        validate: when to validate: `Every(n, "epochs")` at the end of epochs, another unit inside
            them; None never.
        optimizers: how many. With several, each in turn takes `pred`, `loss`, `backward` and
            `step`, and backward fills only its own parameters.
        closure: whether the optimizers' steps compute the loss again, as often as they like
            (LBFGS): `step` then replays `pred`, `loss` and `backward`.
        max_steps: ends the fit after that many steps of the optimizers; None is no limit. What is
            due at the last of them is done: a validation, and the end of the epoch if that was its
            last batch (of data with a length).
        min_epochs: epochs before which a `stop` that reads the history is not asked.
        compute: a function of the context in place of `pred`, `loss` and `backward`: it calls
            backward itself and returns the loss.
        valid_compute: the same for validation, in place of `valid_pred` and `valid_loss`: it
            returns the loss.
        precision: "bf16" or "fp16", or a `MixedPrecision`: see `mixed_precision`.
        seeded: whether all generators are seeded for each batch, by the run's seed and the batch's
            number. `fit` turns it on when it is given a seed.
        buffers: whether a state `hold` copies the buffers before each batch, so that one that is
            refused leaves no NaN in batch norm's running statistics. `fit` turns it on for a model
            that has buffers.
        check: when it is known whether a loss is finite. "now": before its backward, which on a
            device waits for the loss of every batch. "late": the device itself leaves out the step
            of a window whose loss or gradients are not finite, nobody waits, and the policy acts
            when the host hears of it, at most 100 steps later and at `record`. This takes fused
            optimizers, such as `torch.optim.AdamW(..., fused=True)`; for others the host reads a
            flag before each step.
        evaluations: more evaluations, by name, each with its condition: an interval (`Every`),
            `Once(n, unit)`, any other guard, asked at the end of epochs, or "end", when the
            training ends. See `Evaluation`.
        fused: whether `pred`, `loss`, `backward` and `step` are one state, `update`; "auto": where
            no guard is asked in between. This takes `check="late"`, or `non_finite="ignore"`. See
            `fuse`.
        prefetch: whether `draw` stays one batch ahead, and begins to place that one on the device
            while the one before is trained on. `fit` turns it on for CUDA only.

    Raises:
        ConfigError: an option is out of range, or two exclude each other.
    """
    _check_options(non_finite, spike, accumulate, validate, optimizers, max_steps, min_epochs)
    check_word(fused)
    if closure and (accumulate > 1 or compute is not None):
        other = "accumulate" if accumulate > 1 else "compute"
        raise ConfigError(
            f"closure and {other} exclude each other: a step that replays one batch has no window"
            " and no function to call"
        )
    now, between_epochs = _split(stop)
    _check_stop(between_epochs, min_epochs)
    limits = (MaxSteps(max_steps),) if max_steps is not None else ()
    stops = _Stops((stop_requested, *limits, *now))
    life = _training(stops)
    if between_epochs is not None:
        asked = MinEpochs(min_epochs) & between_epochs if min_epochs else between_epochs
        at = life.between("next_epoch", "epoch")[0]
        life = life.add(Transition("next_epoch", "end", asked, do.say_why), before=at)
    if validate is not None:
        life = _validating(life, stops, as_guard(validate))
    for name, when in (evaluations or {}).items():
        life = _evaluating(
            life,
            name,
            when,
            stops,
            (
                between_epochs
                if not min_epochs or between_epochs is None
                else MinEpochs(min_epochs) & between_epochs
            ),
        )
    if compute is not None:
        life = _computing(life, compute)
    if valid_compute is not None:
        for name in _evaluated(life):
            life = _valid_computing(life, valid_compute, name)
    if accumulate > 1:
        life = _accumulating(life, accumulate)
    if prefetch:
        life = life.replace("draw", action=do.draw_prefetched)
    if check not in ("now", "late"):
        raise ConfigError(
            "check must be 'now' or 'late', got"
            f" {check!r}{did_you_mean(str(check), ('now', 'late'))}"
        )
    if non_finite != "ignore" and check == "now":
        life = _refusing(
            life,
            "loss" if compute is None else "compute",
            NonFinite() if spike is None else NonFinite() | spike,
            non_finite,
        )
    if spike is not None:
        life = _watching(life, spike)
    if isinstance(non_finite, RollBack):
        life = keeping(life, non_finite)
    if check_gradients:
        life = life.insert(State("grad_norm", do.grad_norm), between=(_last(life), "step"))
        if non_finite != "ignore":
            life = _refusing(life, "grad_norm", NonFinite("gradients"), non_finite)
    if optimizers > 1:
        life = _alternating(life)
    if closure:
        life = life.replace(
            "step", action=do.step_one_with_closure if optimizers > 1 else do.step_with_closure
        )
    if buffers and non_finite != "ignore":
        life = _holding(life)
    if check == "late":
        _check_late(
            non_finite,
            {
                "check_gradients": check_gradients,
                "spike": spike is not None,
                "closure": closure,
                "compute": compute,
            },
            precision,
        )
        life = _masking(life, non_finite)
    if seeded:
        life = _seeding(life)
    life = life if precision is None else mixed_precision(life, precision)
    return fuse(life) if fused is True or (fused == "auto" and not in_the_way(life)) else life


def _check_options(
    non_finite: Any,
    spike: Any,
    accumulate: int,
    validate: Any,
    optimizers: int,
    max_steps: int | None,
    min_epochs: int,
) -> None:
    policies = ("raise", "skip", "stop", "ignore")
    if non_finite not in policies and not isinstance(non_finite, RollBack):
        hint = did_you_mean(str(non_finite), policies)
        raise ConfigError(
            f"non_finite must be one of {', '.join(map(repr, policies))}, or a RollBack(), got"
            f" {non_finite!r}{hint}"
        )
    if spike is not None and not isinstance(spike, Spike):
        raise ConfigError(f"spike must be a Spike, such as Spike(4), got {spike!r}")
    if spike is not None and non_finite == "ignore":
        raise ConfigError(
            "spike has the policy of non_finite, which is 'ignore'; say what a spike leads to, as"
            " non_finite='skip'"
        )
    if isinstance(validate, int | float):
        raise ConfigError(
            f"validate takes an interval with its unit, got {validate!r}; write Every({validate},"
            f' "epochs") or Every({validate}, "steps")'
        )
    for name, value, least in (
        ("accumulate", accumulate, 1),
        ("optimizers", optimizers, 1),
        ("max_steps", 1 if max_steps is None else max_steps, 1),
        ("min_epochs", min_epochs, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if optimizers > 1 and accumulate > 1:
        raise ConfigError(
            "accumulation with several optimizers has no one meaning: is a window one of each, or"
            " of all? Write your own lifecycle: start from supervised(optimizers=2) and add the"
            " arrows that you mean"
        )


def _split(stop: Guard | None) -> tuple[tuple[Guard, ...], Guard | None]:
    """The parts of a stop guard that are asked at every loop head, and what is left for between epochs."""
    if stop is None:
        return (), None
    stop = as_guard(stop)
    parts = stop.parts() if isinstance(stop, AnyOf) else (stop,)
    rest = [part for part in parts if not part.prompt]
    return tuple(part for part in parts if part.prompt), reduce(or_, rest) if rest else None


def _check_stop(between_epochs: Guard | None, min_epochs: int) -> None:
    if between_epochs is None or min_epochs or not holds_of_nothing(between_epochs):
        return
    monitor = between_epochs.monitors[0]
    raise ConfigError(
        f"stop=[{between_epochs.label}] holds as long as nothing has been recorded, so the run"
        " would end before its first epoch; "
        f'turn the criterion round, or say that there has to be a row: NumberLimit("{monitor}", 1)'
        " & ~..."
    )


def _last(life: Lifecycle) -> str:
    """The state in which a batch's gradients are there: `backward`, or what stands for it."""
    return next(name for name in ("counted", "compute", "backward") if name in life.names)


def _validating(life: Lifecycle, stops: _Stops, validate: Guard) -> Lifecycle:
    due = validate.named("validation due")
    life = life.add(
        *_valid_part(
            "epoch",
            Transition("next_valid_batch", "record", stops.in_validation(), do.drop_validation),
        ),
        Transition("draw", "valid", due),
        Transition("train", "valid", due, do.end_epoch_early, event=SkipEpoch),
        before=life.between("train", "record")[0],
    )
    # After a step, only the intervals that can end inside an epoch are asked: a new epoch has
    # crossed those in epochs.
    inside, _ = _inside(validate)
    if inside is not None:
        life = _going_on(
            life.add(Transition("step", "valid", inside.named("validation due"))), stops
        )
    return life


def _inside(guard: Guard) -> tuple[Guard | None, Guard | None]:
    """The parts of a condition that can hold inside an epoch, and those that are asked at its end."""
    parts = guard.parts() if isinstance(guard, AnyOf) else (guard,)
    inside = [
        part
        for part in parts
        if any(isinstance(leaf, Every | Once) and leaf.unit != "epochs" for leaf in leaves(part))
    ]
    rest = [part for part in parts if part not in inside]
    return reduce(or_, inside) if inside else None, reduce(or_, rest) if rest else None


def _going_on(life: Lifecycle, stops: _Stops) -> Lifecycle:
    """With the arrow that leads from a record inside an epoch back to the training."""
    if any((arrow.source, arrow.dest) == ("record", "train") for arrow in life.transitions):
        return life
    return life.add(
        Transition(
            "record",
            "train",
            (train_data_left & ~stops.in_epoch()).named("train data left, no stop"),
        ),
        first=True,
    )


def _evaluating(
    life: Lifecycle, name: str, when: When, stops: _Stops, asked: Guard | None
) -> Lifecycle:
    """With an evaluation: after the validation, or after the last record."""
    _check_name(life, name)
    if isinstance(when, str):
        if when != "end":
            raise ConfigError(
                f'evaluation {name!r}: its condition is a guard such as Every(2, "epochs"), or'
                f" 'end', got {when!r}"
            )
        last = ~more_epochs if asked is None else ~more_epochs | asked
        ends = (
            NotYet()
            & ~interrupted
            & (stops.in_epoch() | ~train_data_left & (stops.between_epochs() | last))
        )
        part = _valid_part(
            "epoch",
            Transition(f"next_{name}_batch", "record", interrupted, do.DropEvaluation(name)),
            name,
        )
        return life.add(*part, Transition("record", name, ends.named("training ends")))
    due, words = as_guard(when), f"{name} due"
    inside, at_end = _inside(due)
    over = None if at_end is None else ~train_data_left & at_end
    now = over if inside is None else inside if over is None else inside | over
    assert now is not None
    earlier = [f"{other}_draw" for other in _evaluated(life) if not _at_end(life, other)]
    life = life.add(
        *_valid_part(
            "epoch",
            Transition(
                f"next_{name}_batch", "record", stops.in_validation(), do.DropEvaluation(name)
            ),
            name,
        ),
        *(Transition(source, name, now.named(words)) for source in ("draw", *earlier)),
        Transition("train", name, due.named(words), do.end_epoch_early, event=SkipEpoch),
        before=next(arrow for arrow in life.between("train", "record") if arrow.event is SkipEpoch),
    )
    return (
        life
        if inside is None
        else _going_on(life.add(Transition("step", name, inside.named(words))), stops)
    )


def _check_name(life: Lifecycle, name: str) -> None:
    own = {
        f"{before}{name}{after}"
        for before, after in (
            ("", ""),
            ("next_", "_batch"),
            ("", "_draw"),
            ("", "_batch"),
            ("", "_pred"),
            ("", "_loss"),
        )
    }
    taken = sorted(own & ({*life.names, "train", FAILED} | STANDARD))
    if not name.isidentifier() or taken:
        why = f"{taken[0]!r} is taken" if taken else "it begins names of states and columns"
        raise ConfigError(
            f"an evaluation cannot be called {name!r}: {why}; choose a word such as 'test'"
        )


def _evaluated(life: Lifecycle) -> list[str]:
    """The scopes that evaluate, in order."""
    return [state.name for state in life.states if isinstance(state.mode, Evaluating)]


def _at_end(life: Lifecycle, name: str) -> bool:
    return any((arrow.source, arrow.dest) == ("record", name) for arrow in life.transitions)


_MADE_OF_LOSS = Access(
    {"on_host", "pending"}, {"loss_grad", "loss_value", "interms", "grads", "pending"}
)
_MADE_OF_VALID_LOSS = Access(
    {"on_host", "batch_size", "tally", "opt_name", "opt_index", "pred?", "pick", "target", "**"},
    {"loss_grad", "loss_value", "tally"},
)


@frozen
class Compute:
    """A user's function as the action of `compute` or `valid_compute`; the loss is what it returns."""

    function: Callable[[Any], Any]
    training: bool = True

    @property
    def label(self) -> str:
        """What the table says."""
        return label_of(self.function)

    @property
    def access(self) -> Access | None:
        """What the function declares, and what is made of the loss; None if it declares nothing."""
        own = access_of(self.function)
        return (
            None if own is None else own | (_MADE_OF_LOSS if self.training else _MADE_OF_VALID_LOSS)
        )

    def __call__(self, ctx: Context) -> None:
        loss = self.function(ctx)
        if loss is None:
            raise LossError(
                f"{self.label} must return the loss of the batch, got None; end it with: return"
                " loss"
            )
        tensor = hasattr(loss, "detach")
        ctx.loss_grad = loss if tensor else None  # type: ignore[assignment]
        try:
            ctx.loss_value = (
                float(loss)
                if not tensor
                else loss.item()
                if ctx.on_host
                else ctx.accelerator.exact(loss)
            )
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            if tensor and loss.numel() == 1:
                raise  # the device's own error, which shows where it is waited for
            raise LossError(
                f"{self.label} must return the loss as a scalar tensor or a number, got"
                f" {type(loss).__name__}: {loss!r:.80}"
            ) from error
        if self.training:
            ctx.pending += 1
        else:
            do.count_loss(ctx)


def _computing(life: Lifecycle, compute: Callable[[Any], Any]) -> Lifecycle:
    life = life.insert(State("compute", Compute(compute)), between=("batch", "pred")).without(
        "pred", "loss", "backward"
    )
    return life.alter(life.between("compute", "step")[0], effect=do.count_loss)


def _valid_computing(
    life: Lifecycle, compute: Callable[[Any], Any], name: str = "valid"
) -> Lifecycle:
    state = State(f"{name}_compute", Compute(compute, training=False))
    return life.insert(state, between=(f"{name}_batch", f"{name}_pred")).without(
        f"{name}_pred", f"{name}_loss"
    )


def _accumulating(life: Lifecycle, batches: int) -> Lifecycle:
    if "compute" in life.names:  # the loss is counted while the batch is still open
        life = life.insert(State("counted"), between=("compute", "step"))
    last = _last(life)
    return (
        life.replace("draw", action=do.draw_ahead)
        .alter(life.between(last, "step")[0], effect=do.average_window)
        .add(Transition(last, "next_batch", Accumulating(batches)))
    )


def _refusing(life: Lifecycle, state: str, guard: Guard, policy: Policy) -> Lifecycle:
    if isinstance(policy, RollBack):
        return life.add(*rolling_back(state, guard, policy), first=True)
    arrow = {
        "raise": Transition(state, FAILED, guard, do.raise_non_finite),
        "skip": Transition(state, "next_batch", guard, do.refuse_plain_batch),
        "stop": Transition(state, "next_batch", guard, do.stop_non_finite),
    }[policy]
    return life.add(arrow, first=True)


@frozen
class Watching:
    """The effect of counting a loss, which also remembers it for `Spike`.

    Args:
        window: losses that are remembered.
    """

    window: int

    @property
    def label(self) -> str:
        """What the table says."""
        return "count the loss, remember it"

    @property
    def access(self) -> Access:
        """What counting does, and the losses that are remembered."""
        counting = access_of(do.count_loss)
        assert counting is not None
        return counting | Access({"recent", "opt_name", "loss_value"}, {"recent"})

    def __call__(self, ctx: Context) -> None:
        do.count_loss(ctx)
        recent = ctx.recent.setdefault(ctx.opt_name, [])
        recent.append(ctx.loss_value)
        del recent[: -self.window]


def _watching(life: Lifecycle, spike: Spike) -> Lifecycle:
    for arrow in life.transitions:
        if arrow.effect is do.count_loss:
            life = life.alter(arrow, effect=Watching(spike.window))
    return life


def _holding(life: Lifecycle) -> Lifecycle:
    head = "compute" if "compute" in life.names else "pred"
    life = life.insert(State("hold", do.hold), between=("batch", head))
    for arrow in life.transitions:
        if arrow.effect is do.refuse_plain_batch:
            life = life.alter(arrow, effect=do.refuse_batch)
    return life


def _alternating(life: Lifecycle) -> Lifecycle:
    head = "compute" if "compute" in life.names else "pred"
    life = (
        life.replace("batch", action=do.open_shared_batch)
        .replace("step", action=do.step_one)
        .alter(life.between("batch", head)[0], effect=do.select_first)
        .add(Transition("step", head, another_optimizer, do.select_next), first=True)
    )
    for name in _evaluated(life):
        life = _valid_alternating(life, name)
    return life


def _seeding(life: Lifecycle) -> Lifecycle:
    seeding = {
        do.count_batch: do.count_and_seed_batch,
        do.count_valid_batch: do.count_and_seed_valid_batch,
    }
    for arrow in life.transitions:
        if arrow.effect in seeding:
            life = life.alter(arrow, effect=seeding[arrow.effect])
    return life


def _valid_alternating(life: Lifecycle, name: str = "valid") -> Lifecycle:
    head, tail = (
        (f"{name}_compute", f"{name}_compute")
        if f"{name}_compute" in life.names
        else (f"{name}_pred", f"{name}_loss")
    )
    return life.alter(life.between(f"{name}_batch", head)[0], effect=do.select_first).add(
        Transition(tail, head, another_optimizer, do.select_next)
    )


def _check_late(policy: Policy, others: dict[str, Any], precision: Precision | None) -> None:
    if policy not in ("raise", "skip", "stop"):
        raise ConfigError(
            "check='late' needs a policy that can come late: non_finite='raise', 'skip' or 'stop',"
            f" got {policy!r}"
        )
    why = {
        "check_gradients": "it looks at the gradients anyway; leave that out",
        "spike": "which reads the loss of each batch on the host",
        "closure": "whose step computes the loss again, unseen",
        "compute": "which steps over the loss and its backward; leave compute out, or check now",
    }
    for name, value in others.items():
        if value:
            raise ConfigError(f"check='late' and {name} exclude each other: {why[name]}")
    if precision is not None:
        refuse_late_scale(precision)


def _masking(life: Lifecycle, policy: Policy) -> Lifecycle:
    """Steps are masked on the device, and the report is an arrow."""
    life = life.replace(
        "step",
        action=do.masked_step_one if life.state("step").action is do.step_one else do.masked_step,
    )
    if "hold" in life.names:
        life = life.replace("hold", action=do.hold_window)
    effects = {
        do.count_loss: do.count_finite_loss,
        do.discard_window: do.discard_masked_window,
        do.end_epoch_early: do.end_masked_epoch_early,
    }
    for arrow in life.transitions:
        if arrow.effect in effects:
            life = life.alter(arrow, effect=effects[arrow.effect])
    leads, effect = {
        "raise": (FAILED, do.raise_masked),
        "skip": ("", do.tell_masked),
        "stop": ("", do.stop_masked),
    }[str(policy)]
    scope, told = (
        life.state("record").within,
        Transition("settle", leads or "record", Masked(), effect),
    )
    arrows = [
        attrs.evolve(arrow, dest="settle") if arrow.dest == "record" else arrow
        for arrow in life.transitions
    ]
    life = attrs.evolve(
        life,
        states=[*life.states, State("settle", do.settle, scope)],
        transitions=[*arrows, told, Transition("settle", "record")],
    )
    return life.add(
        State("report", do.report, life.state("next_batch").within),
        Transition("next_batch", "report", Every(50, "steps").named("report due")),
        Transition("report", leads or "next_batch", Masked(), effect),
        Transition("report", "draw"),
    )


def evaluation(*, optimizers: int = 1, compute: Callable[[Any], Any] | None = None) -> Lifecycle:
    """The lifecycle of evaluating a model: validation alone, with one row at its end.

    Args:
        optimizers: how many losses there are to evaluate, one for each optimizer.
        compute: a function of the context in place of `valid_pred` and `valid_loss`; it returns the
            loss.
    """
    parts = [
        *_valid_part(None, _stopped("valid")),
        State("record", do.record),
        State("end", final=True),
        Transition("record", "end"),
        *_leaving("valid"),
    ]
    life = _made("evaluation", parts)
    if compute is not None:
        life = _valid_computing(life, compute)
    return _valid_alternating(life) if optimizers > 1 else life


@frozen
class Predicting:
    """A user's function as the action of `predict_pred`; the prediction is what it returns."""

    function: Callable[[Any], Any]

    @property
    def label(self) -> str:
        """What the table says."""
        return label_of(self.function)

    @property
    def access(self) -> Access | None:
        """What the function declares, and the prediction; None if it declares nothing."""
        own = access_of(self.function)
        return None if own is None else own | Access(writes={"pred"})

    def __call__(self, ctx: Context) -> None:
        ctx.pred = self.function(ctx)


def prediction(*, compute: Callable[[Any], Any] | None = None) -> Lifecycle:
    """The lifecycle of predicting: validation's loop, with the model alone.

    Args:
        compute: a function of the context in place of calling the model on the input; it returns
            the prediction.
    """
    life = _made(
        "prediction",
        [
            *_loop_states("predict", None),
            State("collect", do.keep_pred, "predict_batch"),
            State("end", final=True),
            *_loop_arrows("predict", "end", _stopped("predict")),
            Transition("predict_pred", "collect"),
            Transition("collect", "next_predict_batch"),
            *_leaving("predict"),
        ],
    )
    return life if compute is None else life.replace("predict_pred", action=Predicting(compute))


def _made(name: str, parts: list[State | Transition]) -> Lifecycle:
    states = [part for part in parts if isinstance(part, State)]
    return Lifecycle(
        name, states, [part for part in parts if isinstance(part, Transition)], also=STANDARD
    )


def _stopped(name: str) -> Transition:
    return Transition(f"next_{name}_batch", "end", stop_requested.named("stop now"), do.say_why)


def _leaving(scope: str) -> list[Transition]:
    return [
        Transition(scope, "end", effect=do.say_why, event=StopFit),
        Transition(scope, "end", effect=do.say_why, event=KeyboardInterrupt),
    ]
