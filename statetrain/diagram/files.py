"""Pictures as files: drawn on demand, and kept next to the code that draws them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Unpack

from statetrain.diagram.as_dot import dot
from statetrain.diagram.as_mermaid import mermaid
from statetrain.diagram.as_svg import svg
from statetrain.diagram.showing import Shown
from statetrain.diagram.theme import ThemeName
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.validators import local_path

_WRITERS = {".svg": svg, ".mmd": mermaid, ".dot": dot}
_DRAWN_BY_GRAPHVIZ = (".png", ".pdf")
_DPI = 144  # of a .png: sharp on a page that is read at half its size


def draw(
    life: Lifecycle, path: str | Path, *, theme: ThemeName = "light", **options: Unpack[Shown]
) -> None:
    """Writes the picture of a lifecycle to a file.

    Args:
        life: the lifecycle.
        path: the file; its suffix says what is written. `.svg`, `.mmd` (Mermaid) and `.dot` need
            nothing else, `.png` and `.pdf` the program `dot` of Graphviz. `.html` is a page on
            which the picture folds and zooms and can be pointed at; it shows a `trace` too.
        theme: "light" or "dark".
        options: what is shown; see `Shown`.

    Raises:
        ConfigError: the suffix, the theme, the detail or a scope to fold is unknown, or Graphviz is
            missing or failed.
    """
    path = local_path("draw", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    if suffix in _WRITERS:
        path.write_text(
            _WRITERS[suffix](life, theme=theme, **options), encoding="utf-8", newline="\n"
        )
    elif suffix == ".html":
        from statetrain.live.page import draw_page

        draw_page(life, path, theme, options.get("trace"))
    elif suffix in _DRAWN_BY_GRAPHVIZ:
        _run_graphviz(dot(life, theme=theme, **options), path, suffix[1:])
    else:
        known = (*_WRITERS, ".html", *_DRAWN_BY_GRAPHVIZ)
        raise ConfigError(
            f"draw writes {', '.join(known)}, got {str(path)!r}; give the file one of these endings"
        )


def _run_graphviz(text: str, path: Path, kind: str) -> None:
    program = shutil.which("dot")
    if program is None:
        raise ConfigError(
            f"drawing {str(path)!r} needs the program 'dot' of Graphviz, which was not found;"
            " install it (apt-get install graphviz, brew install graphviz, conda install"
            " graphviz), or draw .svg, .mmd or .dot, which need nothing"
        )
    command = [program, f"-T{kind}", f"-Gdpi={_DPI if kind == 'png' else 72}", "-o", str(path)]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if done.returncode:
        raise ConfigError(
            f"Graphviz could not draw {str(path)!r}: {done.stderr.decode(errors='replace').strip()}"
        )


def pictures_of(name: str, life: Lifecycle) -> dict[str, str]:
    """The files that are kept of a lifecycle, with what is in them.

    Nothing in them depends on an installed program, so they can be compared byte for byte.

    Args:
        name: what the files' names begin with.
        life: the lifecycle.
    """
    return {
        f"{name}.mmd": mermaid(life),
        f"{name}.svg": svg(life),
        f"{name}-dark.svg": svg(life, theme="dark"),
        f"{name}-states.svg": svg(life, detail="states"),
        f"{name}-states-dark.svg": svg(life, theme="dark", detail="states"),
        f"{name}-outline.svg": svg(life, detail="outline"),
        f"{name}-outline-dark.svg": svg(life, theme="dark", detail="outline"),
    }


def write_pictures(lifecycles: Mapping[str, Lifecycle], folder: str | Path) -> list[Path]:
    """Writes the pictures of lifecycles into a folder, which is made if it is not there.

    Args:
        lifecycles: what the files' names begin with, and what is drawn.
        folder: where they go.

    Returns:
        The files written.
    """
    folder = local_path("write_pictures", folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _draw_all(lifecycles)
    for file, text in pictures.items():
        (folder / file).write_text(text, encoding="utf-8", newline="\n")
    return [folder / file for file in pictures]


def stale_pictures(lifecycles: Mapping[str, Lifecycle], folder: str | Path) -> list[str]:
    """What in a folder is not what `write_pictures` would write.

    Args:
        lifecycles: as for `write_pictures`.
        folder: where the pictures are.

    Returns:
        A line for each picture that is missing, differs, or belongs to no lifecycle; empty if all
        is well.
    """
    wanted = {file: text.encode() for file, text in _draw_all(lifecycles).items()}
    drawings = [path for path in Path(folder).glob("*") if path.suffix in (".mmd", ".svg")]
    there = {path.name: path.read_bytes() for path in drawings}
    both = [file for file in wanted if file in there]
    return [
        *(f"{file} is missing" for file in wanted if file not in there),
        *(f"{file} differs from what is drawn" for file in both if there[file] != wanted[file]),
        *(f"{file} belongs to no lifecycle" for file in sorted(there.keys() - wanted.keys())),
    ]


def _draw_all(lifecycles: Mapping[str, Lifecycle]) -> dict[str, str]:
    """The pictures of all lifecycles, by the names of their files."""
    pictures: dict[str, str] = {}
    for name, life in lifecycles.items():
        pictures |= pictures_of(name, life)
    return pictures
