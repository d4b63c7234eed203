"""What people install: the wheel and the source distribution, built from this checkout."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import statetrain

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel, which is built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    """The wheel."""
    (path,) = dist.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Styles, scripts and the marker for type checkers travel with the modules; tests and documents do not."""
    there = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "statetrain").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == there


def test_the_source_distribution_can_be_tested(dist: Path) -> None:
    """It holds the tests and everything that they read."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        top = {name.split("/")[1] for name in archive.getnames() if name.count("/")}
    assert {"tests", "docs", "examples", "benchmarks", "diagrams", "Makefile"} <= top


def test_the_description_leads_to_the_repository(wheel: zipfile.ZipFile) -> None:
    """On a package index no link of the README is relative, and the version is the package's own."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = message_from_bytes(wheel.read(name))
    assert metadata["Version"] == PROJECT["version"] == statetrain.__version__
    text = metadata.get_payload()
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(
        r'(?:src|srcset|href)="([^"]+)"', text
    )
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


def test_the_oldest_versions_are_the_lower_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make oldest` installs, and what the first page says has been tested."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import versions

    pins = dict(need.split("==") for need in versions.requirements("oldest"))
    needs = dict(need.split(">=") for need in PROJECT["dependencies"])
    assert {name: pins[name] for name in needs} == needs
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith("| the oldest"))
    (head,) = (line for line in page.splitlines() if line.startswith("| | torch"))
    said = dict(
        zip(
            *([cell.strip() for cell in line.split("|")[2:-1]] for line in (head, row)), strict=True
        )
    )
    assert {name: version.removesuffix(".0") for name, version in said.items()} == {
        name: version.removesuffix(".0") for name, version in needs.items()
    }


def test_the_repository_has_one_address() -> None:
    """It stands in `project.urls`; where other files have to repeat it, they repeat that one."""
    source = PROJECT["urls"]["Source"]
    owner = source.removeprefix("https://github.com/")
    for path in ("pyproject.toml", "CITATION.cff", "docs/conf.py", "README.md", "CONTRIBUTING.md"):
        text = (ROOT / path).read_text(encoding="utf-8")
        found = set(re.findall(r"github(?:usercontent)?\.com/([\w.-]+/statetrain)\b", text))
        assert found <= {owner}, path
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"repository-code: {source}\n" in cited
    assert f"version: {PROJECT['version']}\n" in cited
    assert {url for name, url in PROJECT["urls"].items() if "github" in url} == {
        source,
        f"{source}/issues",
        f"{source}/blob/main/CHANGELOG.md",
    }


def test_the_quick_start_runs_from_the_wheel(dist: Path, tmp_path: Path) -> None:
    """Installed into a folder of its own, away from this checkout, the package runs the README's first block."""
    (path,) = dist.glob("*.whl")
    site = tmp_path / "site"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([sys.executable, *install, str(path)], check=True, timeout=120)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    quick = readme[readme.index("```python\n") + 10 :].partition("```")[0]
    script = f"{quick}\nassert st.__file__.startswith({str(site)!r}), st.__file__\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Stopped(" in done.stdout or "Completed(" in done.stdout
