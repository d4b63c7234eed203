"""Draws the lifecycle of each example for the gallery of the site: docs/gallery/<example>.svg.

python diagrams/gallery.py         # runs each example for a moment (a minute in all)
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import statetrain as st

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "gallery"


def load(path: Path) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def examples() -> list[Path]:
    """The scripts with a `main` that returns a run."""
    return [
        path
        for path in sorted((ROOT / "examples").glob("*.py"))
        if "\ndef main(" in path.read_text(encoding="utf-8")
    ]


def picture(life: st.Lifecycle) -> str:
    """A lifecycle as the gallery shows it: the states and the ways between them."""
    return life.svg(detail="outline")


def main() -> None:
    """Writes all pictures."""
    FOLDER.mkdir(exist_ok=True)
    for path in examples():
        with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
            run, _ = load(path).main(1, Path(out))
        (FOLDER / f"{path.stem}.svg").write_text(picture(run.lifecycle), encoding="utf-8")
        print(path.stem)


if __name__ == "__main__":
    main()
