"""What the gallery of the site shows of each example: its lifecycle and what it prints, in docs/gallery/.

python diagrams/gallery.py              # runs all of them in full (some minutes)
python diagrams/gallery.py digits gan   # these alone
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
LINES = 12  # of what is printed: the last ones


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


def printed(text: str) -> str:
    """What an example has printed; of much, the end."""
    lines = text.strip().splitlines()
    if len(lines) > LINES:
        lines = ["...", *lines[-LINES:]]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main(names: list[str]) -> None:
    """Writes what is shown of these examples; of all, if there are no names."""
    FOLDER.mkdir(exist_ok=True)
    for path in examples():
        if names and path.stem not in names:
            continue
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.chdir(folder),
            contextlib.redirect_stdout(io.StringIO()) as out,
        ):
            run, _ = load(path).main()
        (FOLDER / f"{path.stem}.svg").write_text(picture(run.lifecycle), encoding="utf-8")
        (FOLDER / f"{path.stem}.txt").write_text(printed(out.getvalue()), encoding="utf-8")
        print(path.stem, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
