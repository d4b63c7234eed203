"""What each option changes in the table: edits, in the order in which they are made.

An edit says when it is on and what it does. `supervised` is the loop over `EDITS`; an option that
is off adds no state and no arrow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
from attrs import frozen

from statetrain.context.context import Context
from statetrain.contracts.composing import exchanged, parts_of, then
from statetrain.contracts.declaring import access
from statetrain.errors import ConfigError
from statetrain.events import SkipEpoch, StopFit
from statetrain.guards.base import Guard, as_guard, leaves
from statetrain.guards.batch import Accumulating, NonFinite, Spike, another_optimizer
from statetrain.guards.counters import (
    NotYet,
    batches_left,
    more_epochs,
    train_data_left,
    trained,
)
from statetrain.guards.requests import interrupted
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, State, StateWork
from statetrain.lifecycle.transition import Transition
from statetrain.standard import actions as do
from statetrain.standard.computing import Compute, computing, computing_in
from statetrain.standard.late import counting_arrow, finding_out_late
from statetrain.standard.looping import LoopPart, alternating_in, evaluated, evaluating
from statetrain.standard.options import Options, When
from statetrain.standard.policy import RollBack
from statetrain.standard.precision import mixed_precision
from statetrain.standard.stops import any_of, split_by_interval
from statetrain.standard.table import STANDARD


@frozen
class Edit:
    """An edit of the standard table.

    Args:
        name: of the option that asks for it.
        on: whether these options do.
        make: the table with it.
        examples: options that turn it on, as a user writes them; the documentation shows what they
            change.
    """

    name: str
    on: Callable[[Options], bool]
    make: Callable[[Lifecycle, Options], Lifecycle]
    examples: tuple[str, ...] = ()


# ---------------------------------------------------------------- when it stops, when it evaluates


def stop_at_limits(life: Lifecycle, options: Options) -> Lifecycle:
    """Limits and requests are asked at every loop head."""
    stops = options.stops
    for source, dest, guard in (
        ("next_epoch", "end", stops.between_epochs),
        ("next_batch", "record", stops.in_epoch),
    ):
        life = life.alter(life.between(source, dest)[0], guard=guard)
    return life


def stop_between_epochs(life: Lifecycle, options: Options) -> Lifecycle:
    """What reads the history is asked before the next epoch."""
    arrow = Transition("next_epoch", "end", options.stops.at_epoch_end, do.say_why)
    return life.add(arrow, before=life.between("next_epoch", "epoch")[0])


def validate(life: Lifecycle, options: Options) -> Lifecycle:
    """A validation at the end of an epoch, and inside it if it is due there."""
    assert options.validate is not None
    inside, _ = split_by_interval(options.validate)
    due = options.validate if inside is None else NotYet() & options.validate
    due = due.named("validation due")
    stop = Transition(
        "next_valid_batch", "record", options.stops.in_validation, do.DropData("valid")
    )
    life = life.add(
        *evaluating("valid", "epoch", stop),
        Transition("draw", "valid", due),
        Transition("train", "valid", due, do.end_epoch_early, event=SkipEpoch),
        before=life.between("train", "record")[0],
    )
    if inside is None:
        return life
    arrow = Transition("step", "valid", _due_inside(inside).named("validation due"))
    return _go_on_training(life.add(arrow), options)


def _due_inside(inside: Guard) -> Guard:
    """What is asked after a step: once a step, and not after the last one of an epoch.

    There the data is found to be at its end first, so that all that is due then is in one row. Only
    intervals that can end inside an epoch are asked: a new epoch has crossed those in epochs.
    """
    return NotYet() & batches_left & inside


def _go_on_training(life: Lifecycle, options: Options) -> Lifecycle:
    """The arrow that leads from a record inside an epoch back to the training."""
    if any((arrow.source, arrow.dest) == ("record", "train") for arrow in life.transitions):
        return life
    going_on = (train_data_left & ~options.stops.in_epoch).named("train data left, no stop")
    return life.add(Transition("record", "train", going_on), first=True)


def evaluate(life: Lifecycle, options: Options) -> Lifecycle:
    """Evaluations: each after the validation, or after the last record."""
    for name, when in options.evaluations.items():
        _check_name(life, name)
        _check_when(name, when)
    at_end = [name for name, when in options.evaluations.items() if when == "end"]
    dues = {n: as_guard(when) for n, when in options.evaluations.items() if when != "end"}
    if dues:
        life = _evaluate_within_epochs(life, options, dues)
    if at_end:
        life = evaluate_at_end(life, options, at_end)
    return life


def _evaluate_within_epochs(
    life: Lifecycle, options: Options, dues: Mapping[str, Guard]
) -> Lifecycle:
    """Evaluations by name, each with what says when it is due."""
    parts: list[LoopPart] = []
    # By the states that lead to evaluations, the conditions that are asked there already
    sources = ["draw", *(f"{other}_draw" for other in evaluated(life))]
    before: dict[str, set[Guard]] = {source: set() for source in sources}
    for name, due in dues.items():
        parts += _evaluation_when(options, name, due, before)
        before[f"{name}_draw"] = set()
    # What SkipEpoch leads to where no evaluation is due
    skipped = [arrow for arrow in life.events("train") if arrow.event is SkipEpoch][-1]
    life = life.add(*parts, before=skipped)
    if any(split_by_interval(due)[0] is not None for due in dues.values()):
        life = _go_on_training(life, options)
    return life


def _check_when(name: str, when: When) -> None:
    if isinstance(when, str) and when != "end":
        raise ConfigError(
            f'evaluation {name!r}: its condition is a guard such as Every(2, "epochs"), or'
            f" 'end', got {when!r}"
        )


def evaluate_at_end(life: Lifecycle, options: Options, names: list[str]) -> Lifecycle:
    """A scope that the run goes through once before it ends, with the weights that it ends with.

    In `ending`, callbacks that put weights back have put them into the model.
    """
    stops = options.stops
    last = stops.between_epochs | ~more_epochs
    if stops.at_epoch_end is not None:
        last = last | stops.at_epoch_end
    ends = (NotYet() & trained & ~interrupted & last).named("training ends")
    parts: list[LoopPart] = [
        State("ending", do.drop_sums, "fit"),
        State("end_record", do.record, "ending", role="record"),
        Transition("next_epoch", "ending", ends),
        Transition("ending", names[0]),
    ]
    for name, after in zip(names, [*names[1:], "end_record"], strict=True):
        stop = Transition(f"next_{name}_batch", "end_record", interrupted, do.DropData(name))
        parts += evaluating(name, "ending", stop, after)
    parts += [
        Transition("end_record", "next_epoch"),
        Transition("ending", "next_epoch", effect=do.drop_sums, event=SkipEpoch),
        *_stopping_softly(life),
    ]
    return life.add(*parts, before=life.arrows("next_epoch")[0])


def _stopping_softly(life: Lifecycle) -> list[Transition]:
    """Arrows on StopFit that let the evaluations at the end of the training be made."""
    parts = [
        Transition("train", "record", effect=do.ask_to_stop, event=StopFit),
        Transition("epoch", "next_epoch", effect=do.ask_to_stop, event=StopFit),
    ]
    if "valid" in life.names:
        dropped = then(do.DropData("valid"), do.ask_to_stop)
        parts.append(Transition("valid", "record", effect=dropped, event=StopFit))
    return parts


def _evaluation_when(
    options: Options, name: str, due: Guard, before: dict[str, set[Guard]]
) -> list[LoopPart]:
    words = f"{name} due"
    inside, at_end = split_by_interval(due)
    over = at_end
    if at_end is not None:
        over = ~train_data_left & at_end
    now = any_of(part for part in (inside, over) if part is not None)
    assert now is not None
    if inside is not None:
        now, due = NotYet() & now, NotYet() & due
    stop = Transition(
        f"next_{name}_batch", "record", options.stops.in_validation, do.DropData(name)
    )
    parts = [
        *evaluating(name, "epoch", stop),
        Transition("train", name, due.named(words), do.end_epoch_early, event=SkipEpoch),
    ]
    named = now.named(words)
    for source, asked in before.items():
        if now not in asked:  # else the earlier one is taken, and leads here
            parts.append(Transition(source, name, named))
        if not now.remembers:
            asked.add(now)
    if inside is not None:
        parts.append(Transition("step", name, _due_inside(inside).named(words)))
    return parts


def _check_name(life: Lifecycle, name: str) -> None:
    own = {name, f"next_{name}_batch", *(f"{name}_{part}" for part in _PARTS)}
    taken = sorted(own & ({*life.names, "train", FAILED} | STANDARD))
    if name.isidentifier() and not taken:
        return
    why = "it begins names of states and columns"
    if taken:
        why = f"{taken[0]!r} is taken"
    raise ConfigError(
        f"an evaluation cannot be called {name!r}: {why}; choose a word such as 'test'"
    )


_PARTS = ("draw", "batch", "pred", "loss")


# ---------------------------------------------------------------- your own computation, windows


def compute(life: Lifecycle, options: Options) -> Lifecycle:
    """Your own computation in place of `pred`, `loss` and `backward`."""
    assert options.compute is not None
    return computing(life, options.compute)


def valid_compute(life: Lifecycle, options: Options) -> Lifecycle:
    """The same in every evaluation."""
    assert options.valid_compute is not None
    for name in evaluated(life):
        life = computing_in(life, name, options.valid_compute)
    return life


def accumulate(life: Lifecycle, options: Options) -> Lifecycle:
    """Several batches make one step."""
    if "compute" in life.names:  # the loss is counted while the batch is still open
        life = life.insert(State("counted"), between=("compute", "step"))
    last = _with_gradients(life)
    life = life.replace("draw", action=do.draw_ahead)
    life = life.alter(life.between(last, "step")[0], effect=do.average_window)
    life = life.add(Transition(last, "next_batch", Accumulating(options.accumulate)))
    if options.by_count:
        return weigh_windows(life)
    return life


def weigh_windows(life: Lifecycle) -> Lifecycle:
    """Windows of accumulated batches are means over what counts; without any, nothing changes."""
    averaged = [one for one in life.transitions if do.average_window in parts_of(one.effect)]
    for arrow in averaged:
        assert arrow.effect is not None
        effect = exchanged(arrow.effect, {do.average_window: do.average_by_count})
        life = life.alter(arrow, effect=effect)
    if averaged:
        for state in life.states:
            if state.action is not None:
                life = life.replace(state.name, action=_weighed(state.action))
    return life


def _weighed(action: StateWork) -> StateWork:
    """An action whose gradients weigh by what counts in the batch, if it computes any."""
    if isinstance(action, Compute) and action.training:
        return attrs.evolve(action, weighed=True)
    return exchanged(action, {do.backward: do.weighed_backward})


def _with_gradients(life: Lifecycle) -> str:
    """The state in which a batch's gradients are there: `backward`, or what stands for it."""
    return next(name for name in ("counted", "compute", "backward") if name in life.names)


