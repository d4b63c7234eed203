"""The order of callbacks on a hook: the given one, unless something ties two of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import statetrain as st
from statetrain.callbacks.conditional import only_if
from statetrain.errors import CallbackError, ContractError, MachineError
from statetrain.machine.machine import Machine


def kind(name, *hooks, **declared):
    """A class of callbacks that write their name into a list."""
    calls = {hook: lambda self, ctx: self.said.append(name) for hook in hooks or ("on_exit_step",)}
    return type(name, (st.Callback,), {**calls, "said": [], **declared})


def order(*callbacks, hook="exit step"):
    """The names of those who are called on a hook, in order."""
    return [
        type(one).__name__ for one in Machine(st.supervised(), callbacks).explain(hook).callbacks
    ]


# ---------------------------------------------------------------- what ties


def test_the_given_order_is_kept():
    """Callbacks that nothing ties are called as they were given, and one that ties two others does not move the rest."""
    a, b, c, d = (kind(name) for name in "abcd")
    assert order(a(), b(), c(), d()) == ["a", "b", "c", "d"]
    b.run_after = (d,)
    assert order(a(), b(), c(), d()) == ["a", "c", "d", "b"]


@pytest.mark.parametrize(
    "named", [lambda a: a, lambda a: (a,), lambda a: "A", lambda a: ["Nobody", "A"]]
)
def test_run_after_and_run_before_take_classes_and_names(named):
    """One, or several; those that are not there do not count."""
    first = kind("A")
    assert order(kind("B", run_after=named(first))(), first()) == ["A", "B"]
    assert order(first(), kind("B", run_before=named(first))()) == ["B", "A"]


def test_a_base_class_stands_for_all_of_its_kind():
    """A class names its subclasses too, by itself or by its name."""
    base = kind("Base")
    sub = type("Sub", (base,), {})
    assert order(kind("B", run_after=(base,))(), sub(), base()) == ["Sub", "Base", "B"]
    assert order(kind("B", run_after=("Base",))(), sub()) == ["Sub", "B"]


def test_run_after_all_others():
    """`Callback` itself stands for all others: the last of all, as FluxTraining's tests do with an abstract type."""
    assert order(kind("Last", run_after=(st.Callback,))(), kind("A")(), kind("B")()) == [
        "A",
        "B",
        "Last",
    ]


def test_who_writes_a_field_comes_before_who_reads_it():
    """On the hooks where they do; a path within the field is enough."""
    reads, writes = kind("Reads", reads={"grads.encoder.weight"}), kind("Writes", writes={"grads"})
    assert order(reads(), writes()) == ["Writes", "Reads"]


def test_a_declared_order_outdoes_the_fields():
    """A reader that wants the value before it is changed says so."""
    reads, writes = (
        kind("Reads", reads={"grads"}, run_before=("Writes",)),
        kind("Writes", writes={"grads"}),
    )
    assert order(writes(), reads()) == ["Reads", "Writes"]


def test_two_writers_need_a_declared_order():
    """The message names both, the hook, the field, and what to declare; an order, in either class, settles it."""
    a, b = kind("A", writes={"grads"}), kind("B", writes={"on_exit_step": {"grads.*"}})
    with pytest.raises(
        ContractError,
        match=(
            r"callbacks 'A' and 'B' both write 'grads.*' on on_exit_step, in no declared"
            r" order.*run_after = \('A',\) in B.*commutes_with"
        ),
    ):
        Machine(st.supervised(), [a(), b()])
    a.run_after = (b,)
    assert order(a(), b()) == ["B", "A"]


def test_writers_of_different_parts_do_not_meet():
    """Two columns, or two optimizers, are two things."""
    assert order(kind("A", writes={"history.a"})(), kind("B", writes={"history.b"})()) == ["A", "B"]


def test_writers_that_commute_stay_as_given():
    """Either may say so, and then neither write nor read ties them."""
    a, b = (
        kind("A", writes={"grads"}, reads={"grads"}),
        kind("B", writes={"grads"}, reads={"grads"}, commutes_with=("A",)),
    )
    assert order(a(), b()) == ["A", "B"]
    assert order(b(), a()) == ["B", "A"]


def test_two_that_exclude_each_other_are_refused():
    """Wherever they listen."""
    a, b = kind("A", "on_enter_fit"), kind("B", conflicts_with=("A",))
    with pytest.raises(
        ContractError,
        match=(
            r"callbacks 'B' and 'A' exclude each other \(B declares conflicts_with = A\); take one"
            r" of them out"
        ),
    ):
        Machine(st.supervised(), [a(), b()])


def test_what_a_relation_holds_is_checked():
    """Instances are no classes."""
    with pytest.raises(
        CallbackError, match="run_after holds classes of callbacks or their names, got 3"
    ):
        Machine(st.supervised(), [kind("A", run_after=(3,))(), kind("B")()])


