"""The page: one file with its pictures, its script and its data, which loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from attrs import evolve

from statetrain import jsons
from statetrain.diagram.theme import THEMES, Theme, theme_of
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.live.chronicle import Chronicle
from statetrain.live.table import table_of
from statetrain.trace.value import Trace

_SCRIPTS = ("layout.js", "run.js", "drawing.js", "charts.js", "live.js")


def draw_page(life: Lifecycle, path: Path, theme: str, trace: Trace | None = None) -> None:
    """Writes the page of a lifecycle.

    Args:
        life: the lifecycle.
        path: the file; one that is there is replaced.
        theme: "dark" keeps the page dark; "light" follows the reader's system.
        trace: of a run of it; None shows the lifecycle alone.
    """
    theme_of(theme)
    if trace is None:
        data = data_of([table_of(life)], life.name)
    else:
        chronicle = Chronicle.of(evolve(trace, lifecycle=life), trace.header.get("notes"))
        data = data_of_runs([chronicle], [life.name])
    path.write_text(page(data, theme=theme), encoding="utf-8", newline="\n")


def data_of_runs(
    chronicles: Sequence[Chronicle], names: Sequence[str], title: str = ""
) -> dict[str, Any]:
    """What the page shows of one run, or of two.

    Args:
        chronicles: of the runs.
        names: what they are called.
        title: of the page; empty for their names.
    """
    tables = [chronicle.table for chronicle in chronicles]
    data = data_of(tables, title or " and ".join(names), names)
    data["runs"] = [chronicle.record() for chronicle in chronicles]
    return data


def data_of(
    tables: Sequence[dict[str, Any]], title: str, names: Sequence[str] = ()
) -> dict[str, Any]:
    """What the page shows of tables alone."""
    return {
        "title": title,
        "names": list(names),
        "tables": list(tables),
        "runs": [],
        "source": "",
        "control": "",
    }


def page(data: dict[str, Any], *, connects: bool = False, theme: str = "light") -> str:
    """The page as text.

    Args:
        data: from `data_of` or `data_of_runs`.
        connects: whether it asks the server that it comes from for news.
        theme: "dark" keeps it dark; "light" follows the reader's system.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"{policy(connects=connects)}\n<title>{html.escape(str(data['title']))}</title>\n"
        f'<style>\n{style()}</style>\n</head>\n<body class="page">\n{block(data, theme)}\n'
        f"<script>{script()}</script>\n</body>\n</html>\n"
    )


def block(data: dict[str, Any], theme: str = "light") -> str:
    """The part of a page in which the picture lives, with its data."""
    # No text can end the element early, nor begin a comment
    text = jsons.dumps(data).replace("<", "\\u003c")
    look = ""
    if theme == "dark":
        look = ' data-theme="dark"'
    return f'<div class="live"{look}><script type="application/json">{text}</script></div>'


def policy(*, connects: bool = False) -> str:
    """What the page may do: run its own script and nothing else, and load nothing."""
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    rules = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        f"{'; connect-src ' + repr('self') if connects else ''}"
    )
    return f'<meta http-equiv="Content-Security-Policy" content="{rules}">'


def script() -> str:
    """The page's script."""
    parts = [_asset(name).replace('"use strict";\n', "") for name in _SCRIPTS]
    return '"use strict";\n{\n' + "\n".join(parts) + "}\n"


def style() -> str:
    """The page's style, with the colours of the pictures."""
    colours = "".join(_colours(name[0], theme) for name, theme in THEMES.items())
    return f":root {{ {colours}}}\n{_asset('live.css')}"


def _colours(prefix: str, theme: Theme) -> str:
    names = "paper ink soft anchor border good good_fill bad bad_fill recent heat"
    found = {name.replace("_", "-"): getattr(theme, name) for name in names.split()}
    found |= {kind: theme.arrows[kind] for kind in ("hot", "main", "plain", "event")}
    found |= {f"scope{depth}": theme.scope(depth) for depth in range(4)}
    return "".join(f"--{prefix}-{name}: {colour}; " for name, colour in found.items())


def _asset(name: str) -> str:
    return (files("statetrain.live") / name).read_text(encoding="utf-8")
