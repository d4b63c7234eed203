"""What a batch leaves behind, kept only if something reads it.

These are outputs of modules, gradients, updates and their norms.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import attrs
import torch

from statetrain.callback import Callback
from statetrain.context.context import Context
from statetrain.context.fields import Fact, fields_with
from statetrain.context.keys import Named, getter, root_of
from statetrain.context.named import select
from statetrain.contracts.composing import parts_of
from statetrain.contracts.declaring import access_of
from statetrain.contracts.listening import paths_in
from statetrain.contracts.ways import works_of
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.machine.machine import Machine
from statetrain.standard import actions
from statetrain.standard.parameters import parameters_of

FIELDS = fields_with(Context, Fact.CAPTURED)
"""The fields of the context that are filled on demand."""

_OF_PARAMETERS = tuple(name for name in FIELDS if name != "interms")


def reads_of(machine: Machine, *more: Any) -> frozenset[str]:
    """All that the parts of a machine declare that they read.

    The parts are callbacks, guards, actions, losses, metrics and whatever else has `reads`.

    Args:
        machine: a lifecycle with its callbacks.
        more: what else reads the context: things with `reads`; others read nothing.
    """
    works = _works_of(machine.lifecycle)
    parts = (*machine.callbacks, *machine.lifecycle.guards, *works, *more)
    reads = [getattr(part, "reads", ()) for part in parts]
    return _parts_declared_by(works).union(*map(paths_in, filter(None, reads)))


def _works_of(life: Lifecycle) -> list[Any]:
    """The actions of all states, what is done as they close, and the effects of all arrows."""
    return [work for _, work in works_of(life)]


def _parts_declared_by(works: list[Any]) -> frozenset[str]:
    """The parts of fields that actions declare.

    What they read as a whole, such as `grads`, the standard actions find where it is anyway.
    """
    declared = [one.reads for one in map(access_of, works) if one is not None]
    paths = frozenset().union(*declared)
    return frozenset(path for path in paths if not path.removesuffix("?").isidentifier())


def capturing(machine: Machine, model: torch.nn.Module, *more: Any) -> Machine:
    """A machine that captures what its parts read; itself if that is nothing.

    Args:
        machine: what is to be run.
        model: the user's own model.
        more: losses by keys, tallies and whatever else has `reads`.

    Raises:
        ConfigError: a module or a parameter that is read is not there.
    """
    wanted = [path for path in reads_of(machine, *more) if root_of(path) in FIELDS]
    if not wanted:
        return machine
    return attrs.evolve(
        machine, callbacks=(Capture(wanted, model, machine.lifecycle), *machine.callbacks)
    )


class Capture(Callback):
    """Fills in what is read, and nothing else.

    The fields are `ctx.interms`, `ctx.grads`, `ctx.grad_norms`, `ctx.updates` and
    `ctx.update_norms`.

    `fit`, `evaluate` and `predict` add it, before all callbacks, where somebody reads these fields.
    An output is what a module has returned, with its graph in training; of one that was called
    several times since the model was called last, the outputs of all these calls as a tuple.
    Gradients are the parameters' own, there from backward on; norms and updates are those of a
    step, taken when it is about to be made, before it is clipped, and when it has been made. With
    several optimizers, each one's turn adds its own. Everything is dropped when the batch closes.

    Args:
        paths: the keys that are read.
        model: whose modules and parameters they name.
        lifecycle: what is to be walked.

    Raises:
        ConfigError: a module or a parameter is not there.
    """

    reads = ("**",)  # metrics see what they name at its moment
    writes = FIELDS
    run_before = (Callback,)
    anywhere = True

    def __init__(self, paths: Iterable[str], model: torch.nn.Module, lifecycle: Lifecycle) -> None:
        modules = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
        parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        found = {
            root: _names(root, paths, modules if root == "interms" else parameters)
            for root in FIELDS
        }
        self.modules = found["interms"]
        self.parameters = {root: found[root] for root in _OF_PARAMETERS}
        self._before: dict[str, torch.Tensor] = {}
        # Hooks of the states where a run begins and where a batch is opened, whatever they are
        # called.
        setattr(self, f"on_enter_{lifecycle.initial}", self._install)
        if self.modules:
            for state in lifecycle.states:
                if actions.close_batch in parts_of(state.close):
                    setattr(self, f"on_enter_{state.name}", _open)

    # ------------------------------------------------------------ outputs of modules

    def on_resume(self, ctx: Context) -> None:
        """Listens to the modules again."""
        self._install(ctx)

    def _install(self, ctx: Context) -> None:
        self._before = {}
        model = ctx.accelerator.unwrap(ctx.model)
        own = dict(model.named_modules(remove_duplicate=False))
        calls: Calls = {}
        if self.modules:
            ctx.defer(model.register_forward_pre_hook(partial(_forget, calls)).remove)
        for name in self.modules:
            keeping = partial(_keep, ctx, calls, name)
            ctx.defer(own[name].register_forward_hook(keeping).remove)

    # ------------------------------------------------------------ gradients and updates

    def on_exit_backward(self, ctx: Context) -> None:
        """Shows the gradients."""
        self._show_gradients(ctx)

    def on_exit_compute(self, ctx: Context) -> None:
        """Shows the gradients."""
        self._show_gradients(ctx)

    def on_enter_step(self, ctx: Context) -> None:
        """Takes the norms, remembers the weights, lets the metrics of gradients see them."""
        self._show_gradients(ctx)
        norms = {name: one.norm() for name, one in _gradients(ctx, self.parameters["grad_norms"])}
        if self.parameters["grad_norms"]:
            ctx.grad_norms = _join(ctx.grad_norms, norms)
        self._before = {}
        names = list(dict.fromkeys(self.parameters["updates"] + self.parameters["update_norms"]))
        if names:
            self._before = {name: one.detach().clone() for name, one in _own(ctx, names)}
        ctx.tally.update_at("step", ctx)

    def on_exit_step(self, ctx: Context) -> None:
        """Takes the updates, lets the metrics of updates see them."""
        if self._before:
            self._show_updates(ctx)
            self._before = {}
        ctx.tally.update_at("stepped", ctx)

    def _show_updates(self, ctx: Context) -> None:
        names = list(self._before)
        changes = {name: one.detach() - self._before[name] for name, one in _own(ctx, names)}
        updates, norms = self.parameters["updates"], self.parameters["update_norms"]
        if updates:
            kept = {name: change for name, change in changes.items() if name in updates}
            ctx.updates = _join(ctx.updates, kept)
        if norms:
            found = {name: changes[name].norm() for name in norms if name in changes}
            ctx.update_norms = _join(ctx.update_norms, found)

    def _show_gradients(self, ctx: Context) -> None:
        if names := self.parameters["grads"]:
            ctx.grads = _join(ctx.grads, dict(_gradients(ctx, names)))

    # ------------------------------------------------------------ releasing it

    def on_transition(self, ctx: Context) -> None:
        """Drops everything once the batch has closed."""
        if ctx.batch is None:
            for name in FIELDS:
                setattr(ctx, name, None)

    def __repr__(self) -> str:
        counts = {
            "interms": len(self.modules),
            **{root: len(names) for root, names in self.parameters.items()},
        }
        return f"Capture({', '.join(f'{root}: {n}' for root, n in counts.items() if n)})"


def _join(before: Named | None, more: dict[str, Any]) -> Named:
    return Named({**(before or {}), **more})


def _gradients(ctx: Context, names: list[str]) -> list[tuple[str, torch.Tensor]]:
    """The gradients that are there, by the names of their parameters."""
    if not names:
        return []
    own = _own(ctx, names)
    return [(name, parameter.grad) for name, parameter in own if parameter.grad is not None]


def _open(ctx: Context) -> None:
    """From here on, outputs are kept."""
    ctx.interms = Named()


Calls = dict[str, int]  # how often each module was called


def _forget(calls: Calls, *_: Any) -> None:
    """Called as the model is called: calls of its modules are counted from here."""
    calls.clear()


# The order of arguments is that of a module's hooks
def _keep(ctx: Context, calls: Calls, name: str, _module: Any, _args: Any, output: Any) -> None:
    if ctx.interms is None:
        return
    if name not in ctx.interms:
        calls[name] = 0
    calls[name] = calls.get(name, 0) + 1
    if calls[name] == 1:  # the first since the model was called
        ctx.interms[name] = output
    elif calls[name] == 2:
        ctx.interms[name] = (ctx.interms[name], output)
    else:
        ctx.interms[name] = (*ctx.interms[name], output)


def _own(ctx: Context, names: list[str]) -> list[tuple[str, Any]]:
    """Parameters by name, those of the current optimizer if there are several."""
    model = ctx.accelerator.unwrap(ctx.model)
    named = dict(model.named_parameters(remove_duplicate=False))
    found = [(name, named[name]) for name in names if name in named]
    if len(ctx.optimizers) < 2:
        return found
    own = set(map(id, parameters_of(ctx.opt)))
    return [(name, one) for name, one in found if id(one) in own]


def _names(root: str, paths: Iterable[str], known: list[str]) -> list[str]:
    """The names that keys of one field need.

    Raises:
        ConfigError: one is not there.
    """
    wanted: set[str] = set()
    for key in map(getter, paths):
        if key.parts[0] != root:
            continue
        try:
            wanted.update(select(known, key.parts[1:], key.path, deep=root == "interms"))
        except KeyError as error:
            raise ConfigError(_no_such(root, key.path, error)) from None
    return [name for name in known if name in wanted]


def _no_such(root: str, path: str, error: KeyError) -> str:
    what = "parameter"
    if root == "interms":
        what = "module"
    text = f"{path!r} is read, but the model has no such {what}: {error.args[0]}"
    if "*" in path and "**" not in path:
        text += f"; '*' is one part of a name, {f'{root}.**'!r} are all"
    return text