def _head(life: Lifecycle) -> str:
    """The state that begins the computation of a batch."""
    return next(name for name in ("compute", "pred") if name in life.names)


def prefetch(life: Lifecycle, options: Options) -> Lifecycle:
    """`draw` stays a batch ahead."""
    return life.replace("draw", action=do.draw_prefetched)


# ---------------------------------------------------------------- losses that are not finite


def refuse_losses(life: Lifecycle, options: Options) -> Lifecycle:
    """An arrow out of the state with the loss, for one that is not finite or far too high."""
    refused: Guard = NonFinite()
    if options.spike is not None:
        refused = refused | options.spike
    return _refuse(life, counting_arrow(life).source, refused, options)


def _refuse(life: Lifecycle, state: str, refused: Guard, options: Options) -> Lifecycle:
    policy = options.non_finite
    if isinstance(policy, RollBack):
        from statetrain.standard.rollback import arrows

        return life.add(*arrows(state, refused, policy), first=True)
    dest, effect = _POLICIES[policy]
    return life.add(Transition(state, dest, refused, effect), first=True)


_POLICIES: dict[str, tuple[str, StateWork]] = {
    "raise": (FAILED, do.raise_non_finite),
    "skip": ("next_batch", do.refuse_batch),
    "stop": ("next_batch", do.stop_non_finite),
}


