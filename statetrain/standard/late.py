"""Finding out late: the device leaves out the steps that are not finite, and the host is told.

The step is drawn as masked, and two states tell the host: `report`, every 50 steps, and `settle`,
before each `record`. The policy acts on the arrow out of them.
"""

from __future__ import annotations

import attrs

from statetrain.guards.criteria import Every, Masked
from statetrain.lifecycle.lifecycle import FAILED, Lifecycle, State, Transition, Work
from statetrain.standard import actions as do

_MASKED = {do.step: do.masked_step, do.step_one: do.masked_step_one, do.hold: do.hold_window}
_EFFECTS = {
    do.count_loss: do.count_finite_loss,
    do.discard_window: do.discard_masked_window,
    do.end_epoch_early: do.end_masked_epoch_early,
}
_POLICIES: dict[str, tuple[str | None, Work]] = {
    "raise": (FAILED, do.raise_masked),
    "skip": (None, do.tell_masked),
    "stop": (None, do.stop_masked),
}


def finding_out_late(life: Lifecycle, policy: str) -> Lifecycle:
    """A lifecycle whose steps are masked on the device, and whose report is an arrow.

    Args:
        life: with the states of the standard table.
        policy: "raise", "skip" or "stop".
    """
    life = _masked(life)
    leads, effect = _POLICIES[policy]
    settle = State("settle", do.settle, life.state("record").within)
    arrows = [
        attrs.evolve(arrow, dest="settle") if arrow.dest == "record" else arrow
        for arrow in life.transitions
    ]
    told = Transition("settle", leads or "record", Masked(), effect)
    life = attrs.evolve(
        life,
        states=[*life.states, settle],
        transitions=[*arrows, told, Transition("settle", "record")],
    )
    return life.add(
        State("report", do.report, life.state("next_batch").within),
        Transition("next_batch", "report", Every(50, "steps").named("report due")),
        Transition("report", leads or "next_batch", Masked(), effect),
        Transition("report", "draw"),
    )


def _masked(life: Lifecycle) -> Lifecycle:
    for state in life.states:
        if state.action in _MASKED:
            life = life.replace(state.name, action=_MASKED[state.action])
    for arrow in life.transitions:
        if arrow.effect in _EFFECTS:
            life = life.alter(arrow, effect=_EFFECTS[arrow.effect])
    return life
