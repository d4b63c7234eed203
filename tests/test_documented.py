"""The tests that the documentation names are there, and are run."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import statetrain

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = {
    page.name: sorted(
        set(
            re.findall(
                r"`((?:tests|benchmarks)/[\w/]+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8")
            )
        )
    )
    for page in PAGES
}


@cache
def collected_from(path: str) -> dict[str, ast.FunctionDef]:
    """The tests that pytest collects from a file, by name."""
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    body += [
        part
        for node in body
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test")
        for part in node.body
    ]
    return {
        node.name: node
        for node in body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def missing(path: str, name: str) -> str:
    """What is wrong with a test that a page names, or nothing."""
    if not (ROOT / path).is_file():
        return "there is no such file"
    if not name:
        return ""
    if path.startswith("benchmarks/"):
        return (
            ""
            if f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")
            else "there is no such function"
        )
    if name not in collected_from(path):
        return "there is no such test"
    marks = [ast.unparse(mark) for mark in collected_from(path)[name].decorator_list]
    return (
        "it is not run"
        if any("mark.skip" in mark or "mark.xfail" in mark for mark in marks)
        else ""
    )


@pytest.mark.parametrize("page", [page for page, named in NAMED.items() if named])
def test_what_is_said_to_hold_a_promise_is_run(page: str) -> None:
    """Each file is there, pytest would collect the test, and nothing marks it as one to be skipped."""
    assert {
        f"{path}::{name}": wrong for path, name in NAMED[page] if (wrong := missing(path, name))
    } == {}


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_a_page_begins_with_what_it_is_for(page: Path) -> None:
    """After its title stands a paragraph, before any code, table or picture."""
    title, first = re.split(r"\n\n+", page.read_text(encoding="utf-8"), maxsplit=2)[:2]
    assert title.startswith("# ")
    assert re.match(r"[\w*`\[]", first), first
    assert len(first) > 80, first


GUIDES = [page for page in PAGES if not page.name.startswith("coming-from-")]


def test_every_public_name_is_in_a_guide() -> None:
    """The README and the pages mention each name that the package exports."""
    words = set(re.findall(r"\w+", " ".join(page.read_text(encoding="utf-8") for page in GUIDES)))
    assert set(statetrain.__all__) - words == {"__version__"}