@access(reads={"recent", "opt_name", "loss_value"}, writes={"recent"})
@frozen
class RememberLoss:
    """The effect of remembering a loss, for `Spike`.

    Args:
        window: losses that are remembered.
    """

    window: int

    label = "remember it"

    def __call__(self, ctx: Context) -> None:
        recent = ctx.recent.setdefault(ctx.opt_name, [])
        recent.append(ctx.loss_value)
        del recent[: -self.window]


def watch_for_spikes(life: Lifecycle, options: Options) -> Lifecycle:
    """The losses are remembered."""
    assert options.spike is not None
    arrow = counting_arrow(life)
    remember = RememberLoss(options.spike.window)
    return life.alter(arrow, effect=then(arrow.effect, remember))


def keep_copies(life: Lifecycle, options: Options) -> Lifecycle:
    """A state that keeps a copy of what trains."""
    from statetrain.standard.rollback import keeping

    assert isinstance(options.non_finite, RollBack)
    return keeping(life, options.non_finite)


def check_gradients(life: Lifecycle, options: Options) -> Lifecycle:
    """A state that computes the norm of the gradients, with the policy."""
    state = State("grad_norm", do.grad_norm)
    life = life.insert(state, between=(_with_gradients(life), "step"))
    if not options.refuses:
        return life
    return _refuse(life, "grad_norm", NonFinite("gradients"), options)


