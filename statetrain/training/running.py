"""Running your own lifecycle as `fit` runs the standard one."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import Any

from statetrain.callback import Callback
from statetrain.context.position import Position
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.machine.machine import Engine, Machine
from statetrain.training.run import OnInterrupt, Run
from statetrain.training.setup.calling import listeners
from statetrain.training.setup.ranks import Ranks
from statetrain.training.setup.starting import begin, find_saved
from statetrain.validators import check_switches, check_word


def run(
    lifecycle: Lifecycle,
    ctx: Position,
    callbacks: Callback | Iterable[Callback] = (),
    *,
    resume: str | int | os.PathLike[str] | None = None,
    allow_changes: bool | str | Collection[str] = (),
    trace: bool | str | os.PathLike[str] = False,
    debug: bool = False,
    engine: Engine = "table",
    on_interrupt: OnInterrupt = "return",
    start: bool = True,
) -> Run:
    """Walks your own lifecycle over your own context.

        run = st.run(life, Gan(critic, generator), [st.Progress(), st.Checkpoint("runs/gan")],
        resume="last")

    Beyond `Machine(lifecycle, callbacks).run(ctx)`, it heeds signals, resumes from checkpoints,
    records a trace, and returns a `Run`.

    Args:
        lifecycle: the table.
        ctx: the context, changed in place; `run.ctx` is this one.
        callbacks: what listens, in order.
        resume: where to resume, as for `fit`: "last" or "best" of the `Checkpoint` among the
            callbacks, which starts from scratch if there is none yet; the number of a step; or the
            path of a checkpoint, or of a directory of them. The context is made as in the run
            that was saved.
        allow_changes: what may differ, as for `fit`; "context" means plain values in fields, and
            those that are given now are used.
        trace: whether to record the transitions; or the path of a file to write them to as well.
        debug: whether actions, guards and callbacks are held to what they declare that they read
            and write; slower.
        engine: what walks the lifecycle: "table", or a machine of the package `transitions`, for
            its tools, see `Machine`.
        on_interrupt: what a signal leads to once the run has ended in order: "return" it, "raise"
            KeyboardInterrupt, or "exit" with 128 and the signal's number.
        start: whether to walk; else the run is returned as it stands before the first transition,
            for `run.walk()` or `run.steps()`.

    Returns:
        The run: outcome, history, context.

    Raises:
        ConfigError: the arguments cannot make a run; nothing has been run.
        ContractError: a guard or a callback reads a field that the context has not.
        CheckpointError: there is something to resume from, but it is not whole, or it is of another
            run.
        BaseException: what an action or a callback raised, as it was; its attribute `run` is the
            run.
    """
    check_switches("run", debug=debug, start=start)
    check_word("on_interrupt", on_interrupt, ("return", "raise", "exit"))
    if not isinstance(ctx, Position):
        raise ConfigError(
            f"run takes a context, an instance of a subclass of Position, got {ctx!r:.80}"
        )
    context: Any = ctx  # to a run, what it has beyond a `Position` is its own business
    machine = Machine(lifecycle, listeners(callbacks, trace), engine, debug=debug)
    machine.check_context(type(ctx))
    for callback in machine.callbacks:
        callback.check_context(context)
    made = Run(context, machine, on_interrupt)
    saved = find_saved(resume, allow_changes, machine.callbacks, None, Ranks())
    return begin(made, saved, start)
