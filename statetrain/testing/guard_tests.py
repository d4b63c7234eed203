"""Generated tests for a custom guard: evaluated on every short path, it must change nothing.

    @pytest.mark.parametrize("case", guard_cases(overfitting, at="next_epoch"), ids=str)
    def test_my_guard(case):
        "It is pure, answers True or False, and reads what it says it reads."
        case.check()

The runs are those of `callback_tests`: real ones, led along the way, in which the guard is asked
next to the others.
"""

from __future__ import annotations

import inspect
import random
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any

import attrs
from attrs import field, frozen

from statetrain.context.fields import Fact, fields_with
from statetrain.context.position import Position
from statetrain.errors import ConfigError, GuardError
from statetrain.guards.base import Guard, as_guard, strict
from statetrain.lifecycle.explore import Bound
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.naming import did_you_mean
from statetrain.testing.callback_tests import Build, CallbackTrial, go, standard, trial_of
from statetrain.testing.paths import Cover, Path, paths
from statetrain.testing.resuming import differences, list_words

# What is not looked into: what runs, and data, which a guard could only change by reading it; and
# reading is seen.
_SKIPPED = frozenset(
    (
        "machine",
        "callbacks",
        "accelerator",
        "read_batch",
        "layout",
        "train_data",
        "valid_data",
        "data",
        "iterator",
        "valid_iterator",
        "modes",
        "clock",
        "arguments",
    )
)
# Where a run stands may be read by all; where its own part of the history begins belongs to the
# history.
_ALWAYS = frozenset(("state", "transition", "event", "first_row"))


def check_guard(
    guard: Guard | Callable[[Any], bool],
    lifecycle: Lifecycle | None = None,
    *,
    at: str | Iterable[str] = (),
    build: Build | None = None,
    context: Callable[[], Any] | None = None,
    cover: Cover = "transitions",
    bounds: Mapping[str, Bound] | None = None,
) -> int:
    """Asserts that a guard behaves as guards must, on every short path.

    The arguments are those of `guard_cases`.

        check_guard(overfitting, at="next_epoch")

    Returns:
        How often it was asked.

    Raises:
        AssertionError: it does not; the message names the way, the state, and what happened.
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    return sum(
        case.check()
        for case in guard_cases(
            guard, lifecycle, at=at, build=build, context=context, cover=cover, bounds=bounds
        )
    )


def guard_cases(
    guard: Guard | Callable[[Any], bool],
    lifecycle: Lifecycle | None = None,
    *,
    at: str | Iterable[str] = (),
    build: Build | None = None,
    context: Callable[[], Any] | None = None,
    cover: Cover = "transitions",
    bounds: Mapping[str, Bound] | None = None,
) -> list[GuardCase]:
    """The paths along which to evaluate a guard, as parameters for pytest (`ids=str` is readable).

    Each time, `case.check()` asserts that it

    - raises nothing and answers exactly True or False;
    - answers the same when it is asked again;
    - changes nothing in the context, and draws no random numbers;
    - reads only the fields of the context that its `reads` names, if it names any.

    Args:
        guard: the guard, or a function of the context.
        lifecycle: the table; None is `supervised` with validation and `non_finite="skip"`. A guard
            that is on its arrows, or part of one that is, is asked there.
        at: the states that are to ask it, where it is not on the lifecycle's arrows; empty:
            wherever any guard is asked.
        build, context, cover, bounds: as in `callback_cases`.

    Raises:
        ConfigError: `at` names no state, or one that has no guards to ask; or `build` and `context`
            are both given.
        AssertionError: no way asks it.
    """
    trial = trial_of("guard_cases", build, context)
    life, guard = lifecycle or standard(), as_guard(guard)
    places = _places(life, guard, at)
    found = paths(life, cover, bounds)
    ways = [way for way in found if not places.isdisjoint(t.source for t in way.transitions)]
    if not ways:
        raise AssertionError(f"no way asks [{guard.label}] in {', '.join(sorted(places))}")
    return [GuardCase(way, guard, trial, places) for way in ways]


def _places(life: Lifecycle, guard: Guard, at: str | Iterable[str]) -> frozenset[str]:
    """The states in which a guard is evaluated: those given, those that have it, or all."""
    guarded = [(arrow, arrow.guard) for arrow in life.transitions if arrow.guard is not None]
    asking = {arrow.source for arrow, _ in guarded if arrow.event is None}
    own = {arrow.source for arrow, combined in guarded if _has(combined, guard)}
    if isinstance(at, str):
        at = (at,)
    chosen = set(at)
    for name in chosen - asking:
        raise ConfigError(
            f"{life.name}: no state {name!r} that asks guards{did_you_mean(name, asking)}"
        )
    return frozenset(chosen or own or asking)


def _has(whole: Guard, part: Guard) -> bool:
    return whole == part or any(_has(inner, part) for inner in whole.parts())


@frozen(repr=False)
class GuardCase:
    """One way along which a guard is asked.

    Attributes:
        path: the way.
        guard: the guard.
        places: the states in which it is asked.
    """

    path: Path
    guard: Guard
    trial: CallbackTrial = field(repr=False)
    places: frozenset[str]

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<GuardCase {self}>"

    def check(self) -> int:
        """Goes the way, and asks.

        Returns:
            How often it was asked.

        Raises:
            AssertionError: see `guard_cases`.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        found: list[tuple[str, BaseException | None]] = []
        seen: set[int] = set()

        def asked(_: Guard, ctx: Position) -> None:
            # Once in a state, before the first guard of its row, whatever number there are.
            if ctx.state in self.places and guide.taken not in seen and not found:
                seen.add(guide.taken)
                if (trouble := judge_guard(self.guard, ctx)) is not None:
                    place = ", ".join(filter(None, (f"in {ctx.state!r}", ctx.where())))
                    found.append((f"{place}: {trouble[0]}", trouble[1]))

        guide, run = self.trial.begin(self.path, 1, (), asked)
        go(run)
        if found:
            raise AssertionError(
                f"[{self.guard.label}] on the way that {self}, asked {found[0][0]}"
            ) from found[0][1]
        return len(seen)


