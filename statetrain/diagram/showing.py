"""What is shown of a lifecycle, in which detail, and on top of it a run, or a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypedDict, get_args

from attrs import evolve

from statetrain.diagram.comparing import compare_lifecycles
from statetrain.diagram.picture import (
    Arrow,
    Picture,
    events_of,
    picture_of,
    start_of,
    transitions_of,
)
from statetrain.diagram.simpler import fold_scopes, reduce_to_outline
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.transition import Transition
from statetrain.trace import Trace
from statetrain.trace.words import Words, by_words, times_asked, words_of
from statetrain.validators import check_word

_RECENT = 12  # transitions of a run that stand out

Detail = Literal["full", "states", "outline"]


class Shown(TypedDict, total=False):
    """What of a lifecycle is shown, and what is shown on top of it.

    Attributes:
        detail: "full"; "states" for the states and the ways between them, without events and
            without labels; or "outline" for the familiar states of training: no loop heads, no
            draws, a loop over validation data as one state.
        fold: scopes that are drawn as one state.
        counts: how often each arrow was taken in a run, such as `run.trace.counts()`; shown in
            its label.
        trace: of a run: in place of `counts`; its last transitions and the state that it is in
            stand out as well. With recorded times, each state shows its share of them.
        zeros: whether it is shown of arrows that were never taken.
        marked: more arrows to stand out; in Mermaid, whose arrows have no colours, they carry a
            sign.
        since: another lifecycle: what was added to it, removed from it and changed stands out.
    """

    detail: Detail
    fold: Iterable[str]
    counts: Mapping[Transition, int] | None
    trace: Trace | None
    zeros: bool
    marked: Iterable[Transition]
    since: Lifecycle | None


def picture(
    life: Lifecycle,
    detail: Detail = "full",
    fold: Iterable[str] = (),
    counts: Mapping[Transition, int] | None = None,
    trace: Trace | None = None,
    zeros: bool = True,
    marked: Iterable[Transition] = (),
    since: Lifecycle | None = None,
) -> Picture:
    """What is drawn of a lifecycle; the arguments are those of `Shown`.

    Raises:
        ConfigError: the detail, or a scope to fold, is unknown.
    """
    check_word("detail", detail, get_args(Detail))
    if since is None:
        shown = picture_of(life)
    else:
        shown = compare_lifecycles(since, life)
    last = list(marked)
    if trace is not None:
        counts = trace.counts()
        last += trace.transitions[-_RECENT:]
        shown = evolve(shown, current=trace.states[-1] if len(trace) else None)
    if counts is not None or last:
        shown = _add_counts(shown, counts, set(map(words_of, last)))
    if not zeros:
        taken = (evolve(a, count=a.count or None, asked=a.count and a.asked) for a in shown.arrows)
        shown = evolve(shown, arrows=tuple(taken))
    if trace is not None:
        shown = _add_times(shown, trace)
    shown = fold_scopes(shown, fold)
    if detail == "outline":
        shown = reduce_to_outline(shown)
    if detail != "full":
        shown = _without_labels(shown)
    return _merge(shown)


def _add_counts(
    shown: Picture, counts: Mapping[Transition, int] | None, last: set[Words]
) -> Picture:
    """With how often each arrow was taken, and its guard evaluated."""
    transitions, arrows, taken = transitions_of(shown.life), [], by_words(counts or {})
    for i, (transition, arrow) in enumerate(zip(transitions, shown.arrows, strict=True)):
        count = asked = None
        if counts is not None and i:
            count = taken.get(words_of(transition), 0)
            asked = times_asked(shown.life, transition, taken)
        arrows.append(evolve(arrow, count=count, asked=asked, recent=words_of(transition) in last))
    return evolve(shown, arrows=tuple(arrows))


def _add_times(shown: Picture, trace: Trace) -> Picture:
    """With the shares of the time, if times were recorded."""
    seconds = trace.seconds()
    total = sum(seconds.values())
    if not total:
        return shown
    spent = by_words(seconds)
    shares: dict[str, float] = {}
    for words, some in spent.items():
        dest = words[1]
        shares[dest] = shares.get(dest, 0.0) + some / total
    arrows = (
        evolve(a, share=spent.get(words_of(t), 0.0) / total)
        for t, a in zip(transitions_of(shown.life), shown.arrows, strict=True)
    )
    return evolve(shown, arrows=tuple(arrows), shares=shares)


def _without_labels(shown: Picture) -> Picture:
    """Without events, and without labels on the arrows."""
    kept = (
        Arrow(
            a.tail, a.head, a.kind, count=a.count, share=a.share, recent=a.recent, change=a.change
        )
        for a in shown.arrows
        if a.kind != "event"
    )
    return evolve(shown, arrows=tuple(kept))


def _merge(shown: Picture) -> Picture:
    """With one arrow for several that look the same, such as two events that lead the same way."""
    arrows: dict[Arrow, Arrow] = {}
    for arrow in shown.arrows:
        look = evolve(arrow, event="", count=None, asked=None, share=None, recent=False)
        alike = arrows.get(look)
        arrows[look] = arrow if alike is None else _merge_arrows(alike, arrow)
    ends = {end for arrow in arrows.values() for end in (arrow.tail, arrow.head)}
    possible = {dot for scope in shown.scopes for dot in (start_of(scope), events_of(scope))}
    return evolve(shown, arrows=tuple(arrows.values()), dots=frozenset(possible & ends))


def _merge_arrows(one: Arrow, other: Arrow) -> Arrow:
    merged = evolve(one, event=other.event, recent=one.recent or other.recent)
    if other.kind == "event":
        merged = evolve(merged, event=f"{one.event}, {other.event}")
    if other.count is not None:
        merged = evolve(merged, count=other.count + (one.count or 0))
    if other.share is not None:
        merged = evolve(merged, share=other.share + (one.share or 0.0))
    return merged
