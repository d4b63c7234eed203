"""What a machine shows of its data flow: fields, who writes each and who reads it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

import statetrain as st
from statetrain.context.context import Context
from statetrain.context.fields import meanings
from statetrain.context.position import Position
from statetrain.contracts.outline import fields_table
from statetrain.errors import ConfigError


def machine(*callbacks, **options):
    """A machine of the standard lifecycle."""
    return st.Machine(st.supervised(**options), callbacks)


def test_a_data_flow_names_writers_and_readers():
    """States, arrows and callbacks, by what they declare; who reads everything, and who declares nothing, stand apart."""
    quiet = type("Quiet", (st.Callback,), {"on_exit_loss": lambda self, ctx: None})()
    flow = machine(st.GradientClip(1.0), st.Log(), quiet).dataflow()
    assert [use.who for use in flow.writers["grads"]] == ["backward", "GradientClip"]
    assert {use.who for use in flow.readers["grads"]} == {"step"}
    assert "draw -> batch" in [use.who for use in flow.readers["drawn"]]
    assert flow.unknown == ("Quiet",)
    assert "Log" in flow.everything
    assert any(
        line.split()
        == [
            "drawn",
            "draw,",
            "valid_draw",
            "draw",
            "->",
            "batch,",
            "valid_draw",
            "->",
            "valid_batch",
        ]
        for line in str(flow).splitlines()
    )
    assert str(flow).splitlines()[-1] == "declare nothing: Quiet"


def test_the_picture_shows_what_comes_into_being_or_what_is_asked_for():
    """Fields that are there from the start only stand in the picture if a callback writes them, or if they are asked for."""
    flow = machine(st.LRScheduler(lambda optimizer: None, optimizer="body")).dataflow()
    shown = flow.mermaid()
    assert '(["pred"])' in shown
    assert '(["epoch"])' not in shown
    assert '-->|"optimizers#46;body"|' in shown
    assert flow.mermaid(fields="epoch").startswith('flowchart LR\n    f0(["epoch"])\n')
    with pytest.raises(
        ConfigError, match="nothing declares that it writes or reads 'epch'; did you mean 'epoch'"
    ):
        flow.dot(fields=["epch"])


def test_hostile_names_are_text():
    """Whatever a callback is called, and whatever path it declares, the picture shows it, and nothing of it is markup."""
    hostile = 'x"] --> f0["<b>%{end}'
    looks = type(
        "Looks",
        (st.Callback,),
        {
            "label": hostile,
            "reads": {"buffers['\"]; a -> b']"},
            "writes": {"grads"},
            "on_enter_step": lambda self, ctx: None,
        },
    )()
    flow = machine(looks).dataflow()
    mermaid = flow.mermaid(fields=["grads", "buffers"])
    assert hostile not in mermaid
    assert all(line.count('"') in (0, 2) for line in mermaid.splitlines())
    assert '\\"] --> f0[\\"<b>' in flow.dot(fields=["grads"])


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
def test_graphviz_reads_the_picture():
    """`dot` accepts the text."""
    done = subprocess.run(
        ["dot", "-Tsvg"],
        input=machine(st.GradientClip(1.0)).dataflow().dot(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_table_of_fields_says_from_where_to_where():
    """Computed from the data flow: where a field comes into being, where it ends, who writes it on the way."""
    rows = {
        line.split("`")[1]: [cell.strip() for cell in line.split("|")[2:-1]]
        for line in fields_table(st.supervised(validate=None)).splitlines()[2:]
    }
    assert rows["epoch"] == ["from the start", "arrows", meanings(Context)["epoch"]]
    assert rows["pred"][:2] == ["from `pred` until `batch` closes", "`pred`"]
    assert rows["tally"][:2] == ["from `train` until `train` closes", "`train`, arrows"]
    assert rows["grad_norm"][:2] == ["with another option", ""]
    assert rows["stop"][2] == meanings(Position)["stop"]
    assert set(meanings(Context)) <= set(rows) <= {*meanings(Position), *meanings(Context)}
