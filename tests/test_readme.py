"""What the README and the documentation show is run."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> str:
    """The Python blocks of a page, each at its own line, so that an error points into the page."""
    lines = page.read_text().splitlines()
    out, inside = [], False
    for line in lines:
        if line.startswith("```"):
            inside = line.strip() == "```python"
            out.append("")
        else:
            out.append(line if inside else "")
    return "\n".join(out)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_code_on_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All Python blocks of a page run as pasted, one after the other, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(blocks(page), str(page), "exec"), {"__name__": "__page__"})


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_links_on_a_page_lead_somewhere(page: Path) -> None:
    """Every relative link and picture of a page is there, and so is the heading that a link names."""
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(
        r'(?:src|srcset|href)="([^"]+)"', text
    ):
        if "://" not in target:
            path, _, heading = target.partition("#")
            aim = page.parent / path if path else page
            assert aim.exists(), f"{page.name} links to {target}"
            assert not heading or heading in anchors(aim), f"{page.name} links to {target}"
