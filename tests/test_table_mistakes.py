"""Mistakes in tables, and what their guards see: found when the table is made, or said with a remedy."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

import statetrain as st
from statetrain.lifecycle.deciding import hidden
from statetrain.lifecycle.explore import explore
from statetrain.lifecycle.text import reading_order
from statetrain.outcome import Completed, Stopped
from statetrain.testing import Property, judge, never, paths

S, T = st.State, st.Transition


def work(ctx):
    "work"


def flag(name):
    """A guard that is true if `name` is among the context's marks."""

    def test(ctx):
        return name in ctx.marks

    test.__doc__ = name
    return st.guard(test, reads={"marks"})


A, B, C = flag("a"), flag("b"), flag("c")


def choosing(*guards, **options):
    """A state whose arrows have these guards, each to a state of its own."""
    dests = [f"to{i}" for i in range(len(guards))]
    return st.Lifecycle(
        "choice",
        [S("here", work), *(S(dest, work) for dest in dests), S("end", final=True)],
        [
            *(T("here", dest, guard) for dest, guard in zip(dests, guards, strict=True)),
            T("here", "end"),
            *(T(dest, "end") for dest in dests),
        ],
        **options,
    )


# ---------------------------------------------------------------- arrows that can never be taken


@pytest.mark.parametrize(
    "guards",
    [
        (A, A),
        (A & ~A,),
        (A, B, A & B),
        (A | B, A),
        (A, ~A, B),
        (A.named("x"), A),
        (~(A | B), ~A & ~B),
    ],
    ids=str,
)
def test_an_arrow_that_can_never_be_taken(guards):
    "Whatever the guards answer, one before it is taken, or it contradicts itself."
    with pytest.raises(st.LifecycleError, match="can never be taken"):
        choosing(*guards)


def test_an_arrow_behind_guards_of_which_one_is_always_true():
    "`a` and then `~a` leave nothing for the last arrow."
    with pytest.raises(st.LifecycleError, match="here -> end can never be taken"):
        choosing(A, ~A)


@pytest.mark.parametrize(
    "guards",
    [
        (A, B),
        (A & B, A),
        (A & B, A | B),
        (A, ~A & B),
        (st.Every(2, "epochs"), st.Every(2, "epochs")),
    ],
    ids=str,
)
def test_arrows_that_share_guards_and_can_be_taken(guards):
    "Narrower before wider is fine; a guard that remembers does so for each place by itself."
    choosing(*guards)


_GUARDS = some.recursive(
    some.sampled_from([A, B, C]),
    lambda inner: (
        some.builds(lambda x, y: x & y, inner, inner)
        | some.builds(lambda x, y: x | y, inner, inner)
        | some.builds(lambda x: ~x, inner)
    ),
    max_leaves=5,
)


@settings(derandomize=True, database=None, deadline=None)
@given(some.lists(_GUARDS, min_size=1, max_size=4))
def test_hidden_arrows_are_those_that_no_answers_lead_to(guards):
    "Tried out: all eight ways to answer, each to the first arrow whose guard is true."
    arrows = [T("here", f"to{i}", guard) for i, guard in enumerate(guards)]
    taken = set()
    for bits in range(8):
        context = st.Position()
        context.marks = {name: 1.0 for i, name in enumerate("abc") if bits >> i & 1}
        taken |= set([i for i, arrow in enumerate(arrows) if arrow.guard(context)][:1])
    never = next((arrow for i, arrow in enumerate(arrows) if i not in taken), None)
    assert hidden(arrows) == never


def test_two_guards_under_one_label():
    "Pictures, traces and tests go by labels, so on one state they are one guard's each."
    with pytest.raises(st.LifecycleError, match=r"different guards with one label.*named"):
        choosing(A, B.named("a"))


def test_the_same_guard_on_the_same_event():
    "The second could never be taken; a guard that is another one is asked."
    table = {
        "name": "events",
        "states": [S("here", work), S("there", work), S("end", final=True)],
    }
    arrows = [T("here", "end"), T("there", "end")]
    first, second = (
        T("here", "end", A, event=OSError),
        T("here", "there", A, event=FileNotFoundError),
    )
    with pytest.raises(st.LifecycleError, match="is hidden behind"):
        st.Lifecycle(**table, transitions=[*arrows, first, second])
    st.Lifecycle(**table, transitions=[*arrows, second, first])


# ---------------------------------------------------------------- parts that cannot be called


async def later(ctx):
    "later"


def no_argument():
    "no argument"


def two_arguments(ctx, more):
    "two arguments"


@attrs.frozen
class Parametrised:
    n: int = 1

    def __call__(self, ctx):
        "work"


