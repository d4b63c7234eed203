"""How the site is built: `make site` writes it to build/site.

The pages link to files outside of this folder (`../examples/digits.py`, `../diagrams/gan.svg`), so that they can be read in a
checkout as they are. On the site an example is a page of its own, a picture is copied, and other files are linked to.
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import sys
import tomllib
from pathlib import Path
from textwrap import dedent
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import live_pictures  # noqa: E402  # in this folder, as the next one is
import notebooks  # noqa: E402

import statetrain  # noqa: E402  # from this checkout

project = "statetrain"
author = "The statetrain developers"
copyright = "The statetrain developers, MIT licence"  # noqa: A001  # the name that Sphinx reads
version = release = statetrain.__version__
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
repository = PROJECT["urls"]["Source"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
default_role = "code"  # docstrings mark names with single backticks
suppress_warnings = ["misc.highlighting_failure"]  # excerpts of output are shown as code

autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "show-inheritance": False,
    "exclude-members": "set_score_request",  # scikit-learn's own, put into each estimator
}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False
python_maximum_signature_line_length = 88

html_theme = "pydata_sphinx_theme"
html_title = "statetrain"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_sidebars = {"index": [], "tutorial": [], "gallery": [], "examples/*": []}
html_theme_options = {
    "github_url": repository,
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}

API = tomllib.loads((ROOT / "docs" / "api.toml").read_text(encoding="utf-8"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# Written when the site is built, and ignored by git.
EXAMPLE_PAGES = ROOT / "docs" / "examples"
API_PAGES = ROOT / "docs" / "api"
_SECTIONS = ("Args:", "Attributes:", "Returns:", "Yields:", "Raises:")
_COMMANDS = re.compile(r"(?m)(?:^    (?:python|torchrun) .*\n)+")
_OUTSIDE = re.compile(r"(\]\(|(?:src|srcset|href)=\")((?:\.\./)+)([^)\"\s]+)")


def setup(app: Sphinx) -> None:
    """Called by Sphinx before the pages are read."""
    write_pages(API_PAGES, {page: api_page(**about) for page, about in API.items()}, api_index())
    write_pages(EXAMPLE_PAGES, {path.stem: page_of(path) for path in EXAMPLES}, "# Scripts")
    notebooks.write(EXAMPLE_PAGES)
    live_pictures.write()
    app.connect("source-read", redirect_links)
    app.connect("autodoc-process-docstring", mark_code, priority=100)  # before Google's sections


def mark_code(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Marks indented blocks of a docstring as code, as readers of the source take them."""
    marked: list[str] = []
    section = block = False
    for line in lines:
        if line and not line.startswith(" "):
            section, block = line in _SECTIONS, False
        elif line.startswith("    ") and not section and not block and marked and not marked[-1]:
            block = True
            marked += [".. code-block:: python", ""]
        marked.append(line)
    lines[:] = marked


def write_pages(folder: Path, pages: dict[str, str], title: str) -> None:
    """Writes pages of Markdown into a folder of their own, and an index that leads to them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    pages = {
        **pages,
        "index": "\n".join([title, "", "```{toctree}", ":hidden:", "", *pages, "```", ""]),
    }
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def api_page(title: str, about: str, names: list[str]) -> str:
    """A page of the API: each name with its signature and its docstring."""
    parts = [f"# {title}\n\n{about}\n"]
    for name in names:
        value = getattr(statetrain, name)
        where = f"statetrain.{name}"
        if inspect.ismodule(value):
            kind, where = "automodule", value.__name__
        elif inspect.isclass(value):
            kind = "autoclass"
        elif inspect.isfunction(value):
            kind = "autofunction"
        else:
            kind = "autodata"
        imported = "   :imported-members:\n" if name == "testing" else ""
        parts.append(f"## {name}\n\n```{{eval-rst}}\n.. {kind}:: {where}\n{imported}```\n")
    return "\n".join(parts)


def api_index() -> str:
    """The table of all public names."""
    rows = []
    for page, part in API.items():
        links = ", ".join(f"[`{name}`]({page}.md#{name.lower()})" for name in part["names"])
        rows.append(f"| [{part['title']}]({page}.md) | {links} |")
    about = "Every public name, as `st.<name>` after `import statetrain as st`."
    return "\n".join(["# API", "", about, "", "| page | names |", "| --- | --- |", *rows])


def redirect_links(app: Sphinx, page: str, source: list[str]) -> None:
    """Redirects links that leave docs/, and fills in the gallery and the interactive pictures."""
    depth = page.count("/")
    source[0] = live_pictures.embed(source[0])
    if page == "gallery":
        source[0] += "\n".join(["", "::::{grid} 1 2 3 3", "", *map(card, EXAMPLES), "::::", ""])

    def redirect(match: re.Match[str]) -> str:
        opening, up, target = match.groups()
        if up.count("../") <= depth or target.endswith(".svg"):
            return match[0]
        if target.startswith("examples/") and target.endswith(".py"):
            return f"{opening}{'../' * depth}{target.removesuffix('.py')}.md"
        return f"{opening}{repository}/blob/main/{target}"

    source[0] = _OUTSIDE.sub(redirect, source[0])


def story(example: Path) -> tuple[str, str]:
    """The title of an example, and what its docstring says after that."""
    text = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))) or ""
    title, _, rest = text.partition("\n")
    return title.rstrip(".:"), rest.strip("\n")


def picture_of(example: Path) -> str:
    """The picture of the lifecycle that an example walks, from docs/ on."""
    own = ROOT / "docs" / "gallery" / f"{example.stem}.svg"
    return f"gallery/{own.name}" if own.exists() else "../diagrams/supervised-outline.svg"


def card(example: Path) -> str:
    """An example in the gallery: its picture, and what it is about."""
    title, _ = story(example)
    name, _, about = title.partition(": ")
    lines = [
        f":::{{grid-item-card}} {name}",
        f":link: examples/{example.stem}",
        ":link-type: doc",
        f":img-top: {picture_of(example)}",
        about or name,
        ":::",
        "",
    ]
    return "\n".join(lines)


def page_of(example: Path) -> str:
    """An example as a page: its story, what it prints, the picture of its lifecycle, the script."""
    title, rest = story(example)
    rest = _COMMANDS.sub(lambda match: f"```sh\n{dedent(match[0])}```\n", rest)
    source = example.read_text(encoding="utf-8")
    code = source[source.index('"""', 3) + 3 :].strip()
    picture = f"![the lifecycle that it walks](../{picture_of(example)})"
    script = f"```python\n{code}\n```\n"
    parts = [f"# {title}", rest, downloads(example), result_of(example), picture, script]
    return "\n\n".join(filter(None, parts))


def result_of(example: Path) -> str:
    """What an example prints at its end, as `make gallery` has kept it."""
    kept = ROOT / "docs" / "gallery" / f"{example.stem}.txt"
    if not kept.exists():
        return ""
    return f"It prints:\n\n```text\n{kept.read_text(encoding='utf-8').rstrip()}\n```"


def downloads(example: Path) -> str:
    """Where the script can be had, and as a notebook."""
    script = f"{{download}}`the script <../../examples/{example.name}>`"
    if example not in notebooks.examples():
        return f"Download {script}."
    return f"Download {script}, or {{download}}`a notebook <{example.stem}.ipynb>` of it."
