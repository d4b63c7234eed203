"""Contracts: what is declared to be read and written is checked before the first batch."""

from __future__ import annotations

import gc
import inspect
import weakref
from functools import partial

import attrs
import pytest
import torch
from attrs import define, frozen
from hypothesis import assume, given, settings
from hypothesis import strategies as some
from strategies import lifecycles
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.context.paths import covers, overlap, parse
from statetrain.contracts.checking import check_columns
from statetrain.contracts.dataflow import solve, solve_with
from statetrain.contracts.declaring import Access, access, access_of, reads_of
from statetrain.contracts.listening import contracts_of, paths_in
from statetrain.contracts.ways import ways_of
from statetrain.errors import CallbackError, ContractError
from statetrain.guards.base import guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START, State
from statetrain.lifecycle.transition import Transition
from statetrain.machine.machine import Machine
from statetrain.naming import identify, label_of
from statetrain.standard import actions


def listening(*hooks, **declared):
    """A callback with hooks that do nothing, and what it declares."""
    return type(
        "Looks", (st.Callback,), {**{hook: lambda self, ctx: None for hook in hooks}, **declared}
    )()


def refused(callbacks, life=None):
    """The error that a machine is refused with."""
    with pytest.raises(ContractError) as raised:
        Machine(st.supervised() if life is None else life, callbacks)
    return str(raised.value)


# ---------------------------------------------------------------- what a context has


def test_fit_knows_the_fields_that_there_are():
    """A field that its context has not is an error before the first batch, whoever declares it, with the way to keep what is one's own."""

    @access(writes={"embedding"})
    def embed(ctx):
        "embed"

    base = st.supervised(validate=None)
    strange = guard(lambda ctx: False, reads={"embedding"}).named("strange")
    for life, callbacks, words in (
        (
            base.insert(State("embed", embed), between=("batch", "pred")),
            (),
            "the action of 'embed' declares that it writes 'embedding'",
        ),
        (
            base.add(st.Transition("batch", "next_batch", strange), first=True),
            (),
            r"the guard \[strange\] of batch -> next_batch declares that it reads 'embedding'",
        ),
        (
            base,
            listening("on_exit_pred", reads={"on_exit_pred": {"zz.x"}}),
            "Callback 'Looks' declares that it reads 'zz.x'",
        ),
    ):
        Machine(life, [callbacks] if callbacks else [])  # it may run another context
        with pytest.raises(
            ContractError, match=rf"{words}.*goes into ctx.buffers: .*'buffers\.(embedding|zz)'"
        ):
            st.fit(
                nn.Linear(2, 1),
                [(torch.ones(2, 2), torch.ones(2, 1))],
                loss=F.mse_loss,
                optimizer=torch.optim.SGD,
                lifecycle=life,
                callbacks=callbacks,
            )


# -------------------- read before it is there, or no more


def test_a_field_that_does_not_exist_yet_is_refused_with_a_way_that_leads_there():
    """The message names callback, hook, field, the states passed on the way, and who writes the field."""
    message = refused([listening("on_enter_pred", reads={"pred"})])
    assert "Callback 'Looks' reads 'pred' on on_enter_pred, where it does not exist yet" in message
    assert (
        "on the way fit -> next_epoch -> epoch -> train -> next_batch -> draw -> batch." in message
    )
    assert "written by the action of 'pred', the action of 'valid_pred'" in message


@pytest.mark.parametrize(
    "hook",
    [
        "on_exit_pred",
        "on_enter_loss",
        "on_exit_loss",
        "on_enter_step",
        "on_exit_batch",
        "on_exit_valid_pred",
        "on_exit_valid_batch",
    ],
)
def test_a_field_that_is_there_on_every_way_may_be_read(hook):
    """From the state that writes it until its batch closes, a field may be read, by any of its paths."""
    Machine(
        st.supervised(),
        [listening(hook, reads={hook: {"pred", "pred.logits", "batch.image", "input", "target"}})],
    )


