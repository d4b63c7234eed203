"""What is declared about each state, as plain values: who listens, what it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping

from statetrain.contracts.outline import DataFlow, Outline

Notes = Mapping[str, Mapping[str, list[str]]]


def notes_of(flow: DataFlow, outline: Outline | None = None) -> dict[str, dict[str, list[str]]]:
    """By state: who listens to it, and what it reads and writes.

    Args:
        flow: of a machine, or of a lifecycle alone.
        outline: of the machine; None if no callback listens.
    """
    notes: dict[str, dict[str, list[str]]] = {}
    for kind, users in (("writes", flow.writers), ("reads", flow.readers)):
        for uses in users.values():
            for use in uses:
                _add(notes, use.who, kind, use.path)
    if outline is not None:
        for hook, listeners in outline.listeners.items():
            moment, _, name = hook.removeprefix("on_").partition("_")
            for one in listeners:
                _add(notes, name, "listeners", f"{one.name} on {moment}")
    return {name: kinds for name, kinds in notes.items() if name in flow.lifecycle.names}


def _add(notes: dict[str, dict[str, list[str]]], name: str, kind: str, text: str) -> None:
    known = notes.setdefault(name, {}).setdefault(kind, [])
    if text not in known:
        known.append(text)
