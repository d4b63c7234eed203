"""Pictures with less in them: folded scopes, and the familiar outline of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import evolve

from statetrain.diagram.picture import Arrow, BoxKind, Change, Picture, events_of, start_of
from statetrain.errors import ConfigError
from statetrain.naming import did_you_mean

# Roles of states of training that serve the others; loop heads are anchors
_SERVING = frozenset(("draw", "record", "counted"))

_STRENGTH: tuple[BoxKind, ...] = ("hot", "main", "failure", "plain", "event")


def fold_scopes(shown: Picture, scopes: Iterable[str]) -> Picture:
    """The picture with scopes drawn as one state each; arrows within them are left out.

    Raises:
        ConfigError: one is not a scope of this lifecycle.
    """
    scopes = tuple(scopes)
    _check_scopes(shown, scopes)
    into = _homes(shown, scopes)
    order = tuple(name for name in shown.order if into[name] == name)
    current = shown.current
    return evolve(
        shown,
        arrows=tuple(_fold_arrows(shown, frozenset(scopes), into)),
        order=order,
        scopes=shown.scopes & frozenset(order) - frozenset(scopes),
        current=into.get(current or "", current),
        shares=_sum_shares(shown.shares, into),
        changes=_fold_changes(shown.changes, into),
    )


def _check_scopes(shown: Picture, scopes: tuple[str, ...]) -> None:
    for name in scopes:
        if name not in shown.scopes:
            raise ConfigError(
                f"fold: lifecycle {shown.life.name!r} has no scope"
                f" {name!r}{did_you_mean(name, sorted(shown.scopes))}"
            )


def _homes(shown: Picture, scopes: tuple[str, ...]) -> dict[str, str]:
    """What stands in the picture for each state and dot: itself, or the folded scope around it."""
    into: dict[str, str] = {}
    for name in shown.order:
        around = (scope for scope in shown.life.path(name) if scope in scopes)
        into[name] = next(around, name)
    for scope in shown.scopes:
        for dot in (start_of(scope), events_of(scope)):
            into[dot] = dot
            if into[scope] in scopes:
                into[dot] = into[scope]
    return into


def _fold_arrows(
    shown: Picture, scopes: frozenset[str], into: Mapping[str, str]
) -> Iterable[Arrow]:
    for arrow in shown.arrows:
        tail, head = into.get(arrow.tail, arrow.tail), into.get(arrow.head, arrow.head)
        if tail in scopes and tail == head:
            continue
        if tail != arrow.tail:
            arrow = evolve(arrow, number=0)
        yield evolve(arrow, tail=tail, head=head)


def _fold_changes(changes: Mapping[str, Change], into: Mapping[str, str]) -> dict[str, Change]:
    found: dict[str, Change] = {}
    for name, change in changes.items():
        found[into[name]] = "changed"
        if into[name] == name:
            found[name] = change
    return found


def reduce_to_outline(shown: Picture) -> Picture:
    """The picture without what serves the rest: loop heads, draws, the record.

    Loops over validation data are one state. An arrow stands for each way from one of the other
    states to the next. What a scope begins with goes the main way only.
    """
    shown = fold_scopes(shown, [scope for scope in shown.scopes if _folds(shown, scope)])
    hidden = [name for name in shown.order if _serves(shown, name)]
    arrows = [arrow for arrow in shown.arrows if arrow.kind != "event"]
    for name in hidden:
        arrows = _bypass(shown, arrows, name)
    order = tuple(name for name in shown.order if name not in hidden)
    current = shown.current
    if current not in order:
        current = None
    return evolve(shown, arrows=tuple(_strongest(arrows)), order=order, current=current)


def _folds(shown: Picture, scope: str) -> bool:
    """Whether a scope is one state in the outline: a loop aside, or one with nothing to show."""
    inside = frozenset(shown.life.inside(scope)) & frozenset(shown.order)
    return _is_aside(shown, scope) or all(
        _serves(shown, name) for name in inside if name not in shown.scopes
    )


def _serves(shown: Picture, name: str) -> bool:
    """Whether a state is not one of those that everyone knows."""
    state = shown.life.state(name)
    return name not in shown.scopes and (state.anchor or state.role in _SERVING)


def _is_aside(shown: Picture, scope: str) -> bool:
    """Whether a scope is a loop over data next to training, made like `valid`."""
    state = shown.life.state(scope)
    roles = [shown.life.role(name) for name in shown.children(scope)]
    return state.within is not None and f"next_{state.role}_batch" in roles


def _bypass(shown: Picture, arrows: list[Arrow], name: str) -> list[Arrow]:
    """The arrows with those through a state joined, and the state left out."""
    starts = frozenset(map(start_of, shown.scopes))
    ways_on = [arrow for arrow in arrows if arrow.tail == name != arrow.head]
    main_ways_on = [arrow for arrow in ways_on if arrow.kind in ("hot", "main")]
    joined = []
    for before in arrows:
        if before.head == name != before.tail:
            onward = ways_on
            if before.tail in starts:
                onward = main_ways_on
            joined += [_join(shown, before, after) for after in onward]
    return [arrow for arrow in arrows if name not in (arrow.tail, arrow.head)] + joined


def _join(shown: Picture, before: Arrow, after: Arrow) -> Arrow:
    head = after.head
    if before.tail in shown.order and head in shown.scopes & {*shown.life.path(before.tail)}:
        head = start_of(head)  # from within, a scope is begun again
    change = before.change or after.change
    recent = before.recent and after.recent
    return Arrow(before.tail, head, _kind_of_both(before, after), recent=recent, change=change)


def _kind_of_both(before: Arrow, after: Arrow) -> BoxKind:
    kinds = (before.kind, after.kind)
    if "failure" in kinds:
        return "failure"
    if kinds == ("hot", "hot"):
        return "hot"
    if "plain" in kinds:
        return "plain"
    return "main"


def _strongest(arrows: Iterable[Arrow]) -> list[Arrow]:
    """One arrow between each two, of the kind that says most."""
    best: dict[tuple[str, str], Arrow] = {}
    for arrow in arrows:
        known = best.setdefault((arrow.tail, arrow.head), arrow)
        if _STRENGTH.index(arrow.kind) < _STRENGTH.index(known.kind):
            best[arrow.tail, arrow.head] = arrow
    return list(best.values())


def _sum_shares(shares: Mapping[str, float], into: Mapping[str, str]) -> dict[str, float]:
    total: dict[str, float] = {}
    for name, share in shares.items():
        home = into.get(name, name)
        total[home] = total.get(home, 0.0) + share
    return total