def loop(*more):
    """A lifecycle that does its batch before anything else, so that what it wrote is gone, and never absent, at `head`."""
    states = [
        State(
            "batch",
            access(writes={"x"})(lambda ctx: None),
            close=access(drops={"x"})(lambda ctx: None),
        ),
        State("work", within="batch"),
        State("head"),
        State("end", final=True),
    ]
    again = guard(lambda ctx: False, reads={"step"}).named("again")
    return Lifecycle(
        "looping",
        states,
        [
            Transition("batch", "work"),
            Transition("work", "head"),
            Transition("head", "batch", again),
            Transition("head", "end"),
            *more,
        ],
    )


def test_a_value_of_an_earlier_batch_is_refused_as_stale():
    """What was dropped on the way is there no more, and the message says where it ended."""

    @define(eq=False)
    class WithX(st.Position):
        x: int | None = None
        step: int = 0

    Machine(loop(), [listening("on_enter_work", reads={"x"})]).check_context(WithX)
    machine = Machine(loop(), [listening("on_enter_head", reads={"x"})])
    with pytest.raises(ContractError) as raised:
        machine.check_context(WithX)
    message = str(raised.value)
    assert (
        "where it is of an earlier batch: it ended where the close work of 'batch' released it, on"
        " the way batch -> work" in message
    )


def test_an_optional_path_may_be_missing():
    """A path that ends with a question mark is read where it is there."""
    Machine(st.supervised(), [listening("on_enter_pred", reads={"pred?", "pred.logits?"})])


def test_what_is_computed_from_a_field_is_there_where_the_field_is():
    """`loss` is made of `loss_grad`, and the message says so."""
    Machine(st.supervised(), [listening("on_exit_loss", reads={"loss", "device", "batches"})])
    assert "reads 'loss' on on_enter_loss (it is made of 'loss_grad')" in refused(
        [listening("on_enter_loss", reads={"loss"})]
    )


def test_a_field_that_no_state_writes_is_refused():
    """The norm of the gradients is there in lifecycles that compute it, and in no other."""
    looks = listening("on_enter_step", reads={"grad_norm"})
    assert "nothing in lifecycle 'supervised' writes it" in refused([looks])
    Machine(st.supervised(check_gradients=True), [looks])


def test_a_misspelt_field_is_refused():
    """A field that nobody knows, and that looks like one that is known, is a slip."""
    assert "a context has no 'optimizer'; did you mean 'optimizers'?" in refused(
        [listening("on_exit_step", reads={"optimizer"})]
    )
    Machine(st.supervised(), [listening("on_exit_step", reads={"my_own_field_of_a_context"})])


def test_gradients_are_there_from_backward_on():
    """`grads` are written by backward, and cleared when the next batch opens."""
    Machine(st.supervised(), [listening("on_enter_step", reads={"grads.*"})])
    assert "reads 'grads.*' on on_enter_backward" in refused(
        [listening("on_enter_backward", reads={"grads.*"})]
    )


def test_a_declaration_for_several_hooks_is_wrong_only_if_it_holds_on_none():
    """Said for a callback as a whole, a field has to be there on one of its hooks; said by hook, on that one."""
    hooks = ("on_enter_fit", "on_exit_loss")
    Machine(st.supervised(), [listening(*hooks, reads={"loss"})])
    assert (
        "on one of its hooks (on_enter_epoch, on_enter_fit), on each of them (it is made of"
        " 'loss_grad'), where it does not"
        in refused([listening("on_enter_fit", "on_enter_epoch", reads={"loss"})])
    )
    assert "on on_enter_fit" in refused([listening(*hooks, reads={"on_enter_fit": {"loss"}})])
    Machine(st.supervised(), [listening(*hooks, reads={"on_exit_loss": {"loss"}})])


def test_a_callback_that_writes_a_field_makes_it_exist():
    """Who reads it after that, on the same hook or a later one, finds it; who reads it before does not."""
    writes = type(
        "Writes",
        (st.Callback,),
        {"writes": {"embedding"}, "reads": (), "on_exit_pred": lambda self, ctx: None},
    )()
    Machine(st.supervised(), [listening("on_exit_pred", reads={"embedding"}), writes])
    Machine(st.supervised(), [writes, listening("on_enter_step", reads={"embedding"})])
    assert "written by Writes.on_exit_pred" in refused(
        [writes, listening("on_enter_pred", reads={"embedding"})]
    )


def test_exit_hooks_are_judged_by_the_ordinary_way_out():
    """An event may leave a state before it has done its work; what it would read there is not asked for in every declaration."""
    life = st.supervised()
    assert any(way.arrow.event is st.SkipBatch and way.active == "loss" for way in ways_of(life))
    Machine(life, [listening("on_exit_loss", reads={"loss_value"})])