def hold_buffers(life: Lifecycle, options: Options) -> Lifecycle:
    """A state that copies the buffers, which a refused batch puts back."""
    if not options.late and not any(_refuses(arrow.guard) for arrow in life.transitions):
        return life
    action = {True: do.hold_window, False: do.hold}[options.late]
    for batch in life.by_role("batch"):
        hold = State(f"{_prefix(batch)}hold", action, role="hold")
        for dest in dict.fromkeys(arrow.dest for arrow in life.arrows(batch.name)):
            life = life.insert(hold, between=(batch.name, dest))
    for arrow in life.transitions:
        if _refuses(arrow.guard):
            life = life.alter(arrow, effect=then(do.put_buffers_back, arrow.effect))
    return life


def _prefix(state: State) -> str:
    """What a phase has put before a state's name."""
    return state.name.removesuffix(state.role)


def _refuses(guard: Guard | None) -> bool:
    """Whether an arrow with this guard refuses a batch for its loss or its gradients."""
    return guard is not None and any(isinstance(leaf, NonFinite | Spike) for leaf in leaves(guard))


def find_out_late(life: Lifecycle, options: Options) -> Lifecycle:
    """Steps are masked on the device, and the host learns of it later."""
    return finding_out_late(_with_step(life, options), str(options.non_finite))


# ---------------------------------------------------------------- optimizers, seeds


def alternate(life: Lifecycle, options: Options) -> Lifecycle:
    """Each optimizer has its turn."""
    head = _head(life)
    life = life.alter(life.between("batch", head)[0], effect=do.select_first)
    again = Transition("step", head, another_optimizer, do.select_next)
    life = _with_step(life, options).add(again, first=True)
    for name in evaluated(life):
        life = alternating_in(life, name)
    return life


def replay(life: Lifecycle, options: Options) -> Lifecycle:
    """The step computes the loss again."""
    return _with_step(life, options)


def replay_steps(life: Lifecycle) -> Lifecycle:
    """A lifecycle whose steps compute the loss again, in every phase that makes the standard step.

    Raises:
        ConfigError: it averages windows of batches, which a step cannot compute again.
    """
    for state in life.by_role("step"):
        parts = parts_of(state.action)
        if do.update_weights in parts and life.by_role("counted"):
            raise ConfigError(
                f"lifecycle {life.name!r} has a computation of its own, which an optimizer whose"
                " step computes the loss again (as LBFGS) cannot replay"
            )
        if state.action is not None:
            replayed = exchanged(state.action, {do.update_weights: do.replay})
            life = life.replace(state.name, action=replayed)
    return life


