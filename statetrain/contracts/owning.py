"""What is a rank's own, and which guards several ranks have to agree on; computed from contracts.

Several ranks walk one table, each with its own part of the data. A field is *own* if it may differ
between ranks, and *same* otherwise. The fields of a context say which they are (`Fact.OWN`); for
those of a custom context it follows: what is written by a part that reads an own field is own.

A guard that reads an own field may answer differently on each rank, so the ranks have to agree:
`Guard.agree` says how. The others need no agreement. A guard that declares nothing may read
anything: rank 0 answers for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from statetrain.context.context import Context
from statetrain.context.fields import Fact, fields_with
from statetrain.contracts.declaring import access_of, expanded, field_of, reads_of
from statetrain.contracts.ways import name_place, works_of
from statetrain.errors import ContractError
from statetrain.guards.agreed import Agreed
from statetrain.guards.base import Agree, AllOf, AnyOf, Guard, Not, Renamed, leaves
from statetrain.lifecycle.lifecycle import Lifecycle

OF_DATA = frozenset({"drawn", "exhausted", "last_batch", "length", "samples", "began"})
"""Fields that are a rank's own only where each rank has data of its own, not a part of the same."""


def own_fields(
    life: Lifecycle, context: type | None = None, *, divided: bool = True
) -> dict[str, str]:
    """The fields that may differ between ranks, each with the part that writes it.

    Args:
        life: the table.
        context: a class of contexts; None is `Context`.
        divided: whether all ranks go through parts of the same data, batch by batch.
    """
    declared, own = _declared(context)
    if divided:
        own -= OF_DATA
    else:
        own |= OF_DATA
    parts = list(_parts(life))
    found = dict.fromkeys(own, "")
    size = -1
    while size != len(found):
        size = len(found)
        for who, reads, writes in parts:
            if reads & found.keys():
                for name in writes - declared:
                    found.setdefault(name, who)
    for who, _, writes in parts:
        for name in writes & own:
            found[name] = found[name] or who
    return found


def _declared(context: type | None) -> tuple[set[str], set[str]]:
    """The fields of which it is known what they are, and the own ones among them."""
    context = context or Context
    own = set(fields_with(context, Fact.OWN))
    declared = {one.name for one in attrs.fields(context) if one.metadata.get("facts")}
    return declared, own


def _parts(life: Lifecycle) -> Iterator[tuple[str, set[str], set[str]]]:
    """Actions, close work and effects: who it is, the fields that it reads, and those it writes."""
    for place, work in works_of(life):
        if (access := access_of(work)) is not None:
            yield name_place(place), _fields(access.reads), _fields(access.writes)


def _fields(paths: Iterable[str]) -> set[str]:
    return {field_of(path) for path in expanded(paths)}


# ---------------------------------------------------------------- guards


def how_to_agree(leaf: Guard, own: dict[str, str]) -> Agree | None:
    """How ranks agree on a guard that is made of no others; None if all answer alike.

    Args:
        leaf: the guard.
        own: what `own_fields` found.

    Raises:
        ContractError: it reads an own field, and does not say how ranks agree.
    """
    if isinstance(leaf, Agreed) or leaf.agree == "same":
        return None
    known = reads_of(leaf)
    if known is None or not known.reads:
        return leaf.agree or "first"
    read = sorted(_fields(known.reads) & own.keys())
    if not read:
        return None
    if leaf.agree is None:
        writer = f", written by {own[read[0]]}" if own[read[0]] else ""
        raise ContractError(
            f"guard [{leaf.label}] reads {read[0]!r}, which may differ between ranks{writer}. Say"
            " how ranks agree on it: @guard(..., agree='any') if one rank is enough, 'all', or"
            " 'first' for rank 0's answer"
        )
    return leaf.agree


def reads_own(leaf: Guard, own: dict[str, str]) -> bool:
    """Whether a guard may answer differently on each rank, as far as it declares what it reads."""
    known = reads_of(leaf)
    return known is None or bool(_fields(known.reads) & own.keys())


def agreeing(guard: Guard, source: str, own: dict[str, str]) -> Guard:
    """A guard whose parts are agreed on where they have to be.

    Args:
        guard: of an arrow.
        source: the state that asks it.
        own: what `own_fields` found.

    Raises:
        ContractError: as `how_to_agree`.
    """
    if isinstance(guard, AllOf | AnyOf):
        parts = tuple(agreeing(part, source, own) for part in guard.guards)
        return attrs.evolve(guard, guards=parts)
    if isinstance(guard, Not | Renamed):
        return attrs.evolve(guard, guard=agreeing(guard.guard, source, own))
    hows = [how for leaf in leaves(guard) if (how := how_to_agree(leaf, own)) is not None]
    if not hows:
        return guard
    return Agreed(guard, guard.agree or hows[0], source)  # a custom combination as a whole


def agreed_in(guard: Guard | None) -> Iterator[Agreed]:
    """The parts of a guard that ranks agree on."""
    if guard is None:
        return
    for leaf in leaves(guard):
        if isinstance(leaf, Agreed):
            yield leaf
