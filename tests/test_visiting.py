"""Real actions along generated paths, and in random programs: what is asserted of states, and what a failure says."""

import pytest
from attrs import define
from hypothesis import settings
from hypothesis.stateful import invariant, run_state_machine_as_test

import statetrain as st
from statetrain import Lifecycle, State, Transition
from statetrain.context.position import Position
from statetrain.testing import paths, toy_problem
from statetrain.testing.programs import random_programs

few = settings(
    max_examples=15, derandomize=True, database=None, deadline=None, stateful_step_count=12
)


@define(eq=False)
class Stock(Position):
    """A shop: what it has, what it sold, how often it closed."""

    goods: int = 0
    sold: int = 0
    closed: int = 0
    most: int = 100


class SoldOut(st.events.Event):
    """Nothing is left."""


def buy(ctx):
    "buy three"
    ctx.goods = min(ctx.goods + 3, ctx.most)


def sell(ctx):
    "sell one"
    if not ctx.goods:
        raise SoldOut
    ctx.goods -= 1
    ctx.sold += 1


def close(ctx):
    "close the shop"
    ctx.closed += 1


@st.guard
def open_still(ctx):
    "open still"
    return ctx.sold < 5


@st.guard
def short(ctx):
    "short of goods"
    return ctx.goods < 2


SHOP = Lifecycle(
    "shop",
    [State("buy", buy), State("wait"), State("sell", sell), State("end", close, final=True)],
    [
        Transition("buy", "wait"),
        Transition("wait", "buy", short),
        Transition("wait", "sell", open_still),
        Transition("wait", "end"),
        Transition("sell", "wait"),
        Transition("sell", "buy", event=SoldOut),
    ],
)


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("path", paths(SHOP), ids=str)
def test_a_path_does_the_real_work(path):
    """Along each generated path the actions do their own work: what they leave is what arithmetic gives."""
    bought, seen = [], []

    def in_stock(ctx):
        bought.append(ctx)
        assert ctx.goods + ctx.sold == 3 * len(bought)

    states = {"buy": in_stock, "wait": lambda ctx: seen.append(ctx.goods)}
    ctx = path.run(context=Stock, states=states)
    assert ctx.closed == path.states.count("end")
    assert len(seen) == path.states.count("wait")
    raised = sum(t.event is not None for t in path.transitions)
    assert ctx.sold == path.states.count("sell") - raised  # the guide raises in place of the action
    assert ctx.goods == 3 * path.states.count("buy") - ctx.sold


def test_assertions_come_after_the_work_of_their_state():
    """In its scopes and modes: in `train` the model trains, after `backward` there are gradients, after `step` they were used."""
    seen = []

    def stepped(ctx):
        seen.append(ctx.step)
        assert ctx.step == len(seen)

    path = next(p for p in paths(st.supervised()) if "step" in p.states)
    ctx = path.run(
        states={
            "train": lambda ctx: ctx.model.training,
            "valid": lambda ctx: not ctx.model.training,
            "backward": lambda ctx: all(p.grad is not None for p in ctx.model.parameters()),
            "step": stepped,
        }
    )
    assert len(seen) == path.states.count("step") == ctx.step == 1


def test_every_path_of_a_lifecycle_that_trains_runs():
    """All generated paths, events and failures included, run on the toy problem; another run can be given."""
    for path in paths(st.supervised(non_finite="skip", accumulate=2)):
        path.run()

    def build(life, callbacks):
        return toy_problem(batches=2).fit(
            lifecycle=life, callbacks=callbacks, start=False, epochs=7
        )

    assert paths(st.supervised())[0].run(build=build).max_epochs == 7


def test_a_failed_assertion_names_the_path():
    """The error is the user's own, with a note; that of a lambda that answers False says so. An arrow that takes it hides nothing."""
    path = next(p for p in paths(SHOP) if "sell" in p.states)

    def dear(ctx):
        raise ValueError("too dear")

    with pytest.raises(ValueError, match="too dear") as caught:
        path.run(context=Stock, states={"sell": dear})
    assert f"on the path that {path}" in caught.value.__notes__
    with pytest.raises(AssertionError, match="the test of state 'wait' returned False"):
        path.run(context=Stock, states={"wait": lambda ctx: ctx.goods > 3})
    forgiving = Lifecycle(
        "forgiving", SHOP.states, [*SHOP.transitions, Transition("sell", "end", event=Exception)]
    )
    way = next(
        p for p in paths(forgiving) if p.transitions[-1].source == "wait" and "sell" in p.states
    )
    with pytest.raises(AssertionError, match="returned False"):
        way.run(context=Stock, states={"sell": lambda ctx: False})


