"""The tests that the documentation names are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMED = sorted(set(re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs/reliability.md").read_text())))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=lambda value: value or "all")
def test_what_is_said_to_hold_a_promise_exists(path: str, name: str) -> None:
    """The file, and in it a test of that name."""
    assert (ROOT / path).is_file()
    assert not name or f"def {name}(" in (ROOT / path).read_text()
