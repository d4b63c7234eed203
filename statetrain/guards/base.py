"""Guards: named predicates on the context that decide which arrow is taken.

A guard is pure: it reads the context and answers exactly `True` or `False`. It knows its own name
(`label`), which is the same in the picture, the trace, the errors and the scripts of tests; it can
say why it holds (`reason`), and it declares what it reads. Guards combine with `&`, `|` and `~`,
and any of them takes another name with `named`.

    @guard(reads={"history"})
    def overfitting(ctx) -> bool:
        "valid loss above twice the train loss"
        ...

    stop = EarlyStopping("valid_loss", patience=5) | overfitting & ~Threshold("valid_loss", 0.1)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, Literal, get_args, overload

from attrs import field, frozen

from statetrain.errors import GuardError
from statetrain.naming import label_of
from statetrain.validators import check_word

Test = Callable[[Any], bool]

Agree = Literal["any", "all", "first", "same"]
"""How ranks that each have an answer come to one: any of them, all of them, rank 0 alone; or they
answer alike anyway."""

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    C = TypeVar("C", contravariant=True, default=Any)
else:
    from typing import TypeVar

    C = TypeVar("C", contravariant=True)
# What a guard is evaluated on: a `Context`, or a custom context of a lifecycle with other fields.
# A guard of no particular context, written `Guard`, goes with all of them.


@frozen
class Guard(Generic[C]):
    """Base of all guards. A subclass gives `label` and `test`; the rest has defaults.

    A custom guard with parameters is a frozen attrs class:

        @frozen
        class LossAbove(Guard):
            limit: float
            reads = frozenset({"loss_value"})

            @property
            def label(self) -> str:
                return f"loss above {self.limit}"

            def test(self, ctx) -> bool:
                return ctx.loss_value > self.limit
    """

    @property
    def label(self) -> str:
        """The guard as text when it is true.

        The same words appear in the picture, the trace and the errors.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a label")

    def test(self, ctx: C) -> bool:
        """Whether it holds now, from host values alone."""
        raise NotImplementedError(f"{type(self).__name__} needs a test")

    @property
    def reads(self) -> frozenset[str]:
        """The fields of the context that it reads; by default, those that its parts read."""
        return frozenset().union(*(part.reads for part in self.parts()))

    @property
    def monitors(self) -> tuple[str, ...]:
        """The names of the history's columns that it reads; by default, those of its parts."""
        return tuple(monitor for part in self.parts() for monitor in part.monitors)

    @property
    def prompt(self) -> bool:
        """Whether to evaluate it at every loop head, not only between epochs.

        This is so for a clock, a counter or a request.

        By default, if all its parts are.
        """
        parts = self.parts()
        return bool(parts) and all(part.prompt for part in parts)

    @property
    def agree(self) -> Agree | None:
        """How several ranks agree on its answer, where it reads what is a rank's own.

        None says nothing: then it may only read what is the same on all ranks. See docs/ranks.md.
        """
        return None

    explains = True
    """Whether it is a reason for taking an arrow; False for one that only lets others be asked."""

    def reason(self, ctx: C) -> str:
        """Why it is true, for the outcome: its label unless it knows more.

        Empty for a guard that does not explain anything.
        """
        if not self.explains:
            return ""
        return self.label

    def bind(self, place: str) -> Test:
        """The test at one place of the table; the place matters only to a guard with a memory."""
        return self.test

    def marks(self, place: str) -> tuple[Callable[[Any], None], ...]:
        """What to remember when an arrow with this guard has been taken at that place.

        By default, what its parts remember.
        """
        return tuple(mark for part in self.parts() for mark in part.marks(place))

    def parts(self) -> tuple[Guard, ...]:
        """The guards that it is made of."""
        return ()

    @property
    def remembers(self) -> bool:
        """Whether its answer depends on when it last fired."""
        return any(part.remembers for part in self.parts())

    def named(self, label: str) -> Guard:
        """The same guard under another name."""
        return Renamed(self, label)

    def __call__(self, ctx: C) -> bool:
        return strict(self, self.test(ctx))

    def __and__(self, other: Guard | Test) -> Guard:
        return AllOf(_flat(AllOf, self, other))

    def __rand__(self, other: Test) -> Guard:
        return AllOf(_flat(AllOf, other, self))

    def __or__(self, other: Guard | Test) -> Guard:
        return AnyOf(_flat(AnyOf, self, other))

    def __ror__(self, other: Test) -> Guard:
        return AnyOf(_flat(AnyOf, other, self))

    def __invert__(self) -> Guard:
        return Not(self)

    def __bool__(self) -> bool:
        raise GuardError(
            f"guard [{self.label}] was used as True or False; combine guards with &, | and ~, not"
            " and, or, not"
        )

    def __str__(self) -> str:
        return self.label