def _with_step(life: Lifecycle, options: Options) -> Lifecycle:
    """A lifecycle with the step that the options ask for: how it updates, and what it counts."""
    update: StateWork = do.update_weights
    if options.late:
        update = do.update_finite
    if options.closure:
        update = do.replay
    count: StateWork = do.count_step
    if options.optimizers > 1:
        count = do.count_round
    return life.replace("step", action=then(update, count))


def seed_batches(life: Lifecycle, options: Options) -> Lifecycle:
    """Each batch seeds the generators, which other runs wait for meanwhile."""
    for state in life.states:
        if state.role in ("batch", "valid_batch") and state.close is not None:
            life = life.replace(state.name, close=then(state.close, do.release_generators))
    for arrow in life.transitions:
        ends = life.role(arrow.source), life.role(arrow.dest)
        if ends in _SEEDS and arrow.event is None:
            life = life.alter(arrow, effect=then(arrow.effect, _SEEDS[ends]))
    return life


_SEEDS: dict[tuple[str, str], StateWork] = {
    ("draw", "batch"): do.seed_batch,
    ("valid_draw", "valid_batch"): do.seed_valid_batch,
}


# ---------------------------------------------------------------- over all that


def apply_own(life: Lifecycle, options: Options) -> Lifecycle:
    """Your own edits."""
    for edit in options.edits:
        life = edit(life)
        if not isinstance(life, Lifecycle):
            raise ConfigError(
                f"the edit {edit!r:.80} must return a lifecycle, got {type(life).__name__}; is a"
                " return missing?"
            )
    return life


def compute_in_mixed_precision(life: Lifecycle, options: Options) -> Lifecycle:
    """The model and the loss compute in a shorter type."""
    assert options.precision is not None
    return mixed_precision(life, options.precision)


EDITS: tuple[Edit, ...] = (
    Edit(
        "max_steps",
        lambda options: len(options.stops.at_once) > 1,
        stop_at_limits,
        ("max_steps=1000",),
    ),
    Edit(
        "stop",
        lambda options: options.stops.at_epoch_end is not None,
        stop_between_epochs,
        ('stop=EarlyStopping("valid_loss", 5)',),
    ),
    Edit(
        "validate",
        lambda options: options.validate is not None,
        validate,
        ('validate=Every(100, "steps")', "validate=None"),
    ),
    Edit(
        "evaluations",
        lambda options: bool(options.evaluations),
        evaluate,
        ('evaluations={"test": Every(2, "epochs")}', 'evaluations={"test": "end"}'),
    ),
    Edit("compute", lambda options: options.compute is not None, compute),
    Edit("valid_compute", lambda options: options.valid_compute is not None, valid_compute),
    Edit("accumulate", lambda options: options.accumulate > 1, accumulate, ("accumulate=4",)),
    Edit("prefetch", lambda options: options.prefetch, prefetch, ("prefetch=True",)),
    Edit(
        "non_finite",
        lambda options: options.refuses and not options.late,
        refuse_losses,
        ('non_finite="skip"', 'non_finite="stop"', 'non_finite="ignore"'),
    ),
    Edit(
        "spike",
        lambda options: options.spike is not None,
        watch_for_spikes,
        ('spike=Spike(4), non_finite="skip"',),
    ),
    Edit(
        "roll_back",
        lambda options: isinstance(options.non_finite, RollBack),
        keep_copies,
        ("non_finite=RollBack()",),
    ),
    Edit(
        "check_gradients",
        lambda options: options.check_gradients,
        check_gradients,
        ("check_gradients=True",),
    ),
    Edit("optimizers", lambda options: options.optimizers > 1, alternate, ("optimizers=2",)),
    Edit("closure", lambda options: options.closure, replay, ("closure=True",)),
    Edit(
        "buffers",
        lambda options: options.buffers and options.refuses,
        hold_buffers,
        ("buffers=True",),
    ),
    Edit("finite_check", lambda options: options.late, find_out_late, ('finite_check="late"',)),
    Edit("seeded", lambda options: options.seeded, seed_batches, ("seeded=True",)),
    Edit("edits", lambda options: bool(options.edits), apply_own),
    Edit(
        "precision",
        lambda options: options.precision is not None,
        compute_in_mixed_precision,
        ('precision="bf16"', 'precision="fp16"'),
    ),
)
"""All edits of the standard table, in order."""
