"""The standard lifecycle without its work, on which what the engine costs shows."""

from __future__ import annotations

from typing import Any

from attrs import evolve

import statetrain as st
from statetrain.standard import actions


def stub(ctx: Any) -> None:
    "nothing"


def stubbed(n: int) -> st.Lifecycle:
    """The standard lifecycle with actions that do nothing, and one that counts."""

    def draw(ctx: Any) -> None:
        ctx.iter += 1
        ctx.drawn = ctx.iter <= n

    life = st.supervised(validate=None)
    states = [
        evolve(s, action=s.action and stub, mode=None, close=s.close and stub) for s in life.states
    ]
    arrows = [
        (
            t
            if t.dest == "failed"
            else evolve(
                t,
                effect=(
                    actions.count_epoch if t.effect is actions.count_epoch else t.effect and stub
                ),
            )
        )
        for t in life.transitions
    ]
    return evolve(life, states=states, transitions=arrows).replace("draw", action=draw)