# ---------------------------------------------------------------- actions, effects and guards


def test_an_edited_lifecycle_is_checked_too():
    """Without the state that computes the loss, there is nothing to go backward from."""
    with pytest.raises(
        ContractError,
        match=(
            r"supervised: the action of 'backward' reads 'loss_grad', and nothing in lifecycle"
            r" 'supervised' writes it|does not exist"
        ),
    ):
        Machine(st.supervised(validate=None, non_finite="ignore").without("loss"))


def test_an_action_that_declares_nothing_may_do_anything():
    """Behind a function of the user's own, everything is taken to be there; behind one that declares, what it declares."""
    life = st.supervised(validate=None)
    Machine(life.replace("pred", action=lambda ctx: None))
    Machine(life.replace("pred", action=access(reads={"input"}, writes={"pred"})(lambda ctx: None)))
    with pytest.raises(ContractError, match="the action of 'loss' reads 'pred'"):
        Machine(
            life.replace(
                "pred", action=access(reads={"input"}, writes={"logits"})(lambda ctx: None)
            )
        )


def test_a_guard_that_reads_too_early_is_refused():
    """The message names the guard and its arrow."""
    early = guard(lambda ctx: False, reads={"loss_value"}).named("early")
    life = st.supervised().add(Transition("batch", "next_batch", early))
    assert "the guard [early] of batch -> next_batch reads 'loss_value'" in refused([], life)


def test_a_guard_that_writes_is_refused():
    """A guard only reads."""
    writing = guard(access(writes={"stop"})(lambda ctx: False)).named("writing")
    assert "declares that it writes 'stop'; a guard only reads" in refused(
        [], st.supervised().add(Transition("batch", "next_batch", writing))
    )


def test_a_declaration_leaves_the_function_as_it_is():
    """Name, label and identity are the function's own; so fingerprints do not change."""

    def plain(ctx):
        "do it"

    before = (label_of(plain), inspect.signature(plain))
    assert access(reads={"pred"}, writes=("a", "b"), drops="c")(plain) is plain
    assert (label_of(plain), inspect.signature(plain)) == before
    assert access_of(partial(plain)) == Access({"pred"}, {"a", "b"}, {"c"})
    assert identify(actions.pred) == "statetrain.standard.actions.batch:pred"


def test_everything_that_ships_declares_what_it_does():
    """Actions, guards and modes of all standard lifecycles, and every callback with hooks."""
    own = [
        f
        for name, f in vars(actions).items()
        if inspect.isfunction(f)
        and f.__module__.startswith(actions.__name__)
        and not name.startswith("_")
    ]
    assert len(own) > 40
    assert [f.__name__ for f in own if access_of(f) is None] == []
    for life in (
        st.supervised(accumulate=2, check_gradients=True),
        st.supervised(optimizers=2, precision="fp16", seeded=True),
        st.evaluation(),
        st.prediction(),
    ):
        assert all(
            reads_of(arrow.guard) is not None
            for arrow in life.transitions
            if arrow.guard is not None
        )
        assert all(
            doing.access is not None
            for way in ways_of(life)
            for doing in way.doings
            if doing.place is not None
        )


OPTIONS = {
    "accumulate": some.sampled_from([1, 3]),
    "check_gradients": some.booleans(),
    "non_finite": some.sampled_from(["raise", "skip", "stop", "ignore"]),
    "validate": some.sampled_from([None, st.Every(1, "epochs"), st.Every(2, "steps")]),
    "stop": some.sampled_from([None, st.EarlyStopping("valid_loss", 2), st.TimeLimit(minutes=1)]),
    "seeded": some.booleans(),
    "precision": some.sampled_from([None, "bf16", "fp16"]),
}


@settings(max_examples=25, deadline=None)
@given(some.fixed_dictionaries(OPTIONS), some.booleans())
def test_the_lifecycle_of_any_options_is_sound(options, several):
    """With any options, every action and guard finds what it reads, on every way."""
    if several:
        options = {**options, "optimizers": 2, "accumulate": 1}
    # A norm that nothing is done about is refused
    assume(not options["check_gradients"] or options["non_finite"] != "ignore")
    Machine(st.supervised(**options))


