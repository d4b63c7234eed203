"""What a notebook shows: tables and pictures of values, and progress in one display that is updated."""

import builtins
import html
import re
import sys
import types
import xml.etree.ElementTree as ET

import pytest
import torch
from torch.nn import functional as F

import statetrain as st
from statetrain.context.history import History
from statetrain.logs.cell import CellBars, in_notebook
from statetrain.notebook import table


def train(**options):
    torch.manual_seed(0)
    chosen = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 3,
        "verbose": False,
    }
    data = (torch.randn(16, 4), torch.randint(0, 2, (16,)))
    return st.fit(torch.nn.Linear(4, 2), data, **{**chosen, **options})


def cells(text: str) -> list[list[str]]:
    """The rows of a table."""
    found = ET.fromstring(text[text.index("<table") : text.index("</table>") + 8])
    return [["".join(cell.itertext()) for cell in row] for row in found.iter("tr")]


def test_a_history_is_a_table():
    """A column for each name, a row for each row; of many, the middle is left out."""
    run = train()
    found = cells(run.history._repr_html_())
    assert found[0] == list(run.history.columns)
    assert [row[0] for row in found[1:]] == ["1", "2", "3"]
    long = cells(table(["n"], [[str(i)] for i in range(1000)]))
    assert [row[0] for row in long[1:6]] == ["0", "1", "2", "3", "4"]
    assert long[6] == ["970 rows more"]
    assert long[-1] == ["999"]


def test_a_run_shows_how_it_ended_its_rows_and_its_outline():
    """In this order, and nothing else."""
    run = train(stop=st.MaxSteps(2))
    shown = run._repr_html_()
    assert run.outcome.reason in html.unescape(shown)
    assert shown.index("<table") < shown.index("<svg")
    assert run.svg(detail="outline").split("\n", 1)[1] in shown


def test_answers_show_themselves_as_they_are_printed():
    """Why, explain, what conforms, what differs: laid out as in a terminal, with nothing of them marked up."""
    run = train(trace=True)
    other = train(trace=True, epochs=2)
    for value in (
        run.why(),
        run.machine.explain("exit step"),
        run.trace.conforms(run.lifecycle),
        run.trace.diff(other.trace),
    ):
        shown = value._repr_html_()
        assert shown.startswith("<pre")
        assert html.unescape(shown[shown.index(">") + 1 : -len("</pre>")]) == str(value)


def test_a_profile_is_a_table():
    """As `table` has it, with the sums in a line above."""
    profile = st.Profile()
    train(callbacks=[profile])
    assert len(cells(profile._repr_html_())) == len(profile.table()) + 1
    assert "waiting for data" in profile._repr_html_()


def test_the_longest_rows_of_a_profile_are_the_ones_that_are_shown():
    """They come first; of more than twenty, the end is left out, and a table can say so of any part."""
    shown = cells(table(["n"], [[str(i)] for i in range(30)], first=20, last=0))
    assert [row[0] for row in shown[1:]] == [*map(str, range(20)), "10 rows more"]


def test_how_a_run_ended_reads_as_a_sentence():
    """The kind in bold, then what there is to say, without Python's quotes."""
    shown = st.Stopped(3, "valid_loss has not improved")._repr_html_()
    assert "<b" in shown
    assert ">stopped</b>" in shown
    assert ">valid_loss has not improved, epoch 3</span>" in shown
    failed = html.unescape(st.Failed(2, "step", OSError("no disk"))._repr_html_())
    assert ">step, OSError('no disk'), epoch 2</span>" in failed


def test_saved_and_simulated_runs_show_what_they_hold(tmp_path):
    """A run from a file has its outcome and its rows; a dry run its events."""
    st.save(train(), tmp_path / "run.safetensors")
    shown = st.load(tmp_path / "run.safetensors")._repr_html_()
    assert shown.index("completed") < shown.index("<table")
    dry = st.testing.simulate(st.supervised(), epochs=1)
    assert html.escape(str(dry)) in dry._repr_html_()


def test_nothing_in_a_value_means_anything():
    """Names from outside stay text."""
    shown = table(["<b>"], [["<script>", "\x1b[31m"]], "</p>")
    for sign in ("<script>", "<b>", "\x1b", "<p></p>"):
        assert sign not in shown


