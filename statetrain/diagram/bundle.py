"""What a notebook shows of a thing that has a picture."""

from __future__ import annotations

from typing import Unpack

from statetrain.diagram.as_mermaid import mermaid
from statetrain.diagram.as_svg import svg
from statetrain.diagram.showing import Shown
from statetrain.lifecycle.lifecycle import Lifecycle


def bundle(text: str, life: Lifecycle | None, **options: Unpack[Shown]) -> dict[str, str]:
    """The representations of a thing by their media types; a notebook takes the best that it can show.

    Args:
        text: the thing in words.
        life: its lifecycle; None if it is not known, so that there are words alone.
        options: what is shown; see `Shown`.
    """
    if life is None:
        return {"text/plain": text}
    return {
        "text/plain": text,
        "text/vnd.mermaid": mermaid(life, **options),
        "image/svg+xml": svg(life, **options),
    }
