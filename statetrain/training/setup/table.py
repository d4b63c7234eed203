"""The lifecycle of a run: made of the options, or custom.

It is checked against everything else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import torch
from attrs import frozen

from statetrain.callback import Callback, hooks_of, name_of
from statetrain.compute.capture import FIELDS
from statetrain.compute.compilable import can_trace, find_obstacle
from statetrain.compute.keeping import has_buffers
from statetrain.compute.masking import masks
from statetrain.context.keys import root_of
from statetrain.contracts.composing import parts_of
from statetrain.contracts.declaring import declares_read, declares_write
from statetrain.contracts.listening import paths_in
from statetrain.contracts.ways import works_of
from statetrain.data.counting import Size
from statetrain.errors import ConfigError
from statetrain.guards.batch import Accumulating
from statetrain.guards.counters import Every
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.losses.losses import terms_of
from statetrain.ranks.size import world_size
from statetrain.standard.computing import Compute
from statetrain.standard.fusing import (
    Fused,
    fuse,
    in_the_way,
    listens_between,
    update_of,
)
from statetrain.standard.modes import Evaluating
from statetrain.standard.options import FiniteCheck, FitOptions, Options
from statetrain.standard.precision import plain
from statetrain.standard.supervised import adopt, supervised
from statetrain.training.setup.calling import Epochs
from statetrain.training.setup.data import Data, refuse_without_validation
from statetrain.training.setup.model import Trained, has_step, needs_closure
from statetrain.training.setup.objective import Objective
from statetrain.validators import check_switches

log = logging.getLogger("statetrain")


@frozen(eq=False)
class RunParts:
    """What the table of a run has to go with.

    Attributes:
        epochs: how many.
        data, trained, objective: from the stages before.
        seed: of the run; None without.
        callbacks: what listens.
        size: how many samples a batch has, if the user says so.
    """

    epochs: Epochs
    data: Data
    trained: Trained
    objective: Objective
    seed: int | None
    callbacks: tuple[Callback, ...]
    size: Size = None

    @property
    def buffers(self) -> bool:
        """Whether the model or a loss has buffers."""
        return has_buffers([self.trained.module, *self.objective.modules])

    @property
    def closure(self) -> bool:
        """Whether an optimizer's step computes the loss itself."""
        return any(map(needs_closure, self.trained.optimizers.values()))


def make_lifecycle(given: Lifecycle | None, options: FitOptions, parts: RunParts) -> Lifecycle:
    """The table of a run.

    Args:
        given: the user's own, in place of the standard one.
        options: of the lifecycle.
        parts: of the run.

    Raises:
        ConfigError: table and run do not go together.
    """
    compiled = parts.trained.compiled
    standard = given is None and options.get("finite_check", "auto") == "auto"
    if compiled not in ("step", "auto") or not standard:
        return _make_lifecycle(given, options, parts)
    # What is compiled as a whole is looked at when it is done
    late: FitOptions = {**options, "finite_check": "late"}
    if compiled == "step" and options.get("non_finite") == "ignore":
        return _make_lifecycle(given, options, parts)
    try:
        life = _make_lifecycle(given, late, parts)
    except ConfigError:
        if compiled == "step":
            raise
        return _make_lifecycle(given, options, parts)
    if update_of(life) is None:
        return _make_lifecycle(given, options, parts)
    return life


def _make_lifecycle(given: Lifecycle | None, options: FitOptions, parts: RunParts) -> Lifecycle:
    trained, objective = parts.trained, parts.objective
    if given is None:
        _refuse_unused(options, parts.data)
        life = supervised(**_all_options(options, parts))
    else:
        life = adopt(
            _own(given, options, parts),
            seeded=parts.seed is not None,
            buffers=parts.buffers,
            by_count=_counts(objective, _accumulates(given)) or parts.size is not None,
            closure=parts.closure,
            precision=options.get("precision"),
        )
        _check_counts_epochs(life)
        _check_steps(life)
        _check_seed(life, parts.seed)
    _check_evaluations(life, list(parts.data.others))
    _check_losses(objective.losses, life)
    _check_turns(trained.optimizers, life)
    if trained.compiled == "step":
        life = compile_step(life, trained, objective)
    elif trained.compiled == "auto" and world_size() == 1:
        life = compile_step_if_free(life, parts.callbacks, trained, objective)
    _refuse_captured(life, parts.callbacks, objective)
    return life


def _all_options(options: FitOptions, parts: RunParts) -> dict[str, Any]:
    """The options with what follows from data, model and optimizers."""
    found: dict[str, Any] = {
        **{name: value for name, value in options.items() if name in FitOptions.__annotations__},
        "prefetch": _prefetches(options, parts.trained.accelerator.device),
        "optimizers": max(len(parts.trained.optimizers), 1),
        "closure": options.get("closure", False) or parts.closure,
        "min_epochs": parts.epochs.least,
        "seeded": parts.seed is not None,
        "buffers": parts.buffers,
        "by_count": _counts(parts.objective, options.get("accumulate", 1) != 1)
        or parts.size is not None,
        "evaluations": {one.name: one.when for one in parts.data.evaluations},
    }
    if parts.data.valid is None:
        found["validate"] = None
    elif "validate" not in options:
        found["validate"] = Every(1, "epochs")
    if options.get("finite_check", "auto") == "auto":
        found["finite_check"] = _finite_check(found, parts.trained)
    return found


