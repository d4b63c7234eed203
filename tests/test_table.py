"""Lifecycles as text."""

import re
from collections import Counter

from attrs import frozen
from hypothesis import given, settings
from strategies import lifecycles

from statetrain.events import SkipBatch, StopFit
from statetrain.guards.base import Guard, guard
from statetrain.guards.history import EarlyStopping
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.text import markdown_table, number_of, reading_order, table
from statetrain.lifecycle.transition import Transition
from statetrain.standard.supervised import supervised


@guard
def ready(ctx):
    "ready"
    return True


@guard
def fresh(ctx):
    "fresh"
    return True


@frozen
class Odd(Guard):
    """A guard with a label that means something elsewhere."""

    label: str

    def test(self, ctx):
        return True


def do(ctx):
    "do something"


def small() -> Lifecycle:
    return Lifecycle(
        "small",
        [
            State("work", do),
            State("a", do, "work", anchor=True),
            State("b", do, "work", close=do),
            State("end", final=True),
        ],
        [
            Transition("work", "a"),
            Transition("a", "end", ready & fresh, do),
            Transition("a", "end", ready),
            Transition("a", "b"),
            Transition("b", "a", effect=do),
            Transition("b", "a", event=SkipBatch),
            Transition("work", "end", event=StopFit),
            Transition("work", "b", event=SkipBatch, guard=ready),
            Transition("work", "a", event=SkipBatch),
        ],
    )


def test_a_lifecycle_prints_as_a_table():
    "States stand under their scopes with what they do, arrows in the order in which they are asked, events last."
    assert str(small()) == table(small())
    assert (
        table(small())
        == """\
small: 4 states, 9 arrows

  work     do something   initial
    a      do something   anchor
    b      do something   at exit: do something
  end                     final
  failed                  final, any other exception

arrows
  work     -> a
  a      1 -> end   [ready and fresh] / do something
         2 -> end   [ready]
           -> b     else
  b        -> a     / do something

on events raised anywhere within
  work     -> end   StopFit
         1 -> b     SkipBatch [ready]
         2 -> a     SkipBatch
  b        -> a     SkipBatch"""
    )


def test_the_standard_chain_reads_in_order():
    "The states are listed as one meets them, whatever the order in which options added them."
    assert reading_order(supervised()) == (
        *(
            "fit",
            "next_epoch",
            "epoch",
            "train",
            "next_batch",
            "draw",
            "batch",
            "pred",
            "loss",
            "backward",
            "step",
        ),
        *(
            "valid",
            "next_valid_batch",
            "valid_draw",
            "valid_batch",
            "valid_pred",
            "valid_loss",
            "record",
            "end",
        ),
    )


def test_numbers_stand_where_the_order_matters():
    "Two guards of one state are numbered; a guard that has no rival is not, nor is what is left over."
    life = supervised(stop=EarlyStopping("valid_loss", 3))
    assert [number_of(life, arrow) for arrow in life.arrows("next_epoch")] == [1, 2, 3, 0]
    assert [number_of(life, arrow) for arrow in life.arrows("next_batch")] == [0, 0]


@settings(max_examples=40, derandomize=True)
@given(lifecycles())
def test_the_text_tells_all_there_is(life):
    "Every state is listed once, a scope before what is in it, and every arrow has a line of its own."
    order = reading_order(life)
    assert sorted(order) == sorted(life.names)
    assert all(
        order.index(scope) < order.index(name)
        for name in life.names
        for scope in life.path(name)[:-1]
    )
    listed, source = Counter(), ""
    for line in table(life).splitlines():
        if row := re.fullmatch(r"  (\w*) +\d* +-> (\w+) *(.*)", line):
            source = row[1] or source
            listed[source, row[2], row[3].removeprefix("else").strip()] += 1
    assert listed == Counter((arrow.source, arrow.dest, arrow.label) for arrow in life.transitions)
    assert sum(line.startswith("| `") for line in markdown_table(life).splitlines()) >= len(
        life.transitions
    )


def test_labels_cannot_break_the_text():
    "A label with line breaks stays on its line, and one with Markdown's signs stays in its cell and means nothing."
    label = "a | b\n\n# *c* <d> `e` \\ [f](g) \x00"
    life = Lifecycle(
        "odd",
        [State("a"), State("end", final=True)],
        [Transition("a", "end", Odd(label)), Transition("a", "end")],
    )
    assert len(table(life).splitlines()) == 9
    row = next(
        line
        for line in markdown_table(life).splitlines()
        if "c" in line and line.startswith("| `a`")
    )
    cells = re.split(r"(?<!\\)\|", row)
    assert len(cells) == 8
    shown = re.sub(r"\\(.)", r"\1", cells[5]).strip()
    assert shown == "a | b # *c* <d> `e` \\ [f](g) \N{REPLACEMENT CHARACTER}"
    assert not re.search(r"(?<!\\)[*<>`\[\]#]", cells[5])


def test_markdown_lists_states_and_arrows():
    "The two tables have a row for each state and each arrow, with scopes shown by indentation."
    text = markdown_table(small())
    states, arrows = text.split("\n\n")
    assert states.splitlines()[2:] == [
        "| `work` | do something | initial |",
        "| &emsp;`a` | do something | anchor |",
        "| &emsp;`b` | do something | at exit: do something |",
        "| `end` |  | final |",
    ]
    assert arrows.splitlines()[3] == "| `a` | `end` | 1 |  | ready and fresh | do something |"
    assert arrows.splitlines()[-1] == "| `b` | `a` |  | `SkipBatch` |  |  |"
