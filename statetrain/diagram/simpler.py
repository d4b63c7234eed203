"""Pictures with less in them: scopes folded into one state, and the outline that everyone knows of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import evolve

from statetrain.diagram.picture import Arrow, Kind, Picture, events_of, start_of
from statetrain.errors import ConfigError
from statetrain.naming import did_you_mean

# States of training that serve the others; loop heads are anchors
_SERVING = frozenset(("draw", "record", "counted"))


def folded(shown: Picture, scopes: Iterable[str]) -> Picture:
    """The picture with scopes drawn as one state each; arrows within them are left out.

    Raises:
        ConfigError: one is no scope of this lifecycle.
    """
    scopes = tuple(scopes)
    for name in scopes:
        if name not in shown.scopes:
            raise ConfigError(
                f"fold: lifecycle {shown.life.name!r} has no scope"
                f" {name!r}{did_you_mean(name, sorted(shown.scopes))}"
            )
    into = {
        name: next((scope for scope in shown.life.path(name) if scope in scopes), name)
        for name in shown.order
    }
    into |= {
        dot(scope): into[scope] if into[scope] in scopes else dot(scope)
        for scope in shown.scopes
        for dot in (start_of, events_of)
    }
    arrows = []
    for arrow in shown.arrows:
        tail, head = into.get(arrow.tail, arrow.tail), into.get(arrow.head, arrow.head)
        if tail not in scopes or tail != head:
            arrows.append(
                evolve(
                    arrow, tail=tail, head=head, number=arrow.number if tail == arrow.tail else 0
                )
            )
    return evolve(
        shown,
        arrows=tuple(arrows),
        order=tuple(name for name in shown.order if into[name] == name),
        scopes=frozenset(
            scope for scope in shown.scopes if into[scope] == scope and scope not in scopes
        ),
        current=into.get(shown.current, shown.current) if shown.current else None,
        shares=_summed(shown.shares, into),
        changes={
            into[name]: change if into[name] == name else "changed"
            for name, change in shown.changes.items()
        },
    )


def outlined(shown: Picture) -> Picture:
    """The picture without what serves the rest: loop heads, draws, the record; loops over validation data are one state.

    An arrow stands for each way from one of the other states to the next. What a scope begins with
    goes the main way only.
    """
    shown = folded(shown, [scope for scope in shown.scopes if _is_aside(shown, scope)])
    hidden = [
        name
        for name in shown.order
        if name not in shown.scopes and (shown.life.state(name).anchor or name in _SERVING)
    ]
    arrows = [arrow for arrow in shown.arrows if arrow.kind != "event"]
    for name in hidden:
        ways_on = [arrow for arrow in arrows if arrow.tail == name != arrow.head]
        ways_in = [arrow for arrow in arrows if arrow.head == name != arrow.tail]
        arrows = [arrow for arrow in arrows if name not in (arrow.tail, arrow.head)]
        for before in ways_in:
            begins = before.tail in map(start_of, shown.scopes)
            arrows += [
                _joined(shown, before, after)
                for after in ways_on
                if after.kind in ("hot", "main") or not begins
            ]
    order = tuple(name for name in shown.order if name not in hidden)
    return evolve(
        shown,
        arrows=tuple(_strongest(arrows)),
        order=order,
        current=shown.current if shown.current in order else None,
    )


def _is_aside(shown: Picture, scope: str) -> bool:
    """Whether a scope is a loop over data beside training, as all that are made like `valid` are."""
    return shown.life.state(scope).within is not None and f"next_{scope}_batch" in shown.children(
        scope
    )


def _joined(shown: Picture, before: Arrow, after: Arrow) -> Arrow:
    both = (before.kind, after.kind)
    kind: Kind = (
        "failure"
        if "failure" in both
        else "hot"
        if both == ("hot", "hot")
        else "main"
        if "plain" not in both
        else "plain"
    )
    head = after.head
    if before.tail in shown.order and head in shown.life.path(
        before.tail
    ):  # from within, a scope is begun anew
        head = start_of(head)
    change = before.change if before.change == after.change else before.change or after.change
    return Arrow(before.tail, head, kind, recent=before.recent and after.recent, change=change)


def _strongest(arrows: Iterable[Arrow]) -> list[Arrow]:
    """One arrow between each two, of the kind that says most."""
    rank = ("hot", "main", "failure", "plain")
    best: dict[tuple[str, str], Arrow] = {}
    for arrow in arrows:
        known = best.get((arrow.tail, arrow.head))
        if known is None or rank.index(arrow.kind) < rank.index(known.kind):
            best[arrow.tail, arrow.head] = arrow
    return list(best.values())


def _summed(shares: Mapping[str, float], into: Mapping[str, str]) -> dict[str, float]:
    total: dict[str, float] = {}
    for name, share in shares.items():
        total[into.get(name, name)] = total.get(into.get(name, name), 0.0) + share
    return total