@pytest.mark.parametrize("part", ["do it", later, no_argument, two_arguments, Parametrised, 3])
def test_work_that_cannot_be_called_with_the_context(part):
    "An action, an effect or close work is a function of the context, and no class; known when the table is made."
    end = S("end", final=True)
    for states, arrows in (
        ([S("a", part), end], [T("a", "end")]),
        ([S("a", close=part), end], [T("a", "end")]),
        ([S("a"), end], [T("a", "end", effect=part)]),
    ):
        with pytest.raises(st.LifecycleError, match=r"x: the (action|close|effect) of"):
            st.Lifecycle("x", states, arrows)
    st.Lifecycle("x", [S("a", Parametrised()), end], [T("a", "end")])


def test_a_guard_that_cannot_be_called_with_the_context():
    "The same of a guard that was made of a function."
    with pytest.raises(st.LifecycleError, match="the guard of arrow here -> to0 is a coroutine"):
        choosing(later)
    with pytest.raises(st.LifecycleError, match="must take the context as its only argument"):
        choosing(two_arguments)


def test_a_mode_that_is_none():
    "What has not the four methods is named."
    with pytest.raises(
        st.LifecycleError, match="must be an instance with read, write, begin, wrap"
    ):
        st.Lifecycle("x", [S("a", mode="eval"), S("end", final=True)], [T("a", "end")])


# ---------------------------------------------------------------- questions


@pytest.mark.parametrize(
    "ask",
    [
        lambda life: life.arrows("los"),
        lambda life: life.inside("trian"),
        lambda life: life.events("bacth"),
        lambda life: life.path("los"),
        lambda life: life.insert(S("new"), between=("los", "backward")),
        lambda life: life.edit(remove=["los"]),
    ],
)
def test_a_question_about_a_name_that_is_not_there(ask):
    "It is an error that names the nearest one, and no empty answer."
    with pytest.raises(st.LifecycleError, match="did you mean"):
        ask(st.supervised())


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda life: life.insert("new", between=("loss", "backward")), "insert takes a State"),
        (lambda life: life.insert(S("new"), between="loss"), "the two ends of an arrow"),
        (
            lambda life: life.add(T("loss", "step", A), before=life.between("backward", "step")[0]),
            "none of those added",
        ),
        (
            lambda life: life.add(T("step", "record", A), before=T("step", "record")),
            "no arrow step",
        ),
        (lambda life: life.remove("loss"), "the text of an arrow is 'source -> dest'"),
        (
            lambda life: life.insert(S("new"), between=("loss", "backward"), otherwise="step"),
            "give guard=",
        ),
    ],
)
def test_an_edit_that_would_do_nothing_or_something_else(edit, words):
    "Each says what it got and what to give."
    with pytest.raises(st.LifecycleError, match=words):
        edit(st.supervised())


# ---------------------------------------------------------------- edits


def test_several_edits_at_once():
    "What each by itself would leave unsound is fine together; states and arrows are changed where they stand."
    life = choosing(A)
    after = life.edit(
        remove=[*life.between("here", "to0"), *life.between("to0", "end"), "to0"],
        add=[S("new", work), T("here", "new", B), T("new", "end")],
        alter={"here": {"anchor": True}, life.arrows("here")[1]: {"effect": work}},
    )
    assert list(map(str, after.arrows("here"))) == ["here -> new [b]", "here -> end / work"]
    assert after.names == ("here", "end", "new")
    assert after.state("here").anchor
    with pytest.raises(st.LifecycleError, match="unknown state 'to0'"):
        life.edit(remove=["to0"])


def test_a_state_under_a_condition():
    "The arrows lead to it if the guard is true, and on as before, or elsewhere, if it is not."
    life = choosing(A)
    after = life.insert(S("check", work), between=("here", "to0"), guard=B)
    assert list(map(str, after.arrows("here"))) == [
        "here -> check [a and b]",
        "here -> to0 [a]",
        "here -> end",
    ]
    assert list(map(str, after.arrows("check"))) == ["check -> to0"]
    other = life.insert(S("check", work), between=("here", "end"), guard=B, otherwise="to0")
    assert list(map(str, other.arrows("here"))) == [
        "here -> to0 [a]",
        "here -> check [b]",
        "here -> to0",
    ]


# ---------------------------------------------------------------- guards on event arrows


class Http(st.Event):
    "the service answered with an error"


def service(*answers, guard, otherwise=True):
    """A state that raises each of these events, and where the guard of one arrow leads."""
    left = list(answers)

    def call(ctx):
        "call the service"
        if left:
            raise Http(left.pop(0))

    arrows = [
        T("call", "end"),
        T("wait", "call"),
        T("repair", "call"),
        T("call", "wait", guard, event=Http),
    ]
    last = [T("call", "repair", event=Http)] if otherwise else []
    states = [S("call", call), S("wait", work), S("repair", work), S("end", final=True)]
    if not otherwise:
        states, arrows = (
            [s for s in states if s.name != "repair"],
            [t for t in arrows if t.source != "repair"],
        )
    return st.Lifecycle("service", states, [*arrows, *last])


