"""A lifecycle as text: its states by scope, and its arrows in the order of evaluation.

`print(life)` shows it in a terminal, `markdown_table(life)` is for a page. What both say about
order, the pictures say too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from statetrain.guards.agreed import with_ranks
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, State
from statetrain.lifecycle.transition import Transition
from statetrain.naming import label_of

OTHER_ERRORS = "any other exception"  # what leads to `failed` without an arrow of its own


def table(life: Lifecycle) -> str:
    """A lifecycle as lines of text for a terminal.

    Args:
        life: the lifecycle.

    Returns:
        The states with what they do, then the arrows: `source -> dest`, `[guard]`, `/ effect`, then
            those that are taken
        on an event. Arrows are numbered where it matters which is asked first.
    """
    order = reading_order(life)
    states = [
        (
            "  " * (len(life.path(name)) - 1) + name,
            _does(life.state(name)),
            _notes(life, life.state(name)),
        )
        for name in order
    ]
    states.append((FAILED, "", f"final, {OTHER_ERRORS}"))
    lines = [
        f"{plain(life.name)}: {len(life.states)} states, {len(life.transitions)} arrows",
        "",
        *_columns(states),
    ]
    rows = [_row(life, arrow) for arrow in (*_ordinary(life), *_events(life))]
    arrows = [
        ("" if above and row[0] == above[0] else row[0], *row[1:])
        for above, row in zip((None, *rows), rows, strict=False)
    ]
    listed = list(_columns(arrows))
    first = len(_ordinary(life))
    lines += ["", "arrows", *listed[:first]]
    if listed[first:]:
        lines += ["", "on events raised anywhere within", *listed[first:]]
    return "\n".join(lines)


def markdown_table(life: Lifecycle) -> str:
    """A lifecycle as two Markdown tables: its states, and its arrows in order of evaluation.

    Args:
        life: the lifecycle.
    """
    states = [
        (
            f"{'&emsp;' * (len(life.path(name)) - 1)}`{name}`",
            escaped(_does(life.state(name))),
            escaped(_notes(life, life.state(name))),
        )
        for name in reading_order(life)
    ]
    arrows = [
        (
            f"`{arrow.source}`",
            f"`{arrow.dest}`",
            str(number_of(life, arrow) or ""),
            f"`{arrow.event.__name__}`" if arrow.event is not None else "",
            escaped(with_ranks(arrow.guard) if arrow.guard is not None else ""),
            escaped(label_of(arrow.effect) if arrow.effect is not None else ""),
        )
        for arrow in (*_ordinary(life), *_events(life))
    ]
    lines = [
        *_markdown(("state", "does", ""), states),
        "",
        *_markdown(("from", "to", "", "on event", "if", "then"), arrows),
    ]
    return "\n".join(lines) + "\n"


def reading_order(life: Lifecycle) -> tuple[str, ...]:
    """The names of the states in reading order.

    A scope comes before what is in it, and each state after those that lead to it.
    """
    leaving = _leaving(life)
    order: list[str] = []
    todo = _in_order(life, None, leaving)
    while todo:
        name = todo.pop()
        order.append(name)
        todo += _in_order(life, name, leaving)
    return tuple(order)


Leaving = dict[tuple[str | None, str], list[Transition]]


def _leaving(life: Lifecycle) -> Leaving:
    """By scope and state directly within it, the arrows that leave that state or what is in it."""
    found: Leaving = {}
    for arrow in life.transitions:
        around: str | None = None
        for name in life.path(arrow.source):
            found.setdefault((around, name), []).append(arrow)
            around = name
    return found


def _in_order(life: Lifecycle, scope: str | None, leaving: Leaving) -> list[str]:
    """The states directly within a scope, the one that is read first at the end."""
    children = life.children(scope)
    done: dict[str, None] = {}
    begin = [life.start] if scope is None else life.arrows(scope)
    starts = [_home(life, scope, arrow.dest) for arrow in begin]
    for child in (*starts, *children):
        if child is not None and child not in done:
            _follow(life, scope, child, leaving, done)
    return list(done)


def _follow(
    life: Lifecycle, scope: str | None, child: str, leaving: Leaving, done: dict[str, None]
) -> None:
    """Adds a state after all that it leads to, and which is not there yet."""
    seen = {child, *done}
    trail = [(child, _onward(life, scope, child, leaving))]
    while trail:
        name, onward = trail[-1]
        after = next((one for one in onward if one not in seen), None)
        if after is None:
            done[name] = None
            trail.pop()
        else:
            seen.add(after)
            trail.append((after, _onward(life, scope, after, leaving)))


def _onward(life: Lifecycle, scope: str | None, child: str, leaving: Leaving) -> Iterator[str]:
    """The states within a scope that one of them leads to.

    What is evaluated first comes last, so that it ends up first.
    """
    for arrow in reversed(leaving.get((scope, child), [])):
        home = _home(life, scope, arrow.dest)
        if home is not None:
            yield home


def _home(life: Lifecycle, scope: str | None, name: str) -> str | None:
    """The state directly within a scope that is, or contains, another one; None if outside."""
    path = life.path(name)
    if scope is None:
        return path[0] if path[0] != FAILED else None
    if scope not in path[:-1]:
        return None
    return path[path.index(scope) + 1]


def number_of(life: Lifecycle, arrow: Transition) -> int:
    """The position of an arrow in the order of evaluation, from 1; 0 if it is alone.

    Counted among the arrows with a guard, or among those on related events.
    """
    event = arrow.event
    if event is None:
        asked = [t for t in life.arrows(arrow.source) if t.guard is not None]
    else:
        asked = [
            t
            for t in life.events(arrow.source)
            if t.event is not None and (issubclass(t.event, event) or issubclass(event, t.event))
        ]
    return asked.index(arrow) + 1 if len(asked) > 1 and arrow in asked else 0


def plain(text: str) -> str:
    """A label on one line, without what no file can hold."""
    joined = " ".join(text.split())
    return "".join(
        c if c.isprintable() or c == "\N{ZERO WIDTH JOINER}" else "\N{REPLACEMENT CHARACTER}"
        for c in joined
    )


def is_else(life: Lifecycle, arrow: Transition) -> bool:
    """Whether an arrow is taken because no guard before it held."""
    return arrow.event is None and arrow.guard is None and len(life.arrows(arrow.source)) > 1


def _ordinary(life: Lifecycle) -> list[Transition]:
    return [arrow for name in reading_order(life) for arrow in life.arrows(name)]


def _events(life: Lifecycle) -> list[Transition]:
    return [arrow for name in reading_order(life) for arrow in life.events(name)]


def _does(state: State) -> str:
    return plain(label_of(state.action)) if state.action is not None else ""


def _notes(life: Lifecycle, state: State) -> str:
    notes = (
        "initial" if state.name == life.initial else "",
        "anchor" if state.anchor else "",
        "final" if state.final else "",
        f"role {state.role}" if state.role != state.name else "",
        f"mode {plain(label_of(state.mode))}" if state.mode is not None else "",
        f"all ranks meet: {state.meets}" if state.meets else "",
        f"at exit: {plain(label_of(state.close))}" if state.close is not None else "",
    )
    return ", ".join(note for note in notes if note)


def _row(life: Lifecycle, arrow: Transition) -> tuple[str, str, str]:
    words = f"else {arrow.label}" if is_else(life, arrow) else arrow.label
    if arrow.guard is not None:
        words = words.replace(f"[{arrow.guard.label}]", f"[{with_ranks(arrow.guard)}]", 1)
    return arrow.source, f"{number_of(life, arrow) or ' '} -> {arrow.dest}", plain(words)


def _columns(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield (
            "  " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        ).rstrip()


def _markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(row)} |"


def escaped(text: str) -> str:
    """A text in which no character means anything to Markdown."""
    return re.sub(r"[\\`*_\[\]<>|~$&#]", r"\\\g<0>", plain(text))
