"""The lifecycle of a run: made of the options, or the user's own; checked against everything else."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import attrs
import torch

from statetrain.callback import Callback, hooks_of, name_of
from statetrain.compute.capture import FIELDS
from statetrain.compute.compiling import can_trace
from statetrain.compute.compiling import in_the_way as keeps_from_compiling
from statetrain.compute.keeping import has_buffers
from statetrain.context.keys import root_of
from statetrain.contracts.composing import parts_of
from statetrain.contracts.declaring import declares_read, declares_write
from statetrain.contracts.listening import paths_in
from statetrain.errors import ConfigError
from statetrain.guards.counters import Every
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.losses.losses import terms_of
from statetrain.standard.computing import Compute
from statetrain.standard.fusing import (
    Fused,
    check_word,
    fuse,
    in_the_way,
    listens_between,
    update_of,
)
from statetrain.standard.modes import Evaluating
from statetrain.standard.options import FitOptions, Options
from statetrain.standard.precision import plain
from statetrain.standard.supervised import adopt, supervised
from statetrain.training.setup.calling import Epochs
from statetrain.training.setup.data import Data, refuse_without_validation
from statetrain.training.setup.model import Trained, needs_closure
from statetrain.training.setup.objective import Objective

log = logging.getLogger("statetrain")


def make_lifecycle(
    given: Lifecycle | None,
    options: FitOptions,
    epochs: Epochs,
    data: Data,
    trained: Trained,
    objective: Objective,
    seed: int | None,
    callbacks: tuple[Callback, ...],
    sized: bool = False,
) -> Lifecycle:
    """The table of a run.

    Args:
        given: the user's own, in place of the standard one.
        options: of the lifecycle.
        epochs: how many.
        data, trained, objective: from the stages before.
        seed: of the run; None without.
        callbacks: what listens.
        sized: whether the user says how many samples a batch has.

    Raises:
        ConfigError: table and run do not go together.
    """
    make = partial(
        _make_lifecycle,
        given,
        epochs=epochs,
        data=data,
        trained=trained,
        objective=objective,
        seed=seed,
        callbacks=callbacks,
        sized=sized,
    )
    standard = given is None and "finite_check" not in options
    if trained.compiled not in ("step", "auto") or not standard:
        return make(options)
    # What is compiled as a whole is looked at when it is done
    late: FitOptions = {**options, "finite_check": "late"}
    if trained.compiled == "step":
        return make(options if options.get("non_finite") == "ignore" else late)
    try:
        life = make(late)
    except ConfigError:
        return make(options)
    return make(options) if update_of(life) is None else life


def _make_lifecycle(
    given: Lifecycle | None,
    options: FitOptions,
    *,
    epochs: Epochs,
    data: Data,
    trained: Trained,
    objective: Objective,
    seed: int | None,
    callbacks: tuple[Callback, ...],
    sized: bool,
) -> Lifecycle:
    if given is None:
        _refuse_unused(options, data)
        found = _all_options(options, epochs, data, trained, objective, seed)
        life = supervised(**found | {"by_count": sized or found["by_count"]})
    else:
        life = adopt(
            _own(given, options, epochs, data),
            seeded=seed is not None,
            buffers=has_buffers([trained.module, *objective.modules]),
            closure=any(map(needs_closure, trained.optimizers.values())),
            precision=options.get("precision"),
        )
    _check_evaluations(life, list(data.others))
    _check_losses(objective.losses, life)
    _check_turns(trained.optimizers, life)
    _check_seed(life, seed)
    return fuse_where_asked(life, fusing_of(options, trained), callbacks, trained, objective)


def fusing_of(options: FitOptions, trained: Trained) -> Any:
    """Whether the step is one state: True, False or "auto"."""
    return {"step": True, "auto": "auto"}.get(trained.compiled, options.get("fused", False))


def _all_options(
    options: FitOptions,
    epochs: Epochs,
    data: Data,
    trained: Trained,
    objective: Objective,
    seed: int | None,
) -> dict[str, Any]:
    """The options with what follows from data, model and optimizers."""
    found: dict[str, Any] = {
        **options,
        "fused": False,  # it depends on the callbacks, so it is made last
        "prefetch": _prefetches(options, trained.accelerator.device),
        "optimizers": max(len(trained.optimizers), 1),
        "closure": options.get("closure", False)
        or any(map(needs_closure, trained.optimizers.values())),
        "min_epochs": epochs.least,
        "seeded": seed is not None,
        "buffers": has_buffers([trained.module, *objective.modules]),
        "by_count": _counts(objective, options),
        "evaluations": {one.name: one.when for one in data.evaluations},
    }
    if data.valid is None:
        found["validate"] = None
    elif options.get("validate") is None:
        found["validate"] = Every(1, "epochs")
    return found


def _counts(objective: Objective, options: FitOptions) -> bool:
    """Whether the loss of a batch stands for what a mask or weights of samples count."""
    terms = [one for loss in objective.losses.values() for one in terms_of(loss)]
    keys = {one.weighed_by for one in terms}
    if len(keys) > 1 and options.get("accumulate", 1) != 1:
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
    if not isinstance(wanted, bool):
        raise ConfigError(
            f"prefetch must be True or False, got {wanted!r:.80}; it is one batch ahead"
        )
    return wanted and device.type == "cuda"


def _refuse_unused(options: FitOptions, data: Data) -> None:
    if data.valid is not None:
        return
    unused: dict[str, Any] = {"validate": options.get("validate")}
    if not data.evaluations:
        unused["valid_compute"] = options.get("valid_compute")
    refuse_without_validation(unused)


def _own(life: Lifecycle, options: FitOptions, epochs: Epochs, data: Data) -> Lifecycle:
    """The user's own lifecycle, if it goes with the other arguments."""
    if epochs.least:
        raise ConfigError(
            f"epochs=({epochs.least}, ...): the least number would not be used, since lifecycle"
            f" {life.name!r} is made already; make it with supervised(min_epochs={epochs.least})"
        )
    given = [
        field.name
        for field in attrs.fields(Options)
        if field.name not in ("precision", "fused")
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
            f"valid= would not be used: lifecycle {life.name!r} has no validation; make it with one:"
            ' supervised(validate=Every(1, "epochs")), or leave valid out'
        )
    return life