def strict(guard: Guard, answer: object) -> bool:
    """The answer, if it is exactly True or False.

    Raises:
        GuardError: it is anything else. A tensor would hide a wait for the device, a number or a
            list a mistake.
    """
    if answer is True or answer is False:
        return answer
    kind = type(answer).__name__
    hint = ""
    if "Tensor" in kind or "ndarray" in kind:
        hint = "; read a host value, or compare with .item()"
    raise GuardError(
        f"guard [{guard.label}] must answer True or False, got {kind}{hint}: {answer!r:.80}"
    )


def reason_of(guard: Guard[C], ctx: C) -> str:
    """Why a guard holds: the reason that it gives, or its label if that is empty."""
    return guard.reason(ctx) or guard.label


def _flat(kind: type, *guards: Guard | Test) -> tuple[Guard, ...]:
    flat: list[Guard] = []
    for part in map(as_guard, guards):
        if type(part) is kind:
            flat += part.parts()
        else:
            flat.append(part)
    return tuple(flat)


def _join(word: str, guards: Iterable[Guard]) -> str:
    return f" {word} ".join(map(_in_brackets, guards))


def _in_brackets(guard: Guard) -> str:
    """The label of a guard within another one's."""
    if isinstance(guard, AllOf | AnyOf):
        return f"({guard.label})"
    return guard.label


@frozen
class AllOf(Guard[C]):
    """True if all its guards are. Written `a & b`.

    Evaluated in order, up to the first that is false.
    """

    guards: tuple[Guard[C], ...]

    @property
    def label(self) -> str:
        return _join("and", self.guards)

    def parts(self) -> tuple[Guard, ...]:
        return self.guards

    def test(self, ctx: C) -> bool:
        return all(strict(g, g.test(ctx)) for g in self.guards)

    def reason(self, ctx: C) -> str:
        """The reasons of its guards, of those that have one."""
        reasons = [g.reason(ctx) for g in self.guards]
        return " and ".join(filter(None, reasons)) or self.label

    def bind(self, place: str) -> Test:
        tests = tuple((g, g.bind(place)) for g in self.guards)

        def each(ctx: C) -> bool:
            for guard, test in tests:
                if (answer := test(ctx)) is not True:
                    return strict(guard, answer)
            return True

        return each


@frozen
class AnyOf(Guard[C]):
    """True if one of its guards is. Written `a | b`.

    Evaluated in order, up to the first that is true.
    """

    guards: tuple[Guard[C], ...]

    @property
    def label(self) -> str:
        return _join("or", self.guards)

    def parts(self) -> tuple[Guard, ...]:
        return self.guards

    def test(self, ctx: C) -> bool:
        return any(strict(g, g.test(ctx)) for g in self.guards)

    def reason(self, ctx: C) -> str:
        """The reason of the part that was true when it was last asked, else of one that is now."""
        grounds: dict[str, int] = getattr(ctx, "grounds", {})
        if self.label in grounds:
            return reason_of(self.guards[grounds[self.label]], ctx)
        return next((reason_of(g, ctx) for g in self.guards if g(ctx)), self.label)

    def bind(self, place: str) -> Test:
        tests = tuple((i, g, g.bind(place)) for i, g in enumerate(self.guards))
        label = self.label

        def some(ctx: C) -> bool:
            for i, guard, test in tests:
                if (answer := test(ctx)) is not False:
                    _note_ground(ctx, label, i)
                    return strict(guard, answer)
            return False

        return some


def _note_ground(ctx: object, label: str, part: int) -> None:
    """Records which of the alternatives was true.

    By the time its reason is asked for, a part with a memory will have forgotten.
    """
    grounds = getattr(ctx, "grounds", None)
    if grounds is not None:
        grounds[label] = part