def _finite_check(found: Mapping[str, Any], trained: Trained) -> FiniteCheck:
    """When to find out what is not finite: late on a device, so that the host does not wait."""
    on_host = trained.accelerator.device.type == "cpu"
    if on_host or world_size() > 1 or not all(map(masks, trained.optimizers.values())):
        return "now"
    try:
        Options(**{**found, "finite_check": "late"})
    except ConfigError:  # another option excludes it
        return "now"
    return "late"


def _accumulates(life: Lifecycle) -> bool:
    return any(isinstance(arrow.guard, Accumulating) for arrow in life.transitions)


def _counts(objective: Objective, accumulates: bool) -> bool:
    """Whether the loss of a batch stands for what a mask or weights of samples count."""
    terms = [one for loss in objective.losses.values() for one in terms_of(loss)]
    keys = {one.weighed_by for one in terms}
    if len(keys) > 1 and accumulates:
        words = " and by ".join(", ".join(each) or "samples" for each in sorted(keys))
        log.warning(
            "accumulate with losses that count differently (by %s) has no one mean over what counts"
            " in a window, so each batch of it weighs alike; give all losses the same mask and"
            " weights, or train on larger batches",
            words,
        )
        return False
    return any(keys)


def _prefetches(options: FitOptions, device: torch.device) -> Any:
    wanted = options.get("prefetch", False)
    check_switches("", prefetch=wanted)
    return wanted and device.type == "cuda"


def _refuse_unused(options: FitOptions, data: Data) -> None:
    if data.valid is not None:
        return
    unused: dict[str, Any] = {"validate": options.get("validate")}
    if not data.evaluations:
        unused["valid_compute"] = options.get("valid_compute")
    refuse_without_validation(unused)


def _own(life: Lifecycle, options: FitOptions, parts: RunParts) -> Lifecycle:
    """The user's own lifecycle, if it goes with the other arguments."""
    data, epochs = parts.data, parts.epochs
    if epochs.least:
        raise ConfigError(
            f"epochs=({epochs.least}, ...): the least number would not be used, since lifecycle"
            f" {life.name!r} is made already; make it with supervised(min_epochs={epochs.least})"
        )
    given = [
        field.name
        for field in attrs.fields(Options)
        if field.name != "precision"
        and options.get(field.name, field.default) not in (field.default, None)
    ]
    if given:
        raise ConfigError(
            f"{', '.join(given)} would not be used: lifecycle {life.name!r} is made already;"
            f" make it with them: supervised({given[0]}=...)"
        )
    if data.valid is None and "valid" in sets_evaluated(life):
        raise ConfigError(
            f"lifecycle {life.name!r} has a state 'valid', but there is no validation"
            " data; give valid=, or use life.without('valid')"
        )
    if data.valid is not None and "valid" not in sets_evaluated(life) and not _has_own(life):
        raise ConfigError(
            f"valid= would not be used: lifecycle {life.name!r} has no validation; make it with"
            ' one: supervised(validate=Every(1, "epochs")), or leave valid out'
        )
    return life


def _has_own(life: Lifecycle) -> bool:
    """Whether a part of a lifecycle is the user's own code, of which little is known."""
    return any(is_own(work) for _, work in works_of(life))


def sets_evaluated(life: Lifecycle) -> list[str]:
    """The sets that a lifecycle evaluates: "valid", and the names of evaluations."""
    modes = [state.mode for state in life.states]
    return list(dict.fromkeys(mode.set for mode in modes if isinstance(mode, Evaluating)))


def _check_counts_epochs(life: Lifecycle) -> None:
    """What opens an epoch counts it; else a limit of epochs is never reached."""
    for arrow in life.transitions:
        opened = life.crossing(arrow.source, arrow.dest)[1]
        if not any(life.role(name) == "epoch" for name in opened):
            continue
        works = [arrow.effect, *(life.state(name).action for name in opened)]
        if not any(is_own(work) or declares_write(work, "epoch") for work in works):
            raise ConfigError(
                f"lifecycle {life.name!r}: arrow {arrow} opens an epoch and does not count it, so"
                " the run would never have made its epochs; give the arrow"
                " effect=statetrain.actions.count_epoch"
            )


def _check_steps(life: Lifecycle) -> None:
    """What computes gradients makes a step with them somewhere."""
    if life.by_role("backward") and not has_step(life) and not _has_own(life):
        raise ConfigError(
            f"lifecycle {life.name!r} computes gradients and has no state with the role 'step', so"
            " no weight would change; keep the state 'step', or give a state of your own"
            " role='step'"
        )


