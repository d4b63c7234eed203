"""What the pages promise is in them, and held by tests: `docs/promises.toml` has the sentences, each with its tests."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_documented import missing

ROOT = Path(__file__).parent.parent
PROMISES: dict[str, list[dict[str, Any]]] = tomllib.loads(
    (ROOT / "docs/promises.toml").read_text(encoding="utf-8")
)


def words_of(page: str) -> str:
    """A page's text, with one space between words wherever its lines end."""
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


@pytest.mark.parametrize("page", PROMISES)
def test_each_promise_is_in_its_page(page: str) -> None:
    """Word by word: whoever changes a promise looks at the tests that hold it."""
    words = words_of(page)
    gone = [one["says"] for one in PROMISES[page] if one["says"] not in words]
    assert gone == [], "these are no longer in the page; change them here, and see to their tests"
    assert [
        says for says, times in Counter(one["says"] for one in PROMISES[page]).items() if times > 1
    ] == []


@pytest.mark.parametrize("page", PROMISES)
def test_each_promise_is_held_by_a_test_that_is_run(page: str) -> None:
    """The tests are there, pytest collects them, and none is marked to be skipped."""
    for promise in PROMISES[page]:
        assert promise["tests"], f"nothing holds {promise['says']!r}"
        for test in promise["tests"]:
            path, _, name = test.partition("::")
            assert missing(path, name) == "", f"{test}, which holds {promise['says']!r}"


@pytest.mark.parametrize(
    "page", ["README.md", "docs/reliability.md", "docs/lifecycle.md", "docs/ranks.md"]
)
def test_the_pages_that_promise_most_are_listed(page: str) -> None:
    """Promises of these pages are what people rely on."""
    assert len(PROMISES[page]) >= 5