@frozen
class Not(Guard[C]):
    """True if its guard is not. Written `~a`.

    Raises:
        GuardError: the guard remembers when it last fired, as `Every` does; what it would remember
            then is not defined.
    """

    guard: Guard[C]

    def __attrs_post_init__(self) -> None:
        if self.guard.remembers:
            raise GuardError(
                f"guard [{self.guard.label}] cannot be negated: it remembers when it fired; put it"
                " on the other arrow instead"
            )

    @property
    def label(self) -> str:
        return f"not {_in_brackets(self.guard)}"

    def __invert__(self) -> Guard:
        return self.guard

    def parts(self) -> tuple[Guard, ...]:
        return (self.guard,)

    def test(self, ctx: C) -> bool:
        return not strict(self.guard, self.guard.test(ctx))

    def bind(self, place: str) -> Test:
        inner, test = self.guard, self.guard.bind(place)
        return lambda ctx: not strict(inner, test(ctx))


@frozen
class Renamed(Guard[C]):
    """A guard under another name."""

    guard: Guard[C]
    name: str

    @property
    def label(self) -> str:
        return self.name

    def parts(self) -> tuple[Guard, ...]:
        return (self.guard,)

    def test(self, ctx: C) -> bool:
        return self.guard.test(ctx)

    def reason(self, ctx: C) -> str:
        return self.guard.reason(ctx)

    def bind(self, place: str) -> Test:
        return self.guard.bind(place)


@frozen(repr=False)
class Predicate(Guard):
    """A guard made of a plain function; what `@guard` returns."""

    function: Test
    fields: frozenset[str] = frozenset()
    now: bool = False
    how: Agree | None = field(default=None, eq=False)

    @property
    def label(self) -> str:
        return label_of(self.function)

    @property
    def agree(self) -> Agree | None:
        return self.how

    @property
    def reads(self) -> frozenset[str]:
        return self.fields

    @property
    def prompt(self) -> bool:
        return self.now

    def test(self, ctx: C) -> bool:
        return self.function(ctx)

    def bind(self, place: str) -> Test:
        return self.function

    def __reduce__(self) -> tuple[Any, ...]:
        """By name, where the decorated function stands in its module: it is not found there."""
        module, name = self.function.__module__, self.function.__qualname__
        if _found(module, name) is self:
            return _found, (module, name)
        return type(self), (self.function, self.fields, self.now, self.how)

    def __repr__(self) -> str:
        return f"<guard {self.label!r}>"


def _found(module: str, name: str) -> Any:
    """What stands in a module under a name; None if nothing does."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


@overload
def guard(
    function: Test,
    *,
    reads: Iterable[str] = (),
    prompt: bool = False,
    agree: Agree | None = None,
) -> Predicate: ...
@overload
def guard(
    *, reads: Iterable[str] = (), prompt: bool = False, agree: Agree | None = None
) -> Callable[[Test], Predicate]: ...
def guard(
    function: Test | None = None,
    *,
    reads: Iterable[str] = (),
    prompt: bool = False,
    agree: Agree | None = None,
) -> Predicate | Callable[[Test], Predicate]:
    """Makes a guard of a function of the context; its docstring is the label.

    Args:
        function: answers exactly True or False from host values, and changes nothing.
        reads: the fields of the context that it reads.
        prompt: whether it is worth asking at every loop head, not only between epochs.
        agree: how several ranks agree on the answer, where it reads what may differ between them:
            "any" (true if it is on any rank), "all", "first" (rank 0 answers for all), or "same"
            (they answer alike anyway).

    Raises:
        GuardError: `agree` is another word.
    """
    if agree is not None:
        check_word("agree", agree, get_args(Agree), error=GuardError)
    if isinstance(reads, str):
        reads = (reads,)
    read = frozenset(reads)
    if function is None:
        return lambda f: Predicate(f, read, prompt, agree)
    return Predicate(function, read, prompt, agree)


def as_guard(thing: Guard | Test) -> Guard:
    """A guard as it is, a plain function of the context made into one.

    Raises:
        GuardError: it is neither.
    """
    if isinstance(thing, Guard):
        return thing
    if callable(thing) and not isinstance(thing, type):
        return Predicate(thing)
    hint = ""
    if isinstance(thing, type):
        hint = f"; give an instance: {thing.__name__}(...)"
    raise GuardError(f"a guard is a function of the context or a Guard, got {thing!r}{hint}")


def leaves(guard: Guard) -> tuple[Guard, ...]:
    """The guards that a combination is made of, down to those that are made of none."""
    parts = guard.parts()
    if not parts:
        return (guard,)
    return tuple(chain.from_iterable(map(leaves, parts)))