# ---------------------------------------------------------------- permissions and declarations


@pytest.mark.parametrize("field", ["state", "transition", "outcome", "error", "modes"])
def test_a_callback_may_not_write_what_the_machine_writes(field):
    """The machine alone moves the state and decides the outcome."""
    assert (
        f"declares that it writes {field!r} on on_exit_step, which the machine alone writes"
        in refused([listening("on_exit_step", writes={field})])
    )


def test_a_callback_may_not_write_counters():
    """Counters change in actions and effects."""
    assert "counters change in actions and effects only" in refused(
        [listening("on_exit_step", writes={"on_exit_step": {"step"}})]
    )


def test_hooks_in_declarations_are_known_ones():
    """A mapping is by hook's name, the alias counts as well; a misspelt one is an error."""
    looks = listening("on_train_batch_after_loss", reads={"on_train_batch_after_loss": {"loss"}})
    assert contracts_of(looks, {"on_exit_loss": "on_exit_loss"})["on_exit_loss"].reads == {"loss"}
    with pytest.raises(
        CallbackError,
        match="reads mention 'on_exit_los', a hook that it does not have; did you mean 'on_exit_loss'",
    ):
        Machine(st.supervised(), [listening("on_exit_loss", reads={"on_exit_los": {"loss"}})])


def test_paths_in_gives_the_paths_of_all_hooks():
    """A list, a lone text and a mapping of hooks are all read."""
    assert (
        paths_in(("a", "b"))
        == paths_in({"on_exit_loss": ("a",), "on_exit_step": {"b"}})
        == {"a", "b"}
    )
    assert paths_in("a") == {"a"}


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("grads", "grads", True),
        ("grads", "grads.encoder.weight", True),
        ("grads.*", "grads.encoder.weight", True),
        ("grads.a", "grads.b", False),
        ("params.**", "params.a.b.c", True),
        ("params.*.weight", "params.a.bias", False),
        ("history.lr", "history.lr_gan", False),
        ("pred", "params", False),
        ("**", "anything", True),
        ("batch[0]", "batch[1]", False),
    ],
)
def test_paths_meet_by_their_parts(one, other, meet):
    """Two paths meet if one lies within the other, globs included; the order does not matter."""
    assert overlap(one, other) is meet
    assert overlap(other, one) is meet


def test_a_declared_path_covers_what_lies_within_it():
    """Not what lies around it."""
    assert covers(parse("batch"), parse("batch.image"))
    assert covers(parse("*"), parse("pred"))
    assert covers(parse("params.*"), parse("params.encoder.weight"))
    assert not covers(parse("batch.image"), parse("batch"))


def test_monitors_are_columns_of_the_run_or_of_a_callback():
    """A column that a callback declares by hook counts; what nobody writes is refused with what is near."""
    machine = Machine(
        st.supervised(stop=st.EarlyStopping("score")),
        [listening("on_exit_epoch", writes={"on_exit_epoch": {"history.score"}})],
    )
    check_columns(machine, ["valid_loss"])
    with pytest.raises(
        ContractError, match="nothing writes the monitor 'score'; known: train_loss, valid_loss"
    ):
        check_columns(
            Machine(st.supervised(stop=st.EarlyStopping("score"))), ["train_loss", "valid_loss"]
        )


# ---------------------------------------------------------------- the analysis itself


@settings(max_examples=40, deadline=None)
@given(lifecycles())
def test_the_ways_are_those_that_the_machine_lays_out(life):
    """For every arrow and every state that it can be taken in, the analysis passes what the machine calls, in its order."""
    machine = Machine(life)
    for way in ways_of(life):
        if way.arrow.dest == FAILED:
            continue
        # Else a guard's mark
        works = [
            work
            for work in machine.plan.works(way.arrow, way.active)
            if work.kind != "effect" or work.function is way.arrow.effect
        ]
        passed = [
            doing.place[0]
            for doing in way.doings
            if doing.place is not None
            and (doing.place[0] != "action" or life.state(doing.place[1]).action)
        ]
        assert passed == [
            work.kind for work in works if work.kind in ("mode", "close", "effect", "action")
        ]


