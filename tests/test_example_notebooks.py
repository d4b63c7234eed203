"""The examples as notebooks: made of the scripts, valid, and run in a kernel."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import notebooks  # noqa: E402  # in docs/

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
EXAMPLES = {path.stem: path for path in notebooks.examples()}
# Those that a moment suffices for; the others are run as scripts by test_examples.py.
QUICK = [
    "autoencoder",
    "contrastive",
    "custom_step",
    "digits",
    "many_callbacks",
    "tabular",
    "vision",
]


def notebook_of(name: str) -> Any:
    """An example, as the library that defines the format reads it."""
    return nbformat.from_dict(notebooks.notebook_of(EXAMPLES[name]))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_notebook_is_valid_and_leaves_nothing_out(name: str) -> None:
    """Each statement of the script, and of its `main`, is in some cell, in a notebook that the format allows."""
    notebook = notebook_of(name)
    nbformat.validate(notebook)
    story, *cells = (cell.source for cell in notebook.cells)
    assert story.startswith("# ")
    body = ast.parse(EXAMPLES[name].read_text(encoding="utf-8")).body[1:]
    (main,) = (node for node in body if getattr(node, "name", "") == "main")
    wanted = [node for node in body if node is not main and not isinstance(node, ast.If)]
    wanted += main.body[ast.get_docstring(main) is not None : -1]
    there = [ast.unparse(node) for cell in cells[:-1] for node in ast.parse(cell).body]
    arguments = {argument.arg for argument in main.args.args}
    assert [ast.unparse(node) for node in wanted] == [
        text for text in there if text.partition(" = ")[0] not in arguments
    ]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A kernel in an empty folder, which runs the cells of one notebook after the other."""
    folder = tmp_path_factory.mktemp("notebooks")
    client = nbclient.NotebookClient(
        nbformat.v4.new_notebook(), timeout=60, resources={"metadata": {"path": str(folder)}}
    )
    with client.setup_kernel():
        yield client


def run_cells(kernel: Any, notebook: Any) -> list[Any]:
    """The outputs of each cell."""
    kernel.nb = notebook
    return [
        kernel.execute_cell(cell, index).get("outputs", [])
        for index, cell in enumerate(notebook.cells)
    ]


def default_of(name: str) -> int:
    """For how many epochs an example trains."""
    body = ast.parse(EXAMPLES[name].read_text(encoding="utf-8")).body
    (main,) = (node for node in body if getattr(node, "name", "") == "main")
    return int(ast.literal_eval(main.args.defaults[0]))


@pytest.mark.parametrize("name", QUICK)
def test_a_notebook_runs_and_ends_with_the_run(name: str, kernel: Any) -> None:
    """With one epoch: no cell fails, files are written, and the last cell shows the run as a table and a picture."""
    notebook = notebook_of(name)
    for cell in notebook.cells:
        cell.source = cell.source.replace(f"epochs = {default_of(name)}\n", "epochs = 1\n")
    (last,) = run_cells(kernel, notebook)[-1]
    assert "<table" in last.data["text/html"]
    assert "<svg" in last.data["text/html"]
    assert list((Path(kernel.resources["metadata"]["path"]) / "runs" / name).iterdir())


# What a person looks at, and the beginning of what a notebook shows of it.
SHOWN = {
    "life": "<div",
    "run": "<p><b",
    "run.outcome": "<p><b",
    "run.history": "<div",
    "run.trace": "<div",
    "run.why()": "<pre",
    "run.machine": "<div",
    "run.machine.explain('enter step')": "<pre",
    "run.trace.diff(other.trace)": "<pre",
    "profile": "<p>",
    "found": "<p>",
    "run.plot()": "",  # a picture in PNG
}
SETUP = """
import torch, statetrain as st
from torch.nn import functional as F

x = torch.randn(64, 4)
y = (x[:, 0] > 0).long()
life, profile = st.supervised(stop=st.EarlyStopping("valid_loss", 2)), st.Profile()

def train(*callbacks):
    return st.fit(
        torch.nn.Linear(4, 2), (x, y), valid=0.25, loss=F.cross_entropy, optimizer=torch.optim.SGD, opt_hparams={"lr": 0.1},
        epochs=3, trace=True, callbacks=callbacks,
    )
"""
TRAINED = "run, other = train(st.Progress(), profile), train()"
FOUND = "found = st.lr_find(torch.nn.Linear(4, 2), (x, y), loss=F.cross_entropy, optimizer=torch.optim.SGD)"


def test_a_real_notebook_shows_each_value(kernel: Any) -> None:
    """Lifecycle, run, history, answers and pictures have their displays; progress is one display, with no line printed."""
    sources = [SETUP, TRAINED, FOUND, *SHOWN]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    outputs = run_cells(kernel, nbformat.v4.new_notebook(cells=cells))
    (progress,) = outputs[1]
    assert "fit completed" in progress.data["text/html"]
    for (source, beginning), (shown,) in zip(SHOWN.items(), outputs[3:], strict=True):
        kind = "text/html" if beginning else "image/png"
        assert shown.data[kind].startswith(beginning), source
