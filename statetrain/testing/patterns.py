"""Patterns of states: what a trace must look like.

A pattern is read from left to right over the states of a trace:

- `draw batch`: these states, one after the other
- `( ... )`: a group
- `a | b`: either
- `a*`, `a+`, `a?`: any number of it, at least one, at most one
- `a{3}`, `a{2,4}`, `a{2,}`: so many
- `.`: any state
- `...`: any states, also none

Theory: a pattern is parsed into a tree, and the tree becomes a nondeterministic automaton whose
nodes each wait for one state. All nodes that may be waiting are kept at once, so a trace is read in
one pass. When none of them waits for the state that came, they are what was expected there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from attrs import define, field, frozen

from statetrain.errors import LifecycleError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED
from statetrain.naming import did_you_mean, nearest
from statetrain.trace import Trace, shorten

_TOKEN = re.compile(r"[^\W\d]\w*|\.\.\.|[().|*+?]|\{ *\d+ *(?:, *\d* *)?\}|\S")
_TIMES = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_ANY = "."
_END = ""  # what the last node waits for
_MOST = 100_000  # nodes of one automaton; counts within counts multiply


def assert_trace(trace: Trace | Iterable[str], pattern: str) -> None:
    """Holds a trace against a pattern, which has to match from the first state to the last.

        assert_trace(trace, "fit next_epoch epoch train (next_batch draw batch pred loss backward
        step)* ...")

    Args:
        trace: a trace, or the names of states.
        pattern: names of states and signs; `statetrain.testing.patterns` lists them.

    Raises:
        AssertionError: the trace leaves the pattern: it says where, what was got and what was
            expected.
        LifecycleError: the pattern cannot be read, or names a state that the trace's lifecycle has
            not.
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    if isinstance(trace, str):
        raise LifecycleError(
            f"assert_trace takes a trace or a list of states, got the text {trace!r:.80};"
            " split() it"
        )
    tree = _Parser(pattern).parse()
    states = list(trace.states if isinstance(trace, Trace) else trace)
    if isinstance(trace, Trace) and trace.lifecycle is not None:
        _check_names(tree, trace.lifecycle)
    departure = _read(_automaton(tree), states)
    if departure is not None:
        at, expected = departure
        raise AssertionError(_explain(states, at, expected, pattern))


# ---------------------------------------------------------------- the tree


@frozen
class _One:
    """One state: a name, or any."""

    name: str
    at: int  # where it stands in the pattern


@frozen
class _Sequence:
    parts: tuple[_Tree, ...]


@frozen
class _Either:
    parts: tuple[_Tree, ...]


@frozen
class _Repeat:
    part: _Tree
    least: int
    most: int | None  # None is no limit


_Tree: TypeAlias = _One | _Sequence | _Either | _Repeat


