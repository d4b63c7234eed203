"""What a notebook shows of an object that has a picture."""

from __future__ import annotations

from typing import Unpack

from statetrain.diagram.as_mermaid import mermaid
from statetrain.diagram.as_svg import svg
from statetrain.diagram.showing import Shown
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.notebook import picture


def bundle(text: str, life: Lifecycle | None, **options: Unpack[Shown]) -> dict[str, str]:
    """The representations of an object by media type; a notebook shows the best that it can.

    Args:
        text: the object as text.
        life: its lifecycle; None if it is not known, so that there is only text.
        options: what is shown; see `Shown`.
    """
    if life is None:
        return {"text/plain": text}
    drawn = svg(life, **options)
    return {
        "text/plain": text,
        "text/vnd.mermaid": mermaid(life, **options),
        "image/svg+xml": drawn,
        "text/html": picture(drawn),
    }
