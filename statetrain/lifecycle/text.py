"""A lifecycle as text: its states by scope, and its arrows in the order of evaluation.

`print(life)` shows it in a terminal, `markdown_table(life)` is for a page. What both say about
order, the pictures say too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

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
    states = [
        (
            "  " * (len(life.path(name)) - 1) + name,
            _called(life.state(name).action),
            _notes(life, life.state(name)),
        )
        for name in reading_order(life)
    ]
    states.append((FAILED, "", f"final, {OTHER_ERRORS}"))
    lines = [
        f"{plain(life.name)}: {len(life.states)} states, {len(life.transitions)} arrows",
        "",
        *_columns(states),
    ]
    rows = [_row(life, arrow) for arrow in (*_ordinary(life), *_events(life))]
    above = ["", *(source for source, *_ in rows)]
    arrows = [
        (source * (source != before), *rest)  # each source once
        for before, (source, *rest) in zip(above, rows, strict=False)
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
            escaped(_called(life.state(name).action)),
            escaped(_notes(life, life.state(name))),
        )
        for name in reading_order(life)
    ]
    arrows = [
        (
            f"`{arrow.source}`",
            f"`{arrow.dest}`",
            str(number_of(life, arrow) or ""),
            _event_of(arrow),
            escaped(_condition_of(arrow)),
            escaped(_called(arrow.effect)),
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
    begin: Sequence[Transition] = [life.start]
    if scope is not None:
        begin = life.arrows(scope)
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
    path = (None, *life.path(name))
    if name == FAILED or scope not in path[:-1]:
        return None
    return path[path.index(scope) + 1]


def number_of(life: Lifecycle, arrow: Transition) -> int:
    """The position of an arrow in the order of evaluation, from 1; 0 if it is alone.

    Counted among the arrows with a guard, or among those on related events.
    """
    asked = [other for other in life.arrows(arrow.source) if other.guard is not None]
    if arrow.event is not None:
        asked = [other for other in life.events(arrow.source) if _related(other, arrow)]
    if len(asked) < 2 or arrow not in asked:
        return 0
    return asked.index(arrow) + 1


def _related(one: Transition, other: Transition) -> bool:
    """Whether an event may be taken by either of two arrows."""
    if one.event is None or other.event is None:
        return False
    return issubclass(one.event, other.event) or issubclass(other.event, one.event)


def plain(text: str) -> str:
    """A label on one line, without what no file can hold."""
    return "".join(map(_shown, " ".join(text.split())))


def _shown(character: str) -> str:
    if character.isprintable() or character == "\N{ZERO WIDTH JOINER}":
        return character
    return "\N{REPLACEMENT CHARACTER}"


def is_else(life: Lifecycle, arrow: Transition) -> bool:
    """Whether an arrow is taken because no guard before it held."""
    return arrow.event is None and arrow.guard is None and len(life.arrows(arrow.source)) > 1


def _ordinary(life: Lifecycle) -> list[Transition]:
    return [arrow for name in reading_order(life) for arrow in life.arrows(name)]


def _events(life: Lifecycle) -> list[Transition]:
    return [arrow for name in reading_order(life) for arrow in life.events(name)]


def _called(work: object) -> str:
    """What an action, an effect, close work or a mode is called; empty if there is none."""
    if work is None:
        return ""
    return plain(label_of(work))


def _event_of(arrow: Transition) -> str:
    if arrow.event is None:
        return ""
    return f"`{arrow.event.__name__}`"


def _condition_of(arrow: Transition) -> str:
    if arrow.guard is None:
        return ""
    return with_ranks(arrow.guard)


def _notes(life: Lifecycle, state: State) -> str:
    notes = {
        "initial": state.name == life.initial,
        "anchor": state.anchor,
        "final": state.final,
        f"ends as {getattr(state.outcome, '__name__', '')}": state.outcome is not None,
        f"role {state.role}": state.role != state.name,
        f"mode {_called(state.mode)}": state.mode is not None,
        f"all ranks meet: {state.meets}": state.meets,
        f"at exit: {_called(state.close)}": state.close is not None,
    }
    return ", ".join(note for note, is_so in notes.items() if is_so)


def _row(life: Lifecycle, arrow: Transition) -> tuple[str, str, str]:
    words = arrow.label
    if is_else(life, arrow):
        words = f"else {words}"
    if arrow.guard is not None:
        words = words.replace(f"[{arrow.guard.label}]", f"[{with_ranks(arrow.guard)}]", 1)
    return arrow.source, f"{number_of(life, arrow) or ' '} -> {arrow.dest}", plain(words)


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
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