class _Parser:
    """Reads by recursive descent: `either` of `sequence`s of `repeat`ed `atom`s."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.tokens = [(found[0], found.start()) for found in _TOKEN.finditer(pattern)]
        self.next = 0

    def parse(self) -> _Tree:
        tree = self.either()
        if self.token:
            raise self.error("nothing opens this")
        return tree

    @property
    def token(self) -> str:
        """The next token; empty at the end."""
        if self.next < len(self.tokens):
            return self.tokens[self.next][0]
        return ""

    def take(self) -> tuple[str, int]:
        self.next += 1
        return self.tokens[self.next - 1]

    def either(self) -> _Tree:
        parts = [self.sequence()]
        while self.token == "|":
            self.take()
            parts.append(self.sequence())
        if len(parts) == 1:
            return parts[0]
        return _Either(tuple(parts))

    def sequence(self) -> _Tree:
        parts = []
        while self.token not in ("", "|", ")"):
            parts.append(self.repeat())
        if len(parts) == 1:
            return parts[0]
        return _Sequence(tuple(parts))

    def repeat(self) -> _Tree:
        part = self.atom()
        if self.token in _TIMES:
            return _Repeat(part, *_TIMES[self.take()[0]])
        if self.token.startswith("{") and len(self.token) > 1:
            counts = [
                int(count) if count.strip() else None for count in self.token.strip("{}").split(",")
            ]
            least, most = counts[0] or 0, counts[-1]
            if most is not None and most < least:
                raise self.error("the second count is the larger one")
            self.take()
            return _Repeat(part, least, most)
        return part

    def atom(self) -> _Tree:
        if self.token == "(":
            self.take()
            part = self.either()
            if self.token != ")":
                raise self.error("a group is not closed")
            self.take()
            return part
        if self.token == "...":
            return _Repeat(_One(_ANY, self.take()[1]), 0, None)
        if self.token == _ANY or self.token.isidentifier():
            return _One(*self.take())
        if self.token in _TIMES or (self.token.startswith("{") and len(self.token) > 1):
            raise self.error("there is nothing before it to repeat")
        raise self.error("this is no sign of a pattern")

    def error(self, why: str) -> LifecycleError:
        rest = ""
        if self.token:
            rest = self.pattern[self.tokens[self.next][1] :]
        if rest:
            at = f"at {rest!r:.40}"
        else:
            at = "at its end"
        return LifecycleError(
            f"pattern {self.pattern!r}: {why}, {at}; write names of states, ( ) | * + ? {{n}}"
            " {n,m} . and ..."
        )


def _ones(tree: _Tree) -> Iterator[_One]:
    if isinstance(tree, _One):
        yield tree
    else:
        for part in (tree.part,) if isinstance(tree, _Repeat) else tree.parts:
            yield from _ones(part)


def _check_names(tree: _Tree, lifecycle: Lifecycle) -> None:
    known = {*lifecycle.names, *lifecycle.also, FAILED}
    for one in _ones(tree):
        if one.name != _ANY and one.name not in known:
            raise LifecycleError(
                f"the pattern names {one.name!r}: no state of"
                f" {lifecycle.name!r}{did_you_mean(one.name, known)}"
            )


# ---------------------------------------------------------------- the automaton


@define(eq=False)
class _Node:
    """Waits for one state and then leads on; with `one` None it leads on at once."""

    one: _One | None
    then: list[_Node] = field(factory=list)


def _automaton(tree: _Tree) -> _Node:
    """The first node. It is built from the end: each part leads to what comes after it."""
    count = 0

    def node(one: _One | None, *then: _Node) -> _Node:
        nonlocal count
        count += 1
        if count > _MOST:
            raise LifecycleError(
                f"the pattern's counts multiply to more than {_MOST} states; use * or + instead"
            )
        return _Node(one, list(then))

    def build(tree: _Tree, after: _Node) -> _Node:
        if isinstance(tree, _One):
            return node(tree, after)
        if isinstance(tree, _Sequence):
            for part in reversed(tree.parts):
                after = build(part, after)
            return after
        if isinstance(tree, _Either):
            return node(None, *(build(part, after) for part in tree.parts))
        first = after
        if tree.most is None:
            first = node(None, after)
            first.then.append(build(tree.part, first))
        else:
            for _ in range(tree.most - tree.least):
                first = node(None, after, build(tree.part, first))
        for _ in range(tree.least):
            first = build(tree.part, first)
        return first

    return build(tree, _Node(_One(_END, -1)))


def _waiting(nodes: Iterable[_Node]) -> list[_Node]:
    """The nodes that wait for a state, reached from these without one."""
    todo, seen, waiting = list(nodes), set(), []
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.one is None:
            todo += node.then
        else:
            waiting.append(node)
    return waiting


def _read(first: _Node, states: list[str]) -> tuple[int, list[_One]] | None:
    """Where the states leave the automaton and what was expected there; None if they do not."""
    waiting = _waiting([first])
    for at, state in enumerate(states):
        onward = [
            then
            for node in waiting
            if node.one is not None and node.one.name in (state, _ANY)
            for then in node.then
        ]
        if not onward:
            return at, [node.one for node in waiting if node.one is not None]
        waiting = _waiting(onward)
    expected = [node.one for node in waiting if node.one is not None]
    if any(one.name == _END for one in expected):
        return None
    return len(states), expected


# ---------------------------------------------------------------- the explanation


def _explain(states: list[str], at: int, expected: list[_One], pattern: str) -> str:
    left, got = "leaves the pattern", "the end of the trace"
    if at == len(states):
        left = "ends before the pattern does"
    else:
        got = states[at]
    names = sorted({one.name for one in expected} - {_END, _ANY})
    signs = [
        words
        for sign, words in ((_ANY, "any state"), (_END, "the end"))
        if any(one.name == sign for one in expected)
    ]
    lines = [
        f"the trace {left}, after {at} of {len(states)} states",
        f"  matched   {shorten(states[:at]) or 'nothing'}",
        f"  got       {got}",
        f"  expected  {' or '.join((*names, *signs))}",
    ]
    if states[at + 1 :]:
        lines.append(f"  then came {shorten(states[at + 1 :], 6)}")
    lines.append(f"  pattern   {' '.join(pattern.split())}")
    if pattern == " ".join(pattern.split()):  # else the places in it have moved
        lines.append(f"            {_carets(expected, pattern)}")
    for name in names:
        hint = nearest(name, states)
        if name not in states and hint:
            lines.append(f"  {name!r} is nowhere in the trace{hint}")
    return "\n".join(lines)


def _carets(expected: list[_One], pattern: str) -> str:
    marked: set[int] = set()
    for one in expected:
        if one.name:
            marked.update(range(one.at, one.at + len(one.name)))
        else:
            marked.add(len(pattern))
    return "".join(" ^"[i in marked] for i in range(max(marked) + 1))
