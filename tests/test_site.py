"""The documentation as a site."""

import re
import subprocess
import sys
from pathlib import Path

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
