"""An example as a notebook: its story, its parts, and the body of `main` as cells that can be changed.

python docs/notebooks.py FOLDER    # writes all of them; `make notebooks` does it
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

EXAMPLES = Path(__file__).parent.parent / "examples"
Cell = dict[str, Any]


def examples() -> list[Path]:
    """The scripts with a `main` that returns a run."""
    scripts = sorted(EXAMPLES.glob("*.py"))
    return [path for path in scripts if "\ndef main(" in path.read_text(encoding="utf-8")]


def notebook_of(example: Path) -> dict[str, Any]:
    """An example in the format of notebooks, without outputs."""
    source = example.read_text(encoding="utf-8")
    cells = [markdown(story(source)), *map(code, parts(source))]
    for number, cell in enumerate(cells):
        cell["id"] = f"{example.stem}-{number}".replace("_", "-")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells}


def markdown(text: str) -> Cell:
    """A cell of text."""
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def code(text: str) -> Cell:
    """A cell that has not been run."""
    empty: list[Any] = []
    return {
        "cell_type": "code",
        "metadata": {},
        "source": text,
        "outputs": empty,
        "execution_count": None,
    }


def story(source: str) -> str:
    """The docstring of a script; the first line is the heading."""
    title, _, rest = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    rest = re.sub(r"(?m)^    (python|torchrun) .*\n", "", rest)
    return f"# {title.rstrip('.:')}\n\n{rest.strip()}"


def parts(source: str) -> Iterator[str]:
    """The cells of a script: imports and definitions, the arguments of `main`, its body, the run."""
    body = ast.parse(source).body[1:]
    lines = source.splitlines()
    (main,) = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == "main")
    for group in together(lines, body, body_starts_after=docstring_end(source)):
        if main not in group[1] and not isinstance(group[1][0], ast.If):
            yield group[0]
    names = [argument.arg for argument in main.args.args]
    values = [ast.get_source_segment(source, value) for value in main.args.defaults]
    yield "\n".join(f"{name} = {value}" for name, value in zip(names, values, strict=True))
    yield from body_of(lines, main)


def body_of(lines: Sequence[str], main: ast.FunctionDef) -> Iterator[str]:
    """The paragraphs of a function; what it returns first is shown at the end."""
    statements = main.body
    start = main.body[0].lineno - 1
    if ast.get_docstring(main) is not None:
        start = main.body[0].end_lineno or start
        statements = statements[1:]
    *before, last = statements
    assert isinstance(last, ast.Return)
    for text, _ in together(lines, before, body_starts_after=start):
        yield text
    value = last.value
    yield ast.unparse(value.elts[0] if isinstance(value, ast.Tuple) else value)  # type: ignore[arg-type]


def docstring_end(source: str) -> int:
    """The last line of a script's docstring."""
    return ast.parse(source).body[0].end_lineno or 0


def together(
    lines: Sequence[str], statements: Sequence[ast.stmt], body_starts_after: int
) -> Iterator[tuple[str, list[ast.stmt]]]:
    """Statements with the comments before them; those that no blank line divides are one text, and so are imports."""
    group: list[ast.stmt] = []
    start = end = body_starts_after
    for node in statements:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        divided = "" in (line.strip() for line in lines[end : first - 1])
        imports = isinstance(node, ast.Import | ast.ImportFrom)
        if (
            group
            and divided
            and not (imports and isinstance(group[-1], ast.Import | ast.ImportFrom))
        ):
            yield text_of(lines[start:end]), group
            group, start = [], end
        group.append(node)
        end = node.end_lineno or end
    if group:
        yield text_of(lines[start:end]), group


def text_of(lines: Sequence[str]) -> str:
    """Lines without what they all begin with."""
    return dedent("\n".join(lines)).strip()


def write(folder: Path) -> None:
    """Writes a notebook for each example."""
    folder.mkdir(parents=True, exist_ok=True)
    for example in examples():
        text = json.dumps(notebook_of(example), indent=1, ensure_ascii=False) + "\n"
        (folder / f"{example.stem}.ipynb").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
