"""validate_first: the evaluations of a run are made once before it trains, too."""

from __future__ import annotations

import attrs

from statetrain.context.context import Context
from statetrain.errors import ConfigError
from statetrain.guards.base import guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.standard import actions as do
from statetrain.standard.looping import evaluated

_PREFIX = "first_"


@guard(reads={"epoch"})
def nothing_trained(ctx: Context) -> bool:
    "nothing trained yet"
    return ctx.epoch == 0


def validate_first(life: Lifecycle) -> Lifecycle:
    """An edit: a run validates before it trains, and its history begins with that row.

        st.fit(model, data, valid=0.2, ..., edits=st.validate_first)

    The row is that of epoch 0 and step 0; it has the columns of the validation, and of each
    evaluation that is made while the run trains. The states are those of the validation with
    `first_` before their names and the same roles, so callbacks hear them: `KeepBest` knows what
    the model was worth before. A run that is continued does not repeat it.

    Args:
        life: a lifecycle with a validation, or other evaluations.

    Raises:
        ConfigError: it has none.
    """
    sets = [name for name in evaluated(life) if not _at_end(life, name)]
    if not sets:
        raise ConfigError(
            f"validate_first: lifecycle {life.name!r} evaluates nothing while it trains; give"
            " valid="
        )
    fit = life.by_role("fit")[0].name
    record = State(f"{_PREFIX}record", do.record, fit, role="record")
    onward = [*(_PREFIX + name for name in sets[1:]), record.name]
    parts: list[State | Transition] = [record]
    for name, then in zip(sets, onward, strict=True):
        parts += _copied(life, name, fit, then)
    first = life.arrows(fit)[-1]
    parts += [
        Transition(fit, _PREFIX + sets[0], nothing_trained),
        Transition(record.name, first.dest),
    ]
    return life.add(*parts)


def _at_end(life: Lifecycle, name: str) -> bool:
    """Whether an evaluation is made only when the training ends."""
    return any(name in life.inside(scope.name) for scope in life.by_role("ending"))


def _copied(life: Lifecycle, name: str, within: str, then: str) -> list[State | Transition]:
    """The states and arrows of an evaluation with other names, in another scope.

    Args:
        life: has them.
        name: of the evaluation's scope.
        within: the scope of the copies.
        then: where the copy leads.
    """
    own = {name, *life.inside(name)}
    new = {old: _PREFIX + old for old in own}
    parts: list[State | Transition] = [
        attrs.evolve(state, name=new[state.name], within=new.get(state.within or "", within))
        for state in life.states
        if state.name in own
    ]
    for arrow in life.transitions:
        leads_on = arrow.dest in own or life.role(arrow.dest) in ("record", "settle")
        if arrow.source in own and leads_on:
            dest = new.get(arrow.dest, then)
            parts.append(attrs.evolve(arrow, source=new[arrow.source], dest=dest))
    return parts