def test_a_long_history_is_printed_without_its_middle():
    """`print(run)` shows so many rows, and how many there are more."""
    history = History([{"epoch": i, "train_loss": 1.0 / i} for i in range(1, 1001)])
    lines = history.text(60).splitlines()
    assert len(lines) == 62
    assert lines[21] == "[940 rows more]"
    assert lines[20].split()[0] == "20"
    assert lines[22].split()[0] == "961"
    assert str(history).count("\n") == 1000
    assert history.text(1000) == str(history)


def test_plots_show_themselves_and_are_thinned():
    """A figure has its picture, and no more points than can be told apart."""
    pytest.importorskip("matplotlib")
    run = train()
    assert run.plot()._repr_png_().startswith(b"\x89PNG")
    history = History([{"epoch": i, "train_loss": float(i % 7)} for i in range(1, 20_001)])
    from statetrain.report.plotting import plot

    [panel] = plot(history).axes
    assert len(panel.lines[0].get_xdata()) < 1000


# ---------------------------------------------------------------- progress


class Handle:
    """What IPython gives of a display that can be updated."""

    def __init__(self, shown):
        self.shown = [shown]

    def update(self, data, *, raw):
        assert raw
        self.shown.append(data)


@pytest.fixture
def notebook(monkeypatch):
    """As much of a notebook as is asked for: its shell, and its displays."""
    displays: list[Handle] = []

    class ZMQInteractiveShell:
        """What IPython calls itself in a notebook."""

    def display(data, *, raw, display_id):
        assert raw
        assert display_id
        displays.append(Handle(data))
        return displays[-1]

    package, module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    package.__spec__ = types.SimpleNamespace(name="IPython")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    return displays


def test_progress_is_one_display_that_is_updated(notebook, capsys):
    """Bars while it runs, lines at the end, and nothing printed into the cell."""
    assert in_notebook()
    train(verbose=True, callbacks=[st.Progress()])
    assert capsys.readouterr().out == ""
    [display] = notebook
    assert any("<progress" in shown["text/html"] for shown in display.shown)
    last = display.shown[-1]
    assert "<progress" not in last["text/html"]
    lines = last["text/plain"].splitlines()
    assert [line.split("  ")[0] for line in lines[:3]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert lines[-1].startswith("fit completed")


def test_curves_grow_below_the_lines(notebook):
    """With `plot=True`, each row adds a point to the curve of its column; without, there is no picture."""
    train(verbose=True, callbacks=[st.Progress(plot=True)], clock=lambda: 0.0)
    [display] = notebook
    pages = [shown["text/html"] for shown in display.shown]
    points = [page.count('<circle class="c0"') for page in pages]
    assert points == sorted(points)
    assert {0, 1, 2, 3} <= set(points)
    assert pages[-1].count("<svg") == pages[-1].count("<polyline") == 1
    assert "loss" in pages[-1]
    assert "--ink: currentColor" in pages[-1]
    assert "<svg" not in display.shown[-1]["text/plain"]

    train(verbose=True, callbacks=[st.Progress()])
    assert not any("<svg" in shown["text/html"] for shown in notebook[1].shown)


def test_charts_are_over_what_grows():
    """Epochs, or where rows share one their steps, or where nothing is counted the rows themselves."""
    from statetrain.report.history_charts import charts

    def axis(*rows):
        return re.findall(r'class="tick end" x="[^"]*" y="207.0">([^<]*)<', charts(rows))

    assert axis({"epoch": 1, "step": 3, "a": 1.0}, {"epoch": 2, "step": 6, "a": 2.0}) == ["epoch"]
    assert axis({"epoch": 1, "step": 3, "a": 1.0}, {"epoch": 1, "step": 6, "a": 2.0}) == ["step"]
    assert axis({"seconds": 1.0, "a": 1.0}, {"seconds": 2.0, "a": 2.0}) == ["row"]
    assert charts([]) == charts([{"epoch": 1, "step": 2}]) == ""


def test_a_long_run_does_not_flood_the_cell(notebook):
    """Of many lines, the middle is left out."""
    bars = CellBars()
    for i in range(500):
        bars.line(f"epoch {i}")
    lines = notebook[0].shown[-1]["text/plain"].splitlines()
    assert len(lines) == 21
    assert lines[4] == "[480 lines more]"
    assert lines[-1] == "epoch 499"
