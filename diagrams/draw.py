"""Writes everything that is computed: the pictures in this folder, the tables in docs/, docs/features.md.

python diagrams/draw.py            # write
python diagrams/draw.py --check    # only say what is stale
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import statetrain as st
from statetrain.contracts.outline import fields_table
from statetrain.diagram import stale_pictures, write_pictures
from statetrain.lifecycle.text import markdown_table
from statetrain.standard.edits import EDITS, Edit

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
sys.path.insert(0, str(HERE.parent / "examples"))

import features  # noqa: E402  # beside this file

# What an example of an option is written with
NAMES = {name: getattr(st, name) for name in ("EarlyStopping", "Every", "RollBack", "Spike")}

# A lifecycle with most fields
EVERYTHING = st.supervised(check_gradients=True, accumulate=4, precision="fp16", buffers=True)


def lifecycles() -> dict[str, st.Lifecycle]:
    """What is drawn: the standard lifecycles, some options, and those of the examples."""
    import gan

    return {
        "supervised": st.supervised(),
        "supervised-early-stopping": st.supervised(
            stop=st.EarlyStopping("valid_loss", 5), non_finite="skip", accumulate=4
        ),
        "supervised-validation-inside": st.supervised(validate=st.Every(100, "steps")),
        "supervised-two-optimizers": st.supervised(optimizers=2),
        "evaluation": st.evaluation(),
        "prediction": st.prediction(),
        "gan": gan.lifecycle(),
    }


def computed() -> dict[str, str]:
    """The parts of docs/lifecycle.md that are computed."""
    standard = st.supervised()
    return {
        "supervised": markdown_table(standard),
        "options": "\n\n".join(changes(edit) for edit in EDITS if edit.examples),
        "evaluation": markdown_table(st.evaluation()),
        "prediction": markdown_table(st.prediction()),
        "fields": fields_table(EVERYTHING),
    }


def changes(edit: Edit) -> str:
    """What the examples of an option change in the table, in words."""
    parts = []
    for example in edit.examples:
        life = eval(
            f"supervised({example})", {"supervised": st.supervised, **NAMES}
        )  # the code's own words
        lines = (f"- {line}" for line in st.diff(st.supervised(), life))
        parts.append(f"`supervised({example})`\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def page() -> str:
    """docs/lifecycle.md as it should be."""
    text = (DOCS / "lifecycle.md").read_text(encoding="utf-8")
    for name, part in computed().items():
        text = re.sub(
            rf"(<!-- computed: {name} -->\n).*?(<!-- end -->)",
            lambda m, part=part: f"{m[1]}\n{part.strip()}\n\n{m[2]}",
            text,
            count=1,
            flags=re.DOTALL,
        )
    return text


def stale() -> list[str]:
    """What is not what the code says today, a line each."""
    lines = stale_pictures(lifecycles(), HERE)
    if (DOCS / "lifecycle.md").read_text(encoding="utf-8") != page():
        lines.append("docs/lifecycle.md: its tables are not those of the code")
    if (DOCS / "features.md").read_text(encoding="utf-8") != features.page():
        lines.append("docs/features.md: it is not what docs/features.toml gives")
    return lines


def main() -> None:
    if "--check" in sys.argv:
        sys.exit("\n".join(stale()) or 0)
    for path in write_pictures(lifecycles(), HERE):
        print(path.relative_to(HERE.parent))
    (DOCS / "lifecycle.md").write_text(page(), encoding="utf-8", newline="\n")
    (DOCS / "features.md").write_text(features.page(), encoding="utf-8", newline="\n")
    print("docs/lifecycle.md, docs/features.md")


if __name__ == "__main__":
    main()