def judge_guard(guard: Guard, ctx: Position) -> tuple[str, BaseException | None] | None:
    """What a guard does that it must not, as text, with what it raised; None if all is well."""
    before, chance = _pictured(ctx), _chance()
    try:
        first = strict(guard, guard.test(ctx))
        second = strict(guard, guard.test(ctx))
    except GuardError as error:
        return str(error), error
    except Exception as error:
        return f"it raised {type(error).__name__}: {error}", error
    if _chance() != chance:
        return "it drew random numbers, so evaluating it changes the run", None
    if first is not second:
        return f"it answered {first}, and asked again at once, {second}", None
    if words := list(differences(before, _pictured(ctx))):
        changed = [
            word.replace(" is ", " became ").replace(", expected ", ", was ") for word in words
        ]
        return f"it changed the context:{list_words(changed)}", None
    undeclared = _undeclared(guard, ctx)
    if undeclared:
        hint = (
            "declare them:"
            f" reads={{{', '.join(repr(name) for name in sorted({*guard.reads, *undeclared}))}}}"
        )
        return (
            (
                f"it read {', '.join(map(repr, undeclared))}, and its reads are"
                f" {', '.join(map(repr, sorted(guard.reads)))}; {hint}"
            ),
            None,
        )
    return None


# ---------------------------------------------------------------- what was read


def _undeclared(guard: Guard, ctx: Position) -> list[str]:
    """The fields that a guard reads besides those that it declares; empty if it declares none."""
    if not guard.reads:
        return []
    declared = {re.split(r"\W", name, maxsplit=1)[0] for name in guard.reads}
    declared |= _ALWAYS | set(_noted(ctx))
    read: dict[str, None] = {}
    try:
        guard.test(_Watched(ctx, declared, read))
    except Exception:
        return []  # it wants the context itself, by its class; what it reads cannot be seen
    return [name for name in read if name not in declared]


class _Watched:
    """A context that notes which fields are read, including through properties and methods."""

    def __init__(self, ctx: Position, declared: set[str], read: dict[str, None]) -> None:
        self.__dict__.update(_ctx=ctx, _declared=declared, _read=read)

    def __getattr__(self, name: str) -> Any:
        ctx, kind = self._ctx, inspect.getattr_static(type(self._ctx), name, None)
        if isinstance(kind, property) and kind.fget is not None and name not in self._declared:
            return kind.fget(self)
        if inspect.isfunction(kind):
            return MethodType(kind, self)
        self._read[name] = None
        return getattr(ctx, name)

    def __getitem__(self, path: str) -> Any:
        self._read[re.split(r"\W", path, maxsplit=1)[0]] = None
        return self._ctx[path]


# ---------------------------------------------------------------- what a context is


def _pictured(ctx: Position) -> dict[str, Any]:
    """All of a context, for comparing."""
    noted = _noted(ctx)
    return {
        name: _copied(getattr(ctx, name), set())
        for name in _field_names(ctx)
        if name not in _SKIPPED and name not in noted
    }


def _noted(ctx: Position) -> tuple[str, ...]:
    """The fields in which a guard may keep what it has worked out already."""
    kind: Any = type(ctx)
    if attrs.has(kind):
        return fields_with(kind, Fact.NOTED)
    return ()


def _field_names(value: Any) -> list[str]:
    if attrs.has(type(value)):
        return [f.name for f in attrs.fields(type(value))]
    return list(vars(value))


def _chance() -> list[str]:
    """Where the generators of random numbers stand."""
    states = [repr(random.getstate())]
    if (torch := sys.modules.get("torch")) is not None:
        states.append(torch.get_rng_state().numpy().tobytes().hex())
    if (numpy := sys.modules.get("numpy")) is not None:
        states.append(repr(numpy.random.get_state()))
    return states


def _copied(value: Any, around: set[int]) -> Any:
    """A copy of a value for comparing: containers, tensors, modules and objects by content."""
    if id(value) in around:
        return "itself"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | type):
        return value
    around = around | {id(value)}
    torch = sys.modules.get("torch")
    if torch is not None:
        if isinstance(value, torch.Tensor):
            return value.detach().clone()
        if isinstance(value, torch.Generator):
            return value.get_state()
        if isinstance(value, torch.nn.Module):
            return _copied_module(value, around)
    if isinstance(value, Mapping):
        return {str(key): _copied(part, around) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_copied(part, around) for part in value]
    if attrs.has(type(value)) or hasattr(value, "__dict__"):
        return {name: _copied(getattr(value, name, None), around) for name in _field_names(value)}
    return repr(value)


def _copied_module(module: Any, around: set[int]) -> dict[str, Any]:
    parameters = dict(module.named_parameters())
    return {
        "tensors": _copied({**parameters, **dict(module.named_buffers())}, around),
        "training": {name: part.training for name, part in module.named_modules()},
        "gradients": _copied({name: part.grad for name, part in parameters.items()}, around),
    }
