"""The examples as notebooks: made of the scripts, valid, and run in a kernel."""

from __future__ import annotations

import ast
import sys
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


def test_notebooks_run_and_end_with_the_run(tmp_path: Path) -> None:
    """The quick ones, with one epoch, one after the other in one kernel: no cell fails, and the last shows the run as a table and a picture."""
    client = nbclient.NotebookClient(
        nbformat.v4.new_notebook(), timeout=60, resources={"metadata": {"path": str(tmp_path)}}
    )
    with client.setup_kernel():
        for name in QUICK:
            client.nb = notebook_of(name)
            for index, cell in enumerate(client.nb.cells):
                cell.source = cell.source.replace(f"epochs = {default_of(name)}\n", "epochs = 1\n")
                client.execute_cell(cell, index)
            shown = client.nb.cells[-1].outputs[-1].data["text/html"]
            assert "<table" in shown, name
            assert "<svg" in shown, name
            assert list((tmp_path / "runs" / name).iterdir())


def default_of(name: str) -> int:
    """For how many epochs an example trains."""
    body = ast.parse(EXAMPLES[name].read_text(encoding="utf-8")).body
    (main,) = (node for node in body if getattr(node, "name", "") == "main")
    return int(ast.literal_eval(main.args.defaults[0]))