def _check_evaluations(life: Lifecycle, names: list[str]) -> None:
    """A lifecycle of the user's own has the scopes of all evaluations, and no others."""
    there = [name for name in sets_evaluated(life) if name != "valid"]
    if missing := [name for name in names if name not in there]:
        raise ConfigError(
            f"lifecycle {life.name!r} has no evaluation {missing[0]!r}; make it with"
            f" supervised(evaluations={{{missing[0]!r}: ...}})"
        )
    if extra := [name for name in there if name not in names]:
        raise ConfigError(
            f"lifecycle {life.name!r} evaluates {extra[0]!r}, but there is no data for it;"
            f" give evaluations=[Evaluation({extra[0]!r}, data)]"
        )


def _check_losses(losses: Mapping[str, Any], life: Lifecycle) -> None:
    """Every state that asks for the loss function needs one; `compute` may do without."""
    if all(loss is not None for loss in losses.values()):
        return
    for state in life.states:
        if declares_read(state.action, "loss_fn"):
            raise ConfigError(
                f"state {state.name!r} needs a loss, a function of prediction and target; give"
                " loss=, or valid_compute="
            )


def _check_turns(optimizers: Mapping[str, Any], life: Lifecycle) -> None:
    """Several optimizers need a table that lets each have its turn; else only the first steps."""
    if len(optimizers) < 2 or not has_step(life):
        return
    if any(is_own(work) or declares_write(work, "opt_index") for _, work in works_of(life)):
        return  # your own code may select, or step, as it likes
    raise ConfigError(
        f"there are {len(optimizers)} optimizers, {', '.join(map(repr, optimizers))}, and in"
        f" lifecycle {life.name!r} only the first would ever step; make it with"
        f" supervised(optimizers={len(optimizers)})"
    )


def is_own(work: Any) -> bool:
    """Whether an action or effect is the user's own code, or has some in it."""
    return any(
        isinstance(part, Compute) or not getattr(part, "__module__", "").startswith("statetrain.")
        for part in map(plain, parts_of(work))
    )


def _check_seed(life: Lifecycle, seed: int | None) -> None:
    if seed is None and any(declares_read(arrow.effect, "seed") for arrow in life.transitions):
        raise ConfigError(
            f"lifecycle {life.name!r} seeds each batch by the run's seed; give seed=, or make"
            " it without seeded=True"
        )


# ---------------------------------------------------------------- the step compiled


def compile_step(life: Lifecycle, trained: Trained, objective: Objective) -> Lifecycle:
    """A lifecycle whose step is one compiled state.

    Args:
        life: before.
        trained, objective: from the stages before.

    Raises:
        ConfigError: something is in the way.
    """
    fused = life if update_of(life) is not None else fuse(life)
    if why := _keeps_from_compiling(fused, trained, objective):
        raise ConfigError(f"compile='step' compiles the whole step as one function, but {why}")
    return _compiled(fused)


def compile_step_if_free(
    life: Lifecycle, callbacks: tuple[Callback, ...], trained: Trained, objective: Objective
) -> Lifecycle:
    """A lifecycle with its step compiled if nothing prevents it, else unchanged."""
    if in_the_way(life) or _captured(callbacks, objective) or listens_between(callbacks, life):
        return life
    fused = fuse(life)
    if _keeps_from_compiling(fused, trained, objective):
        return life
    return _compiled(fused)


def _refuse_captured(
    life: Lifecycle, callbacks: tuple[Callback, ...], objective: Objective
) -> None:
    """Raises an error if something reads what is computed within a fused state."""
    if update_of(life) is None:
        return
    for path, who in _captured(callbacks, objective):
        for callback in callbacks:
            hooks_of(callback, life)  # a listener is the better thing to name
        raise ConfigError(
            f"{path!r} is read by {who}, and it is computed within a step that is one state; use"
            " compile='auto', which compiles the step where nothing is read in between, or"
            " compile='model'"
        )


def _captured(callbacks: tuple[Callback, ...], objective: Objective) -> list[tuple[str, str]]:
    """What is captured within a step, each path with who reads it."""
    readers = {**_reads_of(callbacks), **objective.readers()}
    return sorted(
        (path, who) for who, paths in readers.items() for path in paths if root_of(path) in FIELDS
    )


def _reads_of(callbacks: Iterable[Callback]) -> dict[str, Any]:
    return {
        f"callback {name_of(callback)!r}": paths_in(callback.reads)
        for callback in callbacks
        if isinstance(callback, Callback)  # the machine refuses others
    }


def _keeps_from_compiling(life: Lifecycle, trained: Trained, objective: Objective) -> str:
    """What keeps the fused state of a lifecycle from being compiled, as text; "" if nothing."""
    update = update_of(life)
    if update is None or not can_trace():
        return ""
    return find_obstacle(update, trained.optimizers, objective.losses, trained.backward)


def _compiled(life: Lifecycle) -> Lifecycle:
    """A lifecycle with its fused states marked as compiled, if this torch can."""
    if not can_trace():
        return life
    for state in life.states:
        if isinstance(state.action, Fused):
            action = attrs.evolve(state.action, compiled=True)
            life = life.replace(state.name, action=action)
    return life
