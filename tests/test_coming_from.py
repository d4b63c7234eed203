"""The pages for people who know another library: everything that it offers has a row, and every row tests that are there.

What the libraries offer is listed in `tests/offered/`, one file each: names, under headings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

from statetrain.callback import ALIASES

ROOT = Path(__file__).parent.parent
OFFERED = {path.stem: path for path in sorted((ROOT / "tests/offered").glob("*.txt"))}
SURPRISES = "What was wrong and is not any more"  # numbered rows about behaviour, not about names
# Rows of two cells: what, and what to do instead; they name no test
WITHOUT = "Without counterpart"
FIRST = {"luz", "FluxTraining", "kauldron", "---"}  # of the rows that head a table


@frozen
class Row:
    section: str
    theirs: str
    here: str
    tests: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """What of the other library it is about."""
        return re.findall(r"`([^`]+)`", self.theirs)


def rows(library: str) -> Iterator[Row]:
    section = ""
    for line in (ROOT / f"docs/coming-from-{library}.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not line.startswith("|") or cells[0] in FIRST:
            continue
        assert len(cells) == (2 if section == WITHOUT else 4), (
            f"a row of {section!r} has {len(cells)} cells: {line}"
        )
        yield Row(
            section,
            cells[0],
            cells[1],
            tuple(re.findall(r"`([^`]+)`", cells[3])) if section != WITHOUT else (),
        )


def headings() -> list[tuple[str, str, list[str]]]:
    found = []
    for library, path in OFFERED.items():
        for part in path.read_text(encoding="utf-8").removeprefix("# ").split("\n# "):
            heading, _, names = part.partition("\n")
            found.append((library, heading, names.split()))
    return found


def about(library: str) -> list[str]:
    """The names in the first columns of a page's tables."""
    return [name for row in rows(library) if row.section != SURPRISES for name in row.names]


@pytest.mark.parametrize(
    ("library", "heading", "names"),
    headings(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_everything_that_is_offered_has_a_row(library: str, heading: str, names: list[str]) -> None:
    """Each function, class, field, option and event is named in the first column of one table."""
    named = about(library)
    assert [name for name in names if name not in named] == []


@pytest.mark.parametrize("library", OFFERED)
def test_every_row_is_about_something_that_is_offered(library: str) -> None:
    """No name in the first column is misspelt, or named twice."""
    named = about(library)
    assert set(named) <= {
        name for other, _, names in headings() if other == library for name in names
    }
    assert sorted(named) == sorted(set(named))


@pytest.mark.parametrize("library", OFFERED)
def test_every_row_names_a_test(library: str) -> None:
    """What is said to have a counterpart is shown by a test; that the tests are run is what test_documented.py sees to."""
    assert [row.theirs for row in rows(library) if not row.tests and row.section != WITHOUT] == []


@pytest.mark.parametrize(
    ("library", "count"), [("luz", 20), ("fluxtraining", 20), ("kauldron", 19)]
)
def test_every_surprise_has_a_row(library: str, count: int) -> None:
    """The other library's surprises are numbered, and each row says what is so here."""
    assert [
        int(row.theirs.partition(".")[0]) for row in rows(library) if row.section == SURPRISES
    ] == list(range(1, count + 1))


def test_the_breakpoints_are_the_aliases() -> None:
    """The table of luz's breakpoints says what the code says: each alias, and the hook that it stands for."""
    table = {
        name: row.here.strip("`")
        for row in rows("luz")
        if row.section == "Breakpoints"
        for name in row.names
    }
    assert {name: hook for name, hook in table.items() if name in ALIASES} == ALIASES
    assert set(table) - set(ALIASES) == {"on_early_stopping", "on_interrupt"}
