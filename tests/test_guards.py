"""Guards: what they are called, how they combine, and that they answer exactly True or False."""

import itertools
from functools import partial

import pytest
import torch
from attrs import define, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

import statetrain
from statetrain.context.position import Position
from statetrain.errors import ConfigError, GuardError
from statetrain.guards.base import AllOf, AnyOf, Guard, Not, as_guard, guard, leaves, strict
from statetrain.guards.clock import TimeLimit
from statetrain.guards.counters import After, Every, MaxSteps, MinEpochs
from statetrain.guards.history import EarlyStopping, Threshold
from statetrain.guards.requests import stop_requested
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.machine.machine import Machine
from statetrain.outcome import Stopped
from statetrain.testing import FakeClock

# The same examples each time, whatever the load
drawn = settings(derandomize=True, database=None, deadline=None)


@define(eq=False)
class Ctx(Position):
    """Answers by name, and who was asked."""

    answers: dict[str, object] = field(factory=dict)
    evaluated: list[str] = field(factory=list)
    step: int = 0
    field_a: int = 0  # what the guard "a" says that it reads


@frozen
class Says(Guard):
    """Answers what the context has for its name."""

    name: str

    @property
    def label(self):
        return self.name

    @property
    def reads(self):
        return frozenset({f"field_{self.name}"})

    def test(self, ctx):
        ctx.evaluated.append(self.name)
        return ctx.answers[self.name]

    def reason(self, ctx):
        return f"because {self.name}"


a, b, c = Says("a"), Says("b"), Says("c")


@guard(reads={"history"}, prompt=True)
def overfitting(ctx):
    "valid loss above twice the train loss."
    return True


def plain_function(ctx):
    return True


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("combined", "label"),
    [
        (a, "a"),
        (a & b & c, "a and b and c"),
        (a | b | c, "a or b or c"),
        (a & (b | c), "a and (b or c)"),
        (a & b | c, "(a and b) or c"),
        (~a, "not a"),
        (~(a & b), "not (a and b)"),
        (~a & ~b, "not a and not b"),
        ((a | b).named("either"), "either"),
        ((a | b).named("either") & c, "either and c"),
        (overfitting, "valid loss above twice the train loss"),
        (as_guard(plain_function), "plain function"),
    ],
)
def test_labels(combined, label):
    "A guard is called by its label, or by its function's docstring or name; combinations say how they combine."
    assert combined.label == label
    assert str(combined) == label


def test_combinations_flatten():
    "Several `&` in a row make one combination, and so do several `|`; a double negation is none."
    assert a & b & c == AllOf((a, b, c)) == a & (b & c)
    assert a | b | c == AnyOf((a, b, c)) == a | (b | c)
    assert a & (b | c) == AllOf((a, AnyOf((b, c))))
    assert ~~a is a
    assert (a & b).parts() == (a, b)
    assert [leaf.label for leaf in leaves((a & ~b).named("x") | c)] == ["a", "b", "c"]


def test_plain_functions_combine_with_guards():
    "A function of the context stands for a guard, on either side."
    assert a & plain_function == AllOf((a, as_guard(plain_function)))
    assert plain_function & a == AllOf((as_guard(plain_function), a))
    assert plain_function | a | plain_function == AnyOf(
        (as_guard(plain_function), a, as_guard(plain_function))
    )
    assert Transition("a", "b", plain_function).guard == as_guard(plain_function)


def test_guards_are_values():
    "Guards made alike are equal and hash alike."
    assert Every(3, "steps") & ~a == Every(3, "steps") & ~a
    assert len({Every(3, "steps") | a, Every(3, "steps") | a, Every(4, "steps") | a}) == 2


def test_what_a_combination_reads():
    "A combination reads and monitors what its parts do."
    both = EarlyStopping("valid_loss") & ~Threshold("valid_acc", 0.9) | overfitting
    assert both.monitors == ("valid_loss", "valid_acc")
    assert both.named("x").monitors == both.monitors
    assert (~(a & b) | c).named("x").reads == {"field_a", "field_b", "field_c"}


def test_what_is_worth_asking_at_every_loop_head():
    "A combination is prompt if all its parts are."
    assert (TimeLimit(1) | MaxSteps(3) | stop_requested).named("x").prompt
    assert (~TimeLimit(1) & overfitting).prompt
    assert not (TimeLimit(1) | EarlyStopping()).prompt
    assert not as_guard(plain_function).prompt


