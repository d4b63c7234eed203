"""Fusing: `pred`, `loss`, `backward` and `step` as one state.

It is an edit of the table, for where nothing reads or decides between these states. The state
`update` does the work of the four in the same order, the effects of the arrows between them
included, so its results are the same to the last bit. By itself that gains nothing;
`fit(compile="step")` compiles the state as one function (see `compiling`).

Hooks on entering the first state and on leaving the last one are called where the fused state is
entered and left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

from statetrain.callback import Callback, hooks_of
from statetrain.contracts.declaring import Access, access_of
from statetrain.errors import ConfigError
from statetrain.guards.base import leaves
from statetrain.guards.batch import NonFinite
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State, StateWork
from statetrain.lifecycle.transition import Transition
from statetrain.naming import label_of
from statetrain.standard import actions

if TYPE_CHECKING:
    from statetrain.context.context import Context

UPDATE = "update"
FIRST, LAST = "pred", "step"


@frozen
class Fused:
    """The actions of several states, each followed by the effect of the arrow that led on.

    Args:
        stands_for: the roles of the states.
        actions: theirs.
        effects: those of the arrows out of them but the last one's, None where there is none.
        compiled: whether they are compiled as one function; see `compiling`. It is no part of what
            the state does.
    """

    stands_for: tuple[str, ...]
    actions: tuple[StateWork, ...]
    effects: tuple[StateWork | None, ...]
    compiled: bool = field(default=False, eq=False)
    _works: tuple[StateWork, ...] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        pairs = zip(self.actions, (*self.effects, None), strict=True)
        works = filter(None, chain.from_iterable(pairs))
        object.__setattr__(self, "_works", tuple(works))

    @property
    def label(self) -> str:
        """What the table says."""
        return ", ".join([*map(label_of, self._works), *["compiled"] * self.compiled])

    @property
    def access(self) -> Access | None:
        """What all of them read and write; None if nothing is known of one."""
        whole = Access()
        for work in self._works:
            if (own := access_of(work)) is None:
                return None
            whole |= own
        return whole

    def mapped(self, wrap: Callable[[StateWork], StateWork]) -> Fused:
        """The same with each action wrapped, as the scopes around want it."""
        return attrs.evolve(self, actions=tuple(map(wrap, self.actions)))

    def run(self, ctx: Context) -> None:
        """Calls them."""
        for work in self._works:
            work(ctx)

    def __call__(self, ctx: Context) -> None:
        if ctx.compiled_step is None:
            self.run(ctx)
        else:
            ctx.compiled_step(ctx, self)


def account(ctx: Context, fused: Fused, counted: tuple[Any, Any] | None = None) -> None:
    """What the host does for a batch whose step was compiled: prediction and loss are there.

    Args:
        ctx: the context.
        fused: the action of the state.
        counted: with a mask, the loss as it counts, and whether it does.
    """
    if ctx.on_host:
        ctx.loss_value = ctx.loss_grad.item()
    else:
        ctx.loss_value = ctx.accelerator.exact(ctx.loss_grad)
    for effect in fused.effects:
        if effect is actions.count_finite_loss and counted is not None:
            actions.add_to_mean(ctx, *counted)
        elif effect is not None:
            effect(ctx)
    actions.count_step(ctx)


def update_of(life: Lifecycle) -> Fused | None:
    """The action of the fused state; None if there is none."""
    for state in life.states:
        if isinstance(state.action, Fused):
            return state.action
    return None


def fuse(life: Lifecycle) -> Lifecycle:
    """A lifecycle whose `pred`, `loss`, `backward`, `step` and all between are one state `update`.

    A loss that is not finite can then only be found late: give `supervised` `finite_check="late"`,
    with which the device leaves the step out by itself, or `non_finite="ignore"`.

    Args:
        life: with these states, and between them lone arrows without a guard.

    Raises:
        ConfigError: a guard is asked in between, or the states are others. The message names what
            is in the way.
    """
    if why := in_the_way(life):
        raise ConfigError(f"lifecycle {life.name!r} cannot be fused: {why}")
    steps = list(_chain(life))
    first, last = steps[0][0], steps[-1][0]
    update = first.name.removesuffix(FIRST) + UPDATE  # of a phase, with its prefix
    action = Fused(
        tuple(state.role for state, _ in steps),
        tuple(state.action or _nothing for state, _ in steps),
        tuple(getattr(arrow, "effect", None) for _, arrow in steps[:-1]),
    )
    fused = State(update, action, first.within, role=UPDATE)
    between = [arrow for _, arrow in steps]
    inner = {state.name for state, _ in steps[1:]}
    states = [state for state in life.states if state.name not in inner]
    states[states.index(first)] = fused
    onto = {first.name: update, last.name: update}
    arrows = [
        attrs.evolve(
            arrow,
            source=onto.get(arrow.source, arrow.source),
            dest=onto.get(arrow.dest, arrow.dest),
        )
        for arrow in life.transitions
        if arrow not in between
    ]
    return attrs.evolve(life, states=states, transitions=arrows)


def _nothing(ctx: Context) -> None:
    "do nothing"


def in_the_way(life: Lifecycle) -> str:
    """What keeps a lifecycle from being fused, as text; empty if nothing does."""
    if why := _missing(life):
        return why
    steps = list(_chain(life))
    for state, arrow in steps:
        if arrow is None and state.role != LAST:
            return _decided(life.arrows(state.name)[0])
        if not _is_work_alone(state) or life.inside(state.name):
            return f"{state.name!r} is a scope or an anchor, and not work alone"
    names = [state.name for state, _ in steps]
    for other in life.transitions:
        if other.event is not None and other.source in names:
            return f"{other} may be taken between {FIRST!r} and {LAST!r}"
        if other.dest in names[1:] and other.source not in names:
            return f"{other} leads into the middle"
    return ""


def _missing(life: Lifecycle) -> str:
    """Which of the states that are fused are not there, or several times, as text."""
    for role in (FIRST, "loss", "backward", LAST):
        found = life.by_role(role)
        if not found:
            return f"it has no state {role!r}"
        if len(found) > 1:
            return (
                f"it has several states with the role {role!r},"
                f" {', '.join(repr(state.name) for state in found)}; fuse each phase before they"
                " are joined"
            )
    return ""


def _decided(first: Transition) -> str:
    """Why a state with several arrows is in the way; the first of them says what is decided."""
    why = f"{first} is decided between {FIRST!r} and {LAST!r}"
    if first.guard is not None and any(isinstance(leaf, NonFinite) for leaf in leaves(first.guard)):
        why += (
            "; finite_check='late' lets the device leave the step out, non_finite='ignore' does not"
            " look"
        )
    return why


def _is_work_alone(state: State) -> bool:
    return state.close is None and state.mode is None and not state.anchor


def _chain(life: Lifecycle) -> Iterator[tuple[State, Transition | None]]:
    """The states from the first to the last, each with the arrow that leads on.

    It is None for the last one, and where there is a decision.
    """
    state = life.by_role(FIRST)[0]
    while True:
        onward = life.arrows(state.name)
        if state.role == LAST or len(onward) > 1 or onward[0].guard is not None:
            yield state, None
            return
        yield state, onward[0]
        state = life.state(onward[0].dest)


def listens_between(callbacks: Iterable[Callback], life: Lifecycle) -> bool:
    """Whether a callback has a hook between the states that would be fused.

    Args:
        callbacks: of the machine.
        life: before it is fused.
    """
    names = [state.name for state, _ in _chain(life)]
    inner = {f"on_{way}_{name}" for name in names for way in ("enter", "exit")}
    inner -= {f"on_enter_{names[0]}", f"on_exit_{names[-1]}"}
    return any(inner & hooks_of(callback, life).keys() for callback in callbacks)
