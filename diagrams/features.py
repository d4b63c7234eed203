"""The page docs/features.md, made of the table docs/features.toml."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent.parent / "docs" / "features.toml"

# What is said of a feature that no test shows
STATUS = {
    "partly": "in part",
    "lacks": "not here",
    "device": "not run yet on such a device",
    "declined": "left out on purpose",
}
INTRODUCTION = """\
# Features

What people look for in a trainer, feature by feature, and what of it is here: a list to go through before you choose, or to search for
the name of something. It was made by trying what ten trainers offer. Each feature that is here names the test that shows it; the
page is computed from a table, and a test fails if the two differ or a test is gone.
"""


def page() -> str:
    """The whole page."""
    groups = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    parts = (group_of(**group) for group in groups.values())
    return "\n".join([INTRODUCTION, count_of(groups), "", *parts])


def count_of(groups: Mapping[str, Any]) -> str:
    """How many features there are, by what is said of them."""
    features = [feature for group in groups.values() for feature in group["features"]]
    counts = Counter(feature.get("status", "has") for feature in features)
    others = (f"{counts[status]} {said}" for status, said in STATUS.items() if counts[status])
    return f"**{counts['has']} of {len(features)} features are here**; {', '.join(others)}."


def group_of(title: str, features: Iterable[Mapping[str, str]]) -> str:
    """A heading and a table."""
    head = [f"## {title}", "", "| feature | how | shown by |", "| --- | --- | --- |"]
    return "\n".join([*head, *rows_of(features), ""])


def rows_of(features: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """A line for each feature."""
    for feature in features:
        shown = (
            f"*{STATUS[feature['status']]}*"
            if "status" in feature
            else f"`tests/{feature['test']}`"
        )
        yield f"| {feature['name']} | {feature.get('how', '').replace('|', chr(92) + '|')} | {shown} |"