def test_a_condition_around_a_callback_changes_nothing():
    """Under `only_if`, a callback has the contract and the ties of its own, and the condition's fields are read with them."""
    reads, writes = kind("Reads", reads={"grads"}), kind("Writes", writes={"grads"})
    wrapped = only_if(st.Every(2, "steps"), reads())
    machine = Machine(st.supervised(), [wrapped, writes()])
    assert machine.explain("exit step").callbacks[1] is wrapped
    assert machine.explain("exit step").listeners[1].contract.reads == {"grads", "step", "marks"}
    by_hook = only_if(st.MaxSteps(2), kind("Reads", reads={"on_exit_step": {"grads"}})())
    assert Machine(st.supervised(), [by_hook]).explain("exit step").listeners[0].contract.reads >= {
        "grads",
        "fit_steps",
    }


# ---------------------------------------------------------------- cycles


def test_a_cycle_names_who_waits_for_whom_and_why():
    """Each tie of the circle is told, those declared and those that follow from fields."""
    a = kind("A", writes={"x"})
    b = kind("B", reads={"x"}, run_before=("C",))
    c = kind("C", run_before=("A",))
    with pytest.raises(
        ContractError, match="the callbacks on on_exit_step wait for each other"
    ) as raised:
        Machine(st.supervised(), [kind("D")(), a(), b(), c()])
    for tie in (
        "A before B (A writes 'x', which B reads)",
        "B before C (B declares run_before = C)",
        "C before A (C declares run_before = A)",
    ):
        assert tie in str(raised.value)
    assert "D before" not in str(raised.value)


@pytest.mark.parametrize("relation", ["run_after", "run_before"])
def test_two_that_name_each_other_are_a_cycle(relation):
    """Also with nobody between them; only of those that name their own class is the given order meant."""
    a, b = kind("A", **{relation: ("B",)}), kind("B", **{relation: ("A",)})
    with pytest.raises(
        ContractError,
        match=(
            rf"A before B \(. declares {relation} = .\); B before A|B before A \(. declares"
            rf" {relation} = .\); A before B"
        ),
    ):
        Machine(st.supervised(), [a(), b()])
    own = kind("Own", **{relation: ("Own",)})
    first, second = own(), own()
    machine = Machine(st.supervised(), [first, second])
    assert "1  Own 1" in str(machine.explain("exit step"))


def test_contracts_by_hook_give_no_false_cycle():
    """FluxTraining's Scheduler, ToDevice and Recorder: each declaration is right, and joined over all events they are a circle."""
    scheduler = kind(
        "Scheduler",
        "on_enter_step",
        "on_exit_step",
        reads={"on_enter_step": {"history"}},
        writes={"on_enter_step": {"optimizers"}},
    )
    device = kind(
        "ToDevice",
        "on_enter_fit",
        "on_enter_step",
        "on_exit_step",
        reads={"on_enter_fit": {"optimizers"}},
        writes={"on_exit_step": {"buffers"}},
    )
    recorder = kind(
        "Recorder",
        "on_exit_step",
        reads={"on_exit_step": {"buffers"}},
        writes={"on_exit_step": {"history"}},
    )
    # Leaving undoes entering, so of the two that hear both the last is first
    assert order(recorder(), scheduler(), device()) == ["ToDevice", "Recorder", "Scheduler"]


def test_exits_undo_enters_in_reverse():
    """Callbacks that hear a state entered and left are called in reverse on leaving it; declared ties hold all the same."""
    first, second, third = (kind(name, "on_enter_valid", "on_exit_valid") for name in "ABC")
    leaving = kind("Leaving", "on_exit_valid")
    machine = Machine(st.supervised(), [first(), leaving(), second(), third()])

    def names(hook):
        return [one.name for one in machine.explain(hook).listeners]

    assert names("enter valid") == ["A", "B", "C"]
    assert names("exit valid") == ["C", "Leaving", "B", "A"]
    tied = kind("B", "on_enter_valid", "on_exit_valid")
    tied.run_after = ("A",)
    machine = Machine(st.supervised(), [first(), tied(), third()])
    assert names("exit valid") == ["C", "A", "B"]


def test_declarations_for_a_whole_callback_never_close_a_circle():
    """They do not say on which hook a field is read: they order where that is possible, and are no error."""
    hooks = ("on_enter_fit", "on_exit_step")
    a = kind("A", *hooks, reads={"buffers.b"}, writes={"buffers.a"})
    b = kind("B", *hooks, reads={"buffers.a"}, writes={"buffers.b"})
    assert sorted(order(a(), b())) == ["A", "B"]
    assert order(kind("A", *hooks, reads={"buffers.b"})(), b()) == ["B", "A"]
    assert order(kind("A", *hooks, writes={"grads"})(), kind("B", *hooks, writes={"grads"})()) == [
        "A",
        "B",
    ]