@frozen
class Step:
    """An action that writes and drops fields, of which nothing is done."""

    access: Access

    def __call__(self, ctx):
        """Nothing."""


ACCESS = some.builds(
    Step,
    some.builds(
        Access,
        reads=some.just(()),
        writes=some.sets(some.sampled_from("xyz"), max_size=2),
        drops=some.sets(some.sampled_from("xyz"), max_size=2),
    ),
)


@settings(max_examples=40, deadline=None)
@given(lifecycles(), some.data())
def test_the_solution_is_what_walking_all_ways_finds(life, data):
    """What a field may be when the guards of a state are asked is what a search of all runs meets there, field by field."""
    for name in life.names:
        life = life.replace(name, action=data.draw(ACCESS), close=None)
    for arrow in life.transitions:
        if arrow.dest != FAILED:
            life = life.alter(arrow, effect=None)
    flow = solve_with(life, {})
    for letter in "xyz":
        met = runs(life, letter)
        for arrow in life.transitions:
            if arrow.guard is None or arrow.event is not None or ("guard", arrow) not in flow.at:
                continue
            status, bit = flow.at["guard", arrow], flow.bits.get(letter, 0)
            found = (
                {
                    word
                    for word, mask in zip(("absent", "there", "gone"), status, strict=True)
                    if mask & bit
                }
                if bit
                else {"absent"}
            )
            assert found == met.get(arrow.source, set()), (letter, arrow)


def runs(life, letter):
    """What a field can be at each state, found by trying every arrow and every event everywhere."""
    met, seen, todo = {}, set(), [(START, life.start, "absent")]
    while todo:
        active, arrow, now = todo.pop()
        for name in life.crossing(active, arrow.dest)[1] if arrow.dest != FAILED else ():
            done = life.state(name).action.access
            dropped = "gone" if now == "there" and letter in done.drops else now
            for event in (
                t
                for scope in life.path(name)
                for t in life.transitions
                if t.source == scope and t.event is not None
            ):
                if (key := (name, event, dropped)) not in seen:
                    seen.add(key)
                    todo.append(key)
            now = "there" if letter in done.writes else dropped
        if arrow.dest == FAILED:
            continue
        met.setdefault(arrow.dest, set()).add(now)
        for onward in life.arrows(arrow.dest):
            if (key := (arrow.dest, onward, now)) not in seen:
                seen.add(key)
                todo.append(key)
    return met


def test_lifecycles_with_functions_of_the_users_are_not_kept():
    """A closure may hold a model: the analysis keeps only those lifecycles of which everything is declared."""

    class Model:
        pass

    model = Model()
    held = weakref.ref(model)
    machine = Machine(st.supervised(compute=lambda ctx, model=model: None))
    del machine, model
    gc.collect()
    assert held() is None
    assert solve(st.supervised(), {}) is solve(st.supervised(), {})


# ---------------------------------------------------------------- one grammar of paths


@pytest.mark.parametrize("path", ["pred..logits", "loss[", "", "[0]", "a b", "batch.***"])
def test_a_path_that_cannot_be_read_is_refused_where_it_is_declared(path):
    """By an action at its decorator, by a guard and a callback when a machine is made."""
    with pytest.raises(ContractError, match="path"):
        access(reads={path})
    never = guard(lambda ctx: False, reads={path}).named("never")
    with pytest.raises(ContractError, match=r"guard \[never\].* path"):
        Machine(st.supervised(stop=never))
    with pytest.raises(ContractError, match=r"Callback 'Looks', reads: .* path"):
        Machine(st.supervised(), [listening("on_exit_loss", reads={path})])


@pytest.mark.parametrize("declared", [5, None, {1}, [["batch"]]])
def test_a_declaration_that_is_not_text_is_refused(declared):
    """No raw error of Python: the message shows what was declared."""
    with pytest.raises(ContractError, match=r"declared as paths such as 'batch\.image'"):
        access(reads=declared)


