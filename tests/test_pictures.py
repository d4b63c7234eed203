"""The pictures and tables that are kept are what the code draws today."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_pictures_and_tables_are_up_to_date(monkeypatch):
    """Every picture in diagrams/ and every table in docs/ is what the code says; `make diagrams` writes them."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "diagrams"), *sys.path])
    import draw

    assert draw.stale() == []