@settings(max_examples=60, deadline=None)
@given(
    some.permutations(range(7)),
    some.sets(
        some.tuples(some.integers(0, 6), some.integers(0, 6)).filter(lambda pair: pair[0] < pair[1])
    ),
)
def test_every_tie_holds_and_the_rest_stays(given_order, ties):
    """The order keeps every tie; and no callback that comes next was given before one that it did not have to wait for."""
    kinds = [kind(f"K{i}", run_after=tuple(f"K{a}" for a, b in ties if b == i)) for i in range(7)]
    names = order(*(kinds[i]() for i in given_order))
    place = {int(name[1:]): at for at, name in enumerate(names)}
    assert all(place[a] < place[b] for a, b in ties)
    was = {i: at for at, i in enumerate(given_order)}
    for at, name in enumerate(names):
        done = {int(earlier[1:]) for earlier in names[:at]}
        free = [i for i in range(7) if i not in done and all(a in done for a, b in ties if b == i)]
        assert int(name[1:]) == min(free, key=was.__getitem__)


# ---------------------------------------------------------------- calls, and what is shown


def test_callbacks_are_called_in_that_order():
    """What is explained is what happens, in both engines."""
    said = []
    first, then = (
        kind("First", "on_enter_a", writes={"x"}, said=said),
        kind("Then", "on_enter_a", reads={"x"}, said=said),
    )
    life = st.Lifecycle(
        "two", [st.State("a"), st.State("end", final=True)], [st.Transition("a", "end")]
    )
    from statetrain.context.position import Position

    class WithX(Position):
        x = None

    for engine in ("table", "transitions"):
        Machine(life, [then(), first()], engine=engine).run(WithX())
    assert said == ["First", "Then"] * 2


def test_an_explanation_says_who_and_why():
    """One line for each callback with what it declares, and one for each tie."""
    machine = Machine(
        st.supervised(),
        [kind("Norms", reads={"grads"})(), kind("Scale", writes={"grads"})(), kind("Quiet")()],
    )
    assert str(machine.explain("exit step")).splitlines() == [
        "on_exit_step: 3 callbacks",
        "  1  Scale  writes grads",
        "  2  Norms  reads grads",
        "              after Scale: Scale writes 'grads', which Norms reads",
        "  3  Quiet  declares nothing  (where it was given)",
    ]
    assert str(machine.explain("enter fit")) == "on_enter_fit: no callback listens"
    assert repr(machine.explain("exit step")) == "<Order of on_exit_step: Scale, Norms, Quiet>"


@pytest.mark.parametrize(
    "asked", ["exit step", "on_exit_step", "exit_step", "on_train_batch_after_step"]
)
def test_a_hook_is_asked_for_in_several_ways(asked):
    """As a person says it, by its name, or by the name that luz gives it."""
    assert Machine(st.supervised()).explain(asked).hook == "on_exit_step"


def test_an_unknown_hook_is_an_error_with_what_is_near():
    """Of the lifecycle's own states."""
    with pytest.raises(MachineError, match="no hook 'exit stp'; did you mean 'on_exit_step'"):
        Machine(st.supervised()).explain("exit stp")


def test_the_outline_shows_who_listens_where():
    """Every state, nested, with who is called on entering and on leaving it; several of a kind are numbered."""
    lines = str(
        Machine(
            st.supervised(), [st.KeepBest(), kind("A")(), kind("A")(), kind("B", "on_anchor")()]
        ).outline()
    ).splitlines()
    assert lines[0] == "supervised: 4 callbacks listen"
    assert "  fit                     KeepBest" in [line.rstrip() for line in lines]
    assert any(line.split() == ["step", "A", "1,", "A", "2"] for line in lines)
    assert lines[-2:] == ["  on_anchor: B", "  on_resume: KeepBest"]


# ---------------------------------------------------------------- other machines


def test_callbacks_are_added_taken_out_replaced_and_found():
    """Each gives another machine; the first stays as it is."""
    a, b, best = kind("A")(), kind("B")(), st.KeepBest()
    machine = Machine(st.supervised(), [a, best])
    assert machine.with_callbacks(b).callbacks == (a, best, b)
    assert (
        machine.without(a).callbacks
        == machine.without("A").callbacks
        == machine.without(type(a)).callbacks
        == (best,)
    )
    assert machine.replace(st.KeepBest, b).callbacks == machine.replace(best, b).callbacks == (a, b)
    assert machine.find(st.KeepBest) == machine.find("KeepBest") == (best,)
    assert machine.find("Nobody") == ()
    assert machine.callbacks == (a, best)
    assert machine.without(a).engine == machine.engine
    assert Machine(st.supervised(), [a], debug=True).with_callbacks(b).debug


def test_a_callback_under_a_condition_is_found():
    """By what it is, not by what it stands in."""
    best = st.KeepBest()
    wrapped = only_if(st.MaxSteps(3), best)
    machine = Machine(st.supervised(), [wrapped])
    assert machine.find(st.KeepBest) == (wrapped,)
    assert machine.without(best).callbacks == ()


def test_what_is_not_there_cannot_be_taken_out():
    """The message says what is near; of several, the one that is meant has to be said."""
    machine = Machine(st.supervised(), [st.KeepBest(), kind("A")(), kind("A")()])
    with pytest.raises(MachineError, match="no callback is KeepBst; did you mean 'KeepBest'"):
        machine.without("KeepBst")
    with pytest.raises(MachineError, match="2 callbacks are A; give the one that is meant"):
        machine.replace("A", kind("B")())
    assert len(machine.without("A").callbacks) == 1