def test_a_guard_without_a_name_or_a_test():
    "A subclass that forgot its label or its test says which."

    @frozen
    class Empty(Guard):
        pass

    with pytest.raises(NotImplementedError, match="Empty needs a label"):
        _ = Empty().label
    with pytest.raises(NotImplementedError, match="Empty needs a test"):
        Empty().test(None)


# ---------------------------------------------------------------- answers

BOOLS = list(itertools.product([False, True], repeat=3))


@pytest.mark.parametrize("answers", BOOLS)
@pytest.mark.parametrize(
    ("combined", "meaning"),
    [
        (a & b & c, lambda a, b, c: a() and b() and c()),
        (a | b | c, lambda a, b, c: a() or b() or c()),
        (a & ~(b | c), lambda a, b, c: a() and not (b() or c())),
        ((~a | b).named("x") & c, lambda a, b, c: (not a() or b()) and c()),
    ],
    ids=["all", "any", "nested", "named"],
)
def test_combinations_mean_what_python_means(combined, meaning, answers):
    "`&`, `|` and `~` are `and`, `or` and `not`: the same answer, and the same parts asked, bound to a place or not."
    ctx = Ctx(answers=dict(zip("abc", answers, strict=True)))
    expected = meaning(partial(a.test, ctx), partial(b.test, ctx), partial(c.test, ctx))
    asked = ctx.evaluated
    for ask in (combined, combined.test, combined.bind("somewhere")):
        ctx.evaluated = []
        assert ask(ctx) is expected
        assert ctx.evaluated == asked


@pytest.mark.parametrize("word", ["and", "or", "not"])
def test_python_words_are_refused(word):
    "`and`, `or` and `not` would combine guards silently into one of them; the error names the right signs."
    with pytest.raises(
        GuardError, match=r"guard \[a\] was used as True or False; combine guards with &, \| and ~"
    ):
        _ = {"and": lambda: a and b, "or": lambda: a or b, "not": lambda: not a}[word]()


class FakeTensor:
    def __repr__(self):
        return "tensor(True)"


JUNK = [1, 0, None, [], "yes", 1.0, FakeTensor()]


@pytest.mark.parametrize("answer", JUNK, ids=repr)
def test_answers_that_are_no_bool(answer):
    "An answer that only counts as true or false is refused: it hides a mistake, or a wait for the device."
    for combined in (a, ~a, a & b, a | b, (a & b).named("x"), a.named("x")):
        bound = combined.bind("somewhere")
        for ask in (combined, lambda ctx, bound=bound: strict(a, bound(ctx))):
            with pytest.raises(
                GuardError, match=f"must answer True or False, got {type(answer).__name__}"
            ) as error:
                ask(Ctx(answers={"a": answer}))
            assert ("read a host value" in str(error.value)) == isinstance(answer, FakeTensor)


@pytest.mark.parametrize("answer", JUNK, ids=repr)
@pytest.mark.parametrize("combined", [a, a & a, ~a, a | a, a.named("other name")], ids=str)
def test_a_machine_says_which_guard_and_arrow(answer, combined):
    "In a run, an answer that is no bool is an error that names the guard and the arrow."
    life = Lifecycle(
        "demo",
        [State("here"), State("end", final=True)],
        [Transition("here", "end", combined), Transition("here", "end")],
    )
    with pytest.raises(GuardError) as error:
        Machine(life).run(Ctx(answers={"a": answer}))
    words = "\n".join([str(error.value), *error.value.__notes__])
    assert f"[{'other name' if combined.label == 'other name' else 'a'}]" in words
    assert "here -> end" in words
    assert f"[{combined.label}] of here -> end" in words
    assert f"got {type(answer).__name__}" in words


def test_a_part_that_decides_hides_the_junk_behind_it():
    "A part that nobody asks cannot be wrong."
    assert (b | a)(Ctx(answers={"a": "junk", "b": True})) is True
    assert (b & a)(Ctx(answers={"a": "junk", "b": False})) is False


@pytest.mark.parametrize("thing", [3, "more", None, Every, Exception], ids=repr)
def test_what_is_no_guard(thing):
    "A guard is a function or a Guard; a class is refused with the remedy."
    with pytest.raises(
        GuardError, match="a guard is a function of the context or a Guard"
    ) as error:
        as_guard(thing)
    assert ("give an instance" in str(error.value)) == isinstance(thing, type)


