"""An arrow found by its text, `source -> dest event [guard] / effect`, as tables print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statetrain.errors import LifecycleError
from statetrain.lifecycle.transition import Transition
from statetrain.naming import did_you_mean

if TYPE_CHECKING:  # the lifecycle's methods call these
    from statetrain.lifecycle.lifecycle import Lifecycle

_SIGN = "->"


def is_arrow(text: str) -> bool:
    """Whether a text names an arrow, not a state."""
    return _SIGN in text


def find_arrow(life: Lifecycle, text: str) -> Transition:
    """The arrow of a text; see `Lifecycle.arrow`."""
    if not isinstance(text, str) or not is_arrow(text):
        raise LifecycleError(
            f"{life.name}: the text of an arrow is 'source -> dest', or more of it as the table"
            f" prints it, got {text!r:.80}"
        )
    wanted = _spaced(text)
    by_text: dict[str, list[Transition]] = {}
    for arrow in life.transitions:
        by_text.setdefault(_spaced(str(arrow)), []).append(arrow)
    longer = (arrow for name in by_text if name.startswith(f"{wanted} ") for arrow in by_text[name])
    found = by_text.get(wanted) or list(longer)
    if not found:
        _refuse_unknown(life, wanted, by_text)
    if len(found) > 1:
        raise LifecycleError(
            f"{life.name}: {text!r} is the text of {len(found)} arrows:"
            f" {'; '.join(map(str, found))}; write more of it, or give the arrow itself, one of"
            f" life.between({found[0].source!r}, {found[0].dest!r})"
        )
    return found[0]


def _refuse_unknown(life: Lifecycle, wanted: str, known: dict[str, list[Transition]]) -> None:
    """Raises a `LifecycleError` for the text of no arrow: a state is unknown, or the way."""
    source = wanted.split(_SIGN)[0].strip()
    there = [name for name, arrows in known.items() if arrows[0].source == life.path(source)[-1]]
    raise LifecycleError(f"{life.name}: no arrow {wanted!r}{did_you_mean(wanted, there)}")


def _spaced(text: str) -> str:
    """A text with one space between its words and around the arrow."""
    return " ".join(text.replace(_SIGN, f" {_SIGN} ", 1).split())