def test_a_lone_path_is_one_path():
    """A string where a set is meant is not read letter by letter, for guards as for the others."""
    assert guard(lambda ctx: False, reads="history").reads == {"history"}
    assert access(reads="history")(lambda ctx: None).access.reads == {"history"}


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("batch['a.b']", "batch.a.b", False),
        ("batch['a.b']", "batch['a.b']", True),
        ("batch['0']", "batch[0]", True),
        ("batch[-1]", "batch[3]", True),
        ("batch[-1]", "batch[-2]", False),
        ("pred[:, 0]", "pred[:, 1]", True),
        ("pred[:2]", "pred.logits", False),
        ("batch[True]", "batch['True']", True),
        ("batch[None]", "batch[0]", True),
    ],
)
def test_paths_meet_unless_they_cannot(one, other, meet):
    """Slices and positions from the end may name what another position names; names differ."""
    assert overlap(one, other) is meet
    assert overlap(other, one) is meet


def test_values_in_buffers_are_followed():
    """What a state writes into `buffers` is read after it, and not before."""

    @access(reads={"pred"}, writes={"buffers.mean"})
    def average(ctx):
        "average"

    life = st.supervised().insert(State("average", average), between=("pred", "loss"))
    Machine(life, [listening("on_enter_loss", reads={"buffers.mean", "buffers['mean'].x"})])
    message = refused([listening("on_exit_pred", reads={"buffers.mean"})], life)
    assert "reads 'buffers.mean' on on_exit_pred, where it does not exist yet" in message
    assert "written by the action of 'average'" in message
    # What may be missing, what nothing is known to write, and what its reader writes itself
    Machine(life, [listening("on_exit_pred", reads={"buffers.mean?", "buffers.other"})])
    own = {"reads": {"buffers.mean"}, "writes": {"buffers.mean"}}
    Machine(life, [listening("on_exit_pred", **own)])


@pytest.mark.parametrize(
    "path", ["history.nonsense", "history[-1].nonsense", "history['nonsense']"]
)
def test_a_column_that_nothing_writes_is_not_read(path):
    """By a guard or a callback; with a question mark it may be missing."""
    never = guard(lambda ctx: False, reads={path}).named("never")
    with pytest.raises(ContractError, match=r"the guard \[never\].*nothing writes that column"):
        check_columns(Machine(st.supervised(stop=never)), ["valid_loss"])
    with pytest.raises(ContractError, match=r"Callback 'Looks'.*history.*nonsense"):
        check_columns(
            Machine(st.supervised(), [listening("on_exit_epoch", reads={path})]), ["valid_loss"]
        )
    fine = {f"{path}?", "history", "history[-1]", "history.rows", "history[-1].valid_loss"}
    check_columns(
        Machine(st.supervised(), [listening("on_exit_epoch", reads={*fine, "history.epoch"})]),
        ["valid_loss"],
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (st.EarlyStopping("train_loss", 2), "EarlyStopping is a guard, so write stop="),
        (lambda ctx: None, "a function becomes one with @statetrain.on"),
        ("Progress", "a text is not taken apart"),
    ],
    ids=["guard", "function", "text"],
)
def test_what_is_not_a_callback_is_told_where_it_belongs(given, words):
    """A guard goes to `stop=`, a function through `on`, and a text is not read letter by letter."""
    with pytest.raises(CallbackError, match=words):
        Machine(st.supervised(), [given])


@pytest.mark.parametrize(
    "make",
    [
        lambda: st.EarlyStopping("valid_loss", 0),
        lambda: st.Every(0, "steps"),
        lambda: st.MaxSteps(0),
        lambda: st.TimeLimit(minutes=0),
        lambda: st.Spike(factor=1.0),
        lambda: st.Spike(10.0, window=10, least=20),
    ],
)
def test_arguments_of_guards_that_cannot_be_are_config_errors(make):
    """One class of errors for all arguments that cannot make a run."""
    with pytest.raises(st.ConfigError):
        make()


def test_metrics_are_not_a_text():
    """A name is not read letter by letter."""
    with pytest.raises(st.ConfigError, match="metrics='accuracy': a metric is a function"):
        st.fit(
            nn.Linear(2, 1),
            (torch.ones(4, 2), torch.ones(4, 1)),
            loss=F.mse_loss,
            optimizer=torch.optim.SGD,
            epochs=1,
            metrics="accuracy",
        )


def test_a_custom_context_shows_its_own_fields():
    """Not the machine that walks it, nor where it stands in full."""

    @attrs.define
    class Mine(st.Position):
        rounds: int = 3

    assert repr(Mine()).endswith("Mine(rounds=3)")
    assert repr(st.Position()) == "<Position: before the run>"