def test_a_partial_is_a_guard():
    "Any callable will do, and a partial is called what its function is called."
    assert as_guard(partial(plain_function)).label == "plain function"
    assert as_guard(partial(plain_function))(Ctx()) is True


# ---------------------------------------------------------------- reasons


def test_reasons():
    "A guard says why it holds: `a & b` both reasons, `a | b` that of the part that held, `~a` its label."
    ctx = Ctx(answers={"a": False, "b": True, "c": True})
    assert (b & c).reason(ctx) == "because b and because c"
    assert (a | b | c).reason(ctx) == "because b"
    assert (~a).reason(ctx) == "not a"
    assert (a | b).named("x").reason(ctx) == "because b"
    assert overfitting.reason(ctx) == "valid loss above twice the train loss"


def test_a_guard_that_only_lets_another_be_asked_gives_no_reason():
    "`MinEpochs` is a condition, not a cause."
    assert (MinEpochs(3) & a).reason(Ctx()) == "because a"


def test_the_reason_of_a_combination_none_of_which_holds():
    "Asked too late, a combination still says its label."
    assert (a | b).reason(Ctx(answers={"a": False, "b": False})) == "a or b"


# ---------------------------------------------------------------- places and marks


@drawn
@given(
    st.recursive(
        st.sampled_from([a, b, Every(2, "steps")]),
        lambda g: st.one_of(
            g.map(lambda one: one if one.remembers else Not(one)),
            st.tuples(g, g).map(AllOf),
            st.tuples(g, g).map(AnyOf),
        ),
    )
)
def test_the_same_guard_bound_or_not(combined):
    "Bound to a place that has no memory yet, any combination answers as it does unbound."
    for x, y, step in itertools.product([False, True], [False, True], [0, 2]):
        ctx = Ctx(answers={"a": x, "b": y}, step=step)
        assert combined.bind("there")(ctx) == combined(ctx)


def test_what_remembers_cannot_be_negated():
    "What the negation of an interval would remember is not defined, so it is refused where it is written."
    for remembering in (
        Every(2, "steps"),
        Every(2, "steps") | a,
        (a & Every(2, "steps")).named("x"),
    ):
        with pytest.raises(
            GuardError,
            match="cannot be negated: it remembers when it fired; put it on the other arrow",
        ):
            assert ~remembering


def test_marks_are_those_of_the_parts():
    "An arrow remembers for each part that has a memory; a negation has none."
    assert len(((Every(2, "steps") | Every(3, "steps")) & a).named("x").marks("there")) == 2
    assert a.marks("there") == ()
    assert (~a).marks("there") == ()


# ---------------------------------------------------------------- time


def test_after_a_time_since_its_arrow_was_taken():
    "By the context's clock, without sleeping: from the start, then anew from each time; each place by itself."

    class Timed:
        def __init__(self):
            self.seconds, self.marks = 0.0, {}

    ctx, after = Timed(), After(10)
    here, there = after.bind("here"), after.bind("there")
    (mark,) = after.marks("here")
    taken = []
    for ctx.seconds in (0.0, 9.5, 10.0, 19.5, 23.0, 32.5, 33.0):
        if here(ctx):
            mark(ctx)
            taken.append(ctx.seconds)
    assert taken == [10.0, 23.0, 33.0]  # `Every` would be true at 20 and at 30
    assert there(ctx)
    assert after.label == "10 seconds passed"
    with pytest.raises(ConfigError):
        After(0)


def test_after_a_time_in_a_training():
    "A run stops when the time has come, by its clock, at the next loop head."
    clock = FakeClock()
    run = statetrain.fit(
        torch.nn.Linear(1, 1),
        [(torch.ones(2, 1), torch.ones(2, 1))] * 10,
        loss=torch.nn.functional.mse_loss,
        optimizer=torch.optim.SGD,
        epochs=3,
        stop=After(14),
        clock=clock,
        verbose=False,
        callbacks=statetrain.on("exit_step")(lambda ctx: clock.advance(1)),
    )
    assert (run.ctx.step, run.outcome) == (14, Stopped(2, "14 seconds passed"))