def _has_own(life: Lifecycle) -> bool:
    """Whether a part of a lifecycle is the user's own code, of which little is known."""
    works = [state.action for state in life.states] + [t.effect for t in life.transitions]
    return any(map(_is_own, works))


def sets_evaluated(life: Lifecycle) -> list[str]:
    """The sets that a lifecycle evaluates: "valid", and the names of evaluations."""
    modes = [state.mode for state in life.states]
    return list(dict.fromkeys(mode.set for mode in modes if isinstance(mode, Evaluating)))


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
    works = [state.action for state in life.states] + [t.effect for t in life.transitions]
    steps = life.by_role("step") or update_of(life) is not None
    if len(optimizers) < 2 or not steps:
        return
    if any(_is_own(work) or declares_write(work, "opt_index") for work in works):
        return  # your own code may select, or step, as it likes
    raise ConfigError(
        f"there are {len(optimizers)} optimizers, {', '.join(map(repr, optimizers))}, and in"
        f" lifecycle {life.name!r} only the first would ever step; make it with"
        f" supervised(optimizers={len(optimizers)})"
    )


def _is_own(work: Any) -> bool:
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


# ---------------------------------------------------------------- fused, compiled


def fuse_where_asked(
    life: Lifecycle,
    given: Any,
    callbacks: Iterable[Callback],
    trained: Trained,
    objective: Objective,
) -> Lifecycle:
    """The lifecycle as it is walked: fused where that was asked for, and compiled if it can be.

    Args:
        life: before.
        given: True, False or "auto".
        callbacks: of the run.
        trained, objective: from the stages before.

    Raises:
        ConfigError: something is in the way.
    """
    fused = _fused(life, given, tuple(callbacks), objective)
    if trained.compiling is None:
        return fused
    return _compiled(fused, life if given == "auto" else None, trained, objective)


def _fused(
    life: Lifecycle, given: Any, callbacks: tuple[Callback, ...], objective: Objective
) -> Lifecycle:
    check_word(given)
    readers = {**_reads_of(callbacks), **objective.readers()}
    captured = sorted(
        (path, who) for who, paths in readers.items() for path in paths if root_of(path) in FIELDS
    )
    if given == "auto":
        free = not (in_the_way(life) or captured or listens_between(callbacks, life))
        return fuse(life) if free else life
    if given:
        life = fuse(life)
    if captured and update_of(life) is not None:
        for callback in callbacks:
            hooks_of(callback, life)  # a listener is the better thing to name
        path, who = captured[0]
        raise ConfigError(
            f"{path!r} is read by {who}, and it comes to be within the states that are fused; train"
            " without fused=True, or with fused='auto', which fuses where nobody reads in between"
        )
    return life


def _reads_of(callbacks: Iterable[Callback]) -> dict[str, Any]:
    return {
        f"callback {name_of(callback)!r}": paths_in(callback.reads)
        for callback in callbacks
        if isinstance(callback, Callback)  # the machine refuses others
    }


def _compiled(
    life: Lifecycle, apart: Lifecycle | None, trained: Trained, objective: Objective
) -> Lifecycle:
    """The lifecycle with its fused states compiled, if it can be; or `apart`, where not."""
    updates = {state.name: state.action for state in life.states if isinstance(state.action, Fused)}
    if not updates or not can_trace():
        return life
    for name, update in updates.items():
        why = keeps_from_compiling(update, trained.optimizers, objective.losses, trained.backward)
        if why and apart is not None:
            return apart
        if why:
            raise ConfigError(f"fused=True with compile= compiles the update as a whole, but {why}")
        life = life.replace(name, action=attrs.evolve(update, compiled=True))
    return life