def test_a_run_that_goes_elsewhere_or_fails_is_an_error():
    """An action that raises an event that the path does not have steers the run off it; another error passes through."""
    path = next(p for p in paths(SHOP) if "sell" in p.states and "on" not in str(p))
    with pytest.raises(AssertionError, match=r"the run left the path that .*: sell -> buy SoldOut"):
        path.run(context=lambda: Stock(most=0))
    with pytest.raises(TypeError, match="NoneType") as caught:
        path.run(context=lambda: Stock(goods=None))
    assert any("on the path that" in note for note in caught.value.__notes__)


def test_what_cannot_be_run_is_refused():
    """A state that there is not, and two ways to make the run."""
    path = paths(SHOP)[0]
    with pytest.raises(st.LifecycleError, match="no state 'sel'; did you mean 'sell'"):
        path.run(context=Stock, states={"sel": lambda ctx: None})
    with pytest.raises(st.ConfigError, match="not both"):
        path.run(context=Stock, build=lambda life, callbacks: None)


# ---------------------------------------------------------------- random programs


def test_random_programs_do_the_real_work():
    """Over many runs of random arrows, events and failures, all goods are sold or there, and every run comes to an end."""
    shops = []

    def make():
        shops.append(Stock(goods=1000, most=10_000))
        return shops[-1]

    bought = []
    programs = random_programs(
        SHOP,
        context=make,
        states={
            "buy": lambda ctx: bought.append(ctx),
            "sell": lambda ctx: ctx.goods + ctx.sold == 1000 + 3 * bought.count(ctx),
        },
    )
    run_state_machine_as_test(programs, settings=few)
    ran = [shop for shop in shops if shop.state is not None]
    assert len(ran) > 15
    assert all(shop.outcome is not None for shop in ran)
    assert all(shop.closed == (shop.state == "end") for shop in ran)
    assert {"end", "failed"} == {shop.state for shop in ran}


def test_random_programs_train():
    """On the toy problem: counters agree with what was entered, whatever the guards answer and the actions raise."""

    class Counted(
        random_programs(
            st.supervised(non_finite="skip"),
            bounds={"a batch was drawn": 2, "more epochs": 3},  # as many as the validation has
            states={"train": lambda ctx: ctx.model.training},
        )
    ):
        @invariant()
        def no_more_steps_than_batches(self):
            assert self.ctx.step <= self.ctx.batches

    run_state_machine_as_test(Counted, settings=few)


def test_a_failing_program_shrinks():
    """The shortest way to three steps is printed as the arrows that it goes to."""
    programs = random_programs(
        st.supervised(),
        bounds={"a batch was drawn": 3, "more epochs": 3},
        states={"step": lambda ctx: ctx.step < 2},
        events=False,
        failures=False,
    )
    with pytest.raises(AssertionError, match="the test of state 'step' returned False") as caught:
        run_state_machine_as_test(programs, settings=settings(few, max_examples=40))
    assert "epoch 1, batch 2" in str(caught.value.__notes__)


def test_rules_have_the_names_of_the_arrows():
    """Each arrow, event and failure is a rule, which can be read."""
    names = set(vars(random_programs(SHOP, context=Stock)))
    assert {
        "wait_to_sell_if_open_still",
        "sell_to_buy_on_SoldOut",
        "sell_fails",
        "buy_to_wait",
    } <= names


def test_bad_programs_are_refused():
    """Bounds and states that are not of the table are errors when the programs are made."""
    with pytest.raises(
        st.LifecycleError, match="no guard is called 'open'; known: open still, short"
    ):
        random_programs(SHOP, context=Stock, bounds={"open": 2})
    with pytest.raises(st.LifecycleError, match="no state 'sold'; known: buy, end, sell, wait"):
        random_programs(SHOP, context=Stock, states={"sold": print})
