"""The documentation as a site."""

import re
import subprocess
import sys
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

import statetrain

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built with each warning as an error."""
    folder = tmp_path_factory.mktemp("site")
    doctrees = tmp_path_factory.mktemp("doctrees")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "--builder", "html"]
    done = subprocess.run(
        [*command, "--doctree-dir", str(doctrees), str(ROOT / "docs"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_each_public_name_has_its_place_in_the_api(site: Path) -> None:
    """Every name that the package exports is described on one page of the API, with a docstring."""
    found: list[str] = []
    for page in (site / "api").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        found += re.findall(r"<h2>(\w+)<a", text)
    assert sorted(found) == sorted({*dir(statetrain)} - {"__version__"})


def test_nothing_is_fetched_to_read_the_site(site: Path) -> None:
    """Scripts, styles, fonts and pictures are files of the site itself."""
    fetched = set()
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched |= set(re.findall(r'<(?:script|img|source)[^>]+src="(https?://[^"]+)"', text))
        fetched |= set(re.findall(r'<link[^>]+rel="stylesheet"[^>]+href="(https?://[^"]+)"', text))
    assert not fetched


def test_the_examples_are_a_gallery(site: Path) -> None:
    """Each example has a card in the gallery, and a page that shows the whole script."""
    gallery = (site / "gallery.html").read_text(encoding="utf-8")
    for example in (ROOT / "examples").glob("*.py"):
        assert f'href="examples/{example.stem}.html"' in gallery
        assert (site / "examples" / f"{example.stem}.html").exists()


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def places(page: Path) -> frozenset[str]:
    """What a link to a page may name in it."""
    return frozenset(map(unescape, re.findall(r'\b(?:id|name)="([^"]+)"', text_of(page))))


def broken(page: Path, link: str) -> bool:
    """Whether a link within the site leads nowhere: to no file, or to a place that is not on it."""
    path, _, place = unquote(unescape(link)).partition("#")
    aim = (page.parent / path.partition("?")[0]).resolve() if path else page
    if not aim.is_file():
        return True
    return bool(place) and aim.suffix == ".html" and place not in places(aim)


def test_each_link_within_the_site_leads_somewhere(site: Path) -> None:
    """Pages, pictures, downloads, places on pages: all are there. (Links to other hosts are not followed.)"""
    pages = [page for page in site.rglob("*.html") if "_static" not in page.parts]
    wrong, seen = set(), 0
    for page in pages:
        for link in re.findall(r'\b(?:href|src|srcset)="([^"]*)"', text_of(page)):
            if not re.match(r"[a-z]+:|//|#?$", link):
                seen += 1
                if broken(page, link):
                    wrong.add(f"{page.relative_to(site)} links to {link}")
    assert sorted(wrong) == []
    assert seen > 10 * len(pages)


def test_the_interactive_pictures_are_embedded(site: Path) -> None:
    """The standard lifecycle and a run, each as a page of its own that is shown in a page."""
    for page, name in (("lifecycle", "lifecycle"), ("pictures", "run")):
        assert f'<iframe class="live" src="_static/live/{name}.html"' in text_of(
            site / f"{page}.html"
        )
        assert "<script" in text_of(site / "_static" / "live" / f"{name}.html")


def test_each_example_can_be_downloaded_as_a_notebook(site: Path) -> None:
    """And as the script that it is."""
    for example in (ROOT / "examples").glob("*.py"):
        found = re.findall(
            r'href="\.\./(_downloads/[^"]+)"', text_of(site / "examples" / f"{example.stem}.html")
        )
        kinds = [Path(path).name for path in found]
        wanted = (
            [example.name]
            if example.stem == "test_my_lifecycle"
            else [example.name, f"{example.stem}.ipynb"]
        )
        assert kinds == wanted
