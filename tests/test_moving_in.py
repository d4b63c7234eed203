"""The scripts on the pages for people who come from another trainer: before and after."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
# The module that a page's first script needs, and whether both end with the same weights.
LIBRARIES = {
    "lightning": ("lightning", True),
    "ignite": ("ignite", True),
    "fastai": ("fastai", True),
    "skorch": ("skorch", True),
    "keras": ("keras", False),  # has layers, and initial weights, of its own
    "transformers": ("transformers", False),  # draws its batches in an order of its own
}
REPORT = """
import json
weights = [p.detach().flatten().tolist() for p in model.parameters()] if "model" in dir() else []
print("REPORT" + json.dumps({"weights": weights, "epochs": globals().get("epochs"), "accuracy": globals().get("accuracy")}))
"""


def block(page: str, language: str) -> str:
    """The script in that language on a page."""
    text = (DOCS / f"from-{page}.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return found


def report(script: str, folder: Path) -> dict:
    """What is left when a script has run: weights, epochs, accuracy."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script + REPORT],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("REPORT")[2])


@pytest.mark.parametrize("page", LIBRARIES)
def test_the_script_after_does_what_the_script_before_did(page: str, tmp_path: Path) -> None:
    """Both scripts of a page run as pasted, stop after the same epoch, and end with the same weights where that can be."""
    module, equal = LIBRARIES[page]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed; `make peers` does it")
    before = report(block(page, "py"), tmp_path)
    after = report(block(page, "python"), tmp_path)
    if equal:
        assert after["epochs"] == before["epochs"]
        for ours, theirs in zip(after["weights"], before["weights"], strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)
    elif page == "keras":
        assert after["accuracy"] > 0.9
        assert before["accuracy"] > 0.9
    else:
        assert after["epochs"] == before["epochs"] == 3


def test_the_script_after_is_no_longer_than_the_script_before() -> None:
    """Moving in costs no lines."""
    for page in LIBRARIES:
        assert len(block(page, "python").splitlines()) <= len(block(page, "py").splitlines()), page
