"""A lifecycle as the page draws it: plain values, without functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from statetrain.contracts.notes import Notes, notes_of
from statetrain.contracts.outline import DataFlow
from statetrain.diagram.legend import LegendEntry, legend_of, legend_of_runs
from statetrain.diagram.picture import Arrow, Picture, picture_of, transitions_of
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START
from statetrain.lifecycle.text import plain
from statetrain.lifecycle.transition import Transition
from statetrain.naming import label_of


def table_of(life: Lifecycle, notes: Notes | None = None) -> dict[str, Any]:
    """The states and arrows of a lifecycle, in reading order.

    Args:
        life: the lifecycle.
        notes: by state: who listens, what it reads and writes; None works out the last two.
    """
    shown = picture_of(life)
    if notes is None:
        notes = notes_of(DataFlow.of(life, {}))
    return {
        "name": plain(life.name),
        "states": [_state(shown, name, notes.get(name, {})) for name in shown.order],
        "arrows": [
            arrow_of(life, transition, arrow)
            for transition, arrow in zip(transitions_of(life), shown.arrows, strict=True)
        ],
        "legend": [_entry(entry) for entry in legend_of(shown)],
        "legend_of_runs": [_entry(entry) for entry in legend_of_runs()],
    }


def _entry(entry: LegendEntry) -> dict[str, str]:
    return {"kind": entry.kind, "colour": entry.colour, "text": entry.text}


def _state(shown: Picture, name: str, notes: Mapping[str, list[str]]) -> dict[str, Any]:
    state = shown.life.state(name)
    return {
        "name": name,
        "role": state.role,
        "within": state.within,
        "action": _label(state.action),
        "close": _label(state.close),
        "mode": _label(state.mode),
        "anchor": state.anchor,
        "final": state.final,
        "hot": name in shown.hot,
        "listeners": notes.get("listeners", []),
        "reads": notes.get("reads", []),
        "writes": notes.get("writes", []),
    }


def arrow_of(life: Lifecycle, transition: Transition, arrow: Arrow | None = None) -> dict[str, Any]:
    """An arrow; without its look for one that no table has, such as that of an error."""
    if arrow is None:
        arrow = Arrow(transition.source, transition.dest, "failure")
    return {
        "source": transition.source,
        "dest": transition.dest,
        "tail": arrow.tail,
        "head": arrow.head,
        "kind": arrow.kind,
        "number": arrow.number,
        "guard": arrow.guard,
        "effect": arrow.effect,
        "event": arrow.event,
        "other": arrow.other,
        "enters": _find_entered(life, transition),
    }


def _find_entered(life: Lifecycle, transition: Transition) -> list[str]:
    known = {*life.names, START, FAILED}
    if transition.source not in known or transition.dest not in known:
        return [transition.dest]
    return list(life.crossing(transition.source, transition.dest)[1])


def _label(work: object) -> str:
    if work is not None:
        return plain(label_of(work))
    return ""
