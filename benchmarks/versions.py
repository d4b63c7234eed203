"""Which versions of what is needed are the oldest that pyproject.toml allows; for `make oldest` and `make newest`.

python benchmarks/versions.py oldest    # attrs==24.2 ...
python benchmarks/versions.py newest    # attrs>=24.2 ...
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
# What the tests of the core need beside it
EXTRAS = ("checkpoint", "examples", "testing")


def requirements(which: str) -> list[str]:
    """What to install: each at its lower bound, or at least of it."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    needs = list(project["dependencies"])
    for extra in EXTRAS:
        needs += project["optional-dependencies"][extra]
    if which == "oldest":
        needs = [need.replace(">=", "==") for need in needs]
    return sorted(set(needs))


if __name__ == "__main__":
    print(*requirements(sys.argv[1]))
