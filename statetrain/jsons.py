"""JSON: one way to write it and one to read it, both strict.

JSON has no NaN and no infinities. Files, logs and pages hold the texts "nan", "inf" and "-inf" in
their place, which `float` reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from statetrain.naming import encodable

NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
"""The numbers that JSON does not have, by the texts in their place."""

# ---------------------------------------------------------------- writing


def dumps(
    data: Any, *, indent: int | None = None, sort_keys: bool = False, ascii_only: bool = True
) -> str:
    """JSON, on one line without blanks unless it is indented; the same data is the same text.

    Args:
        data: what JSON can hold; see `jsonable`.
        indent: blanks for each level, for people; None is one line.
        sort_keys: whether the keys of objects are sorted.
        ascii_only: whether all other characters are escaped.

    Raises:
        ValueError: a number is not finite.
        TypeError: JSON cannot hold a part of it.
    """
    separators = (",", ":")
    if indent is not None:
        separators = (",", ": ")
    return json.dumps(
        data,
        indent=indent,
        sort_keys=sort_keys,
        ensure_ascii=ascii_only,
        separators=separators,
        allow_nan=False,
    )


def to_bytes(data: Any) -> bytes:
    """What `dumps` gives, as bytes for a file."""
    return dumps(data).encode()


def number(value: float) -> float | str:
    """A number, or the text in its place if JSON does not have it."""
    if math.isfinite(value):
        return value
    return str(float(value))


def jsonable(value: Any) -> Any:
    """What JSON can hold in place of any value; lone surrogates are escaped.

    What has a method `tolist` becomes lists; objects that are none of JSON's become their `repr`.
    """
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str):
        return encodable(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        return {jsonable(str(name)): jsonable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return jsonable(repr(value))


# ---------------------------------------------------------------- reading


def loads(text: str | bytes) -> Any:
    """Reads JSON strictly.

    Raises:
        ValueError: it is not JSON, or has a key twice, a NaN, a number out of range, or is nested
            too deep for Python.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        return json.loads(
            text, object_pairs_hook=_read_object, parse_constant=_refuse, parse_float=_read_float
        )
    except RecursionError:
        raise ValueError("nested too deep") from None


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key is there twice in {{{', '.join(key for key, _ in pairs):.80}}}")
    return found


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _read_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} is out of range")
    return value