@pytest.mark.parametrize("engine", ["table", "transitions"])
def test_the_guard_of_an_event_sees_the_event(engine):
    "`ctx.event` is the event at hand: 429 is waited for, 500 is repaired."

    @st.guard(reads={"event"})
    def throttled(ctx):
        "429"
        return ctx.event.reason == "429"

    life = service("429", "500", "429", guard=throttled)
    seen = []
    listen = st.on("enter_wait", "enter_repair")(
        lambda ctx: seen.append((ctx.state, ctx.event.reason))
    )
    st.Machine(life, [listen], engine=engine).run(st.Position())
    assert seen == [("wait", "429"), ("repair", "500"), ("wait", "429")]


def test_an_event_whose_guards_are_all_false():
    "The message says so, and does not tell to add an arrow that is there."
    with pytest.raises(
        st.LifecycleError, match=r"guards of all arrows for it are false, call -> wait Http \[a\]"
    ):
        st.Machine(service("x", guard=A, otherwise=False)).run(st.Position())


def test_a_note_lists_only_the_arrows_that_were_taken():
    "Neither the rest of a stretch that broke off, nor what a guard would have led to."

    def broken(ctx):
        "broken"
        raise RuntimeError("the guard broke")

    with pytest.raises(RuntimeError) as caught:
        st.Machine(service("x", guard=broken)).run(st.Position())
    assert "the last transitions: call" in caught.value.__notes__[0]
    assert "end" not in caught.value.__notes__[0].split("the last transitions")[1]


def test_bounds_of_guards_on_events():
    "They are honoured by exploring, judging and paths; so what is asked comes to an end."

    @st.guard(reads={"marks"})
    def tries_left(ctx):
        "tries left"
        return True

    life = service("x", guard=tries_left)

    def waits(n, arrow):
        return n + (arrow.dest == "wait") if n < 3 else n

    counted = Property(
        "at most two waits",
        0,
        lambda n, arrow, life: "broken" if waits(n, arrow) > 2 else waits(n, arrow),
    )
    assert judge(life, counted, {"tries left": 2}).holds
    assert not judge(life, counted, {"tries left": 3}).holds
    assert judge(life, never("wait"), {"tries left": 0}).holds
    assert len(explore(life, {"tries left": 2}).reached) < 40
    assert all(p.states.count("wait") <= 2 for p in paths(life, bounds={"tries left": 2}))
    assert judge(st.supervised(), never("valid"), {"validation due": 0}).holds


# ---------------------------------------------------------------- requests and reasons


def test_a_request_to_stop_that_nothing_would_hear():
    "A lifecycle without a guard for it says so where the request is made."

    def ask(ctx):
        "ask to stop"
        ctx.request_stop("enough")

    states, arrows = [S("a", ask), S("end", final=True)], [T("a", "end")]
    with pytest.raises(st.MachineError, match=r"cannot be asked to stop.*stop_requested.*enough"):
        st.Machine(st.Lifecycle("x", states, arrows)).run(st.Position())
    hears = st.Lifecycle("x", states, [T("a", "end", st.stop_requested, work), *arrows])
    assert st.Machine(hears).run(st.Position()).stop == "enough"


def test_the_reason_of_alternatives_is_that_of_the_part_that_was_true():
    "Also of intervals, which have forgotten it when a hook asks: two steps an epoch, every third step or epoch."
    import torch

    seen = []
    st.fit(
        torch.nn.Linear(1, 1),
        [(torch.ones(2, 1), torch.ones(2, 1))] * 2,
        valid=[(torch.ones(2, 1), torch.ones(2, 1))],
        loss=torch.nn.functional.mse_loss,
        optimizer=torch.optim.SGD,
        epochs=3,
        validate=st.Every(3, "steps") | st.Every(1, "epochs"),
        callbacks=st.on("enter_valid")(
            lambda ctx: seen.append((ctx.step, ctx.transition.guard.reason(ctx)))
        ),
    )
    assert seen[:4] == [
        (2, "every epoch"),
        (3, "every 3 steps"),
        (4, "every epoch"),
        (6, "every 3 steps"),
    ]


# ---------------------------------------------------------------- golden paths


def noticed(golden, mutant):
    for path in paths(golden):
        try:
            path.check(mutant)
        except AssertionError:
            return True
    return False


def test_golden_paths_notice_effects_actions_and_the_order_of_events():
    "Another effect or none, another action, and two guarded arrows of an event that are exchanged."
    life = st.supervised()
    counting = life.between("next_epoch", "epoch")[0]
    assert noticed(life, life.alter(counting, effect=None))
    assert noticed(life, life.alter(counting, effect=work))
    assert noticed(life, life.replace("step", action=None))
    assert noticed(life, life.replace("step", action=work))
    rows = [T("a", "b", A, event=Http), T("a", "c", B, event=Http), T("a", "end", event=Http)]
    rest = [T("a", "end"), T("b", "end"), T("c", "end")]
    states = [S("a", work), S("b", work), S("c", work), S("end", final=True)]
    golden = st.Lifecycle("x", states, [*rest, *rows])
    assert noticed(golden, st.Lifecycle("x", states, [*rest, rows[1], rows[0], rows[2]]))
    assert not noticed(golden, golden)


# ---------------------------------------------------------------- large tables


def test_a_table_of_two_thousand_states():
    "A chain, and scopes within scopes: checked, asked, printed and listed in order, without recursion."
    n = 2000
    names = [f"s{i}" for i in range(n)]
    chain = st.Lifecycle(
        "chain",
        [*(S(name, work) for name in names), S("end", final=True)],
        [*(T(a, b) for a, b in zip(names, [*names[1:], "end"], strict=True))],
    )
    assert reading_order(chain) == (*names, "end")
    assert str(chain).count("\n") > 2 * n
    deep = st.Lifecycle(
        "deep",
        [S("s0"), *(S(f"s{i}", within=f"s{i - 1}") for i in range(1, 1200)), S("end", final=True)],
        [T("s0", "s1199"), T("s1199", "end")],
    )
    assert len(deep.path("s1199")) == 1200
    assert len(deep.inside("s0")) == 1199
    assert reading_order(deep)[:3] == ("s0", "s1", "s2")
    context = st.Machine(deep).run(st.Position())
    assert context.outcome == st.Completed(0)


# ---------------------------------------------------------------- tables for a training


def trained(life, **options):
    """How a short training by a table ends."""
    return st.fit(
        torch.nn.Linear(2, 2),
        (torch.ones(4, 2), torch.zeros(4, dtype=torch.long)),
        loss=torch.nn.functional.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=3,
        verbose=False,
        lifecycle=life,
        **options,
    ).outcome


def test_an_epoch_that_is_not_counted_is_refused():
    "A limit of epochs would never be reached; what the arrow needs is said, and mends it."
    life = st.supervised(validate=None)
    (arrow,) = life.between("next_epoch", "epoch")
    with pytest.raises(st.errors.ConfigError, match="opens an epoch and does not count it"):
        trained(life.alter(arrow, effect=None))

    def count(ctx):
        "count in my own way"
        ctx.epoch += 1

    for effect in (st.actions.count_epoch, count):
        assert trained(life.alter(arrow, effect=effect)) == Completed(3)


def test_a_training_without_a_step_is_refused():
    "Gradients are computed and no weight would change: an error before the first batch."
    life = st.supervised(validate=None)
    with pytest.raises(st.errors.ConfigError, match="no state with the role 'step'"):
        trained(life.without("step"))
    assert trained(life.prefixed("first_")) == Completed(3)


def test_a_stop_always_has_a_reason():
    "A guard that gives no reason of its own, alone or combined, is told by its label."
    for guard, reason in (
        (st.MinEpochs(2), "2 epochs made"),
        (st.MinEpochs(1) & st.MinEpochs(2), "1 epoch made and 2 epochs made"),
        (st.MinEpochs(5) | st.MinEpochs(2), "2 epochs made"),
        (st.MinEpochs(2).named("enough"), "enough"),
    ):
        assert trained(st.supervised(validate=None, stop=guard)) == Stopped(2, reason)


def test_a_text_in_the_place_of_a_lifecycle_or_a_state_is_told():
    "What was got and what to give is said, by the library's own errors."
    life = st.supervised()
    for refused, error in (
        (lambda: st.Machine("x"), st.MachineError),
        (lambda: st.to_machine("x"), st.MachineError),
        (lambda: st.to_machine(life).next("x"), st.MachineError),
        (lambda: st.diff(life, "x"), st.errors.LifecycleError),
        (
            lambda: st.Machine(life).steps(st.Context()).break_at(life.between("fit", "end")[0]),
            st.errors.LifecycleError,
        ),
    ):
        with pytest.raises(error, match=r"got ('x'|fit -> end)"):
            refused()


def test_why_a_run_has_not_failed():
    "The state that every lifecycle has without declaring it can be asked about too."
    life = choosing(A)
    walked = st.Machine(life).steps(st.Position())
    assert "no arrow that is asked leads from" in str(walked.why_not("failed"))
