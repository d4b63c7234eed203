"""Debugging a run: stepping, breakpoints, why and why not, and the flight recorder in the notes of failures."""

import pytest
import torch
import torch.nn.functional as F

import statetrain as st
from statetrain import Lifecycle, Machine, State, Transition, guard
from statetrain.context.position import Position
from statetrain.machine.flight import folded


def started(**options) -> st.Run:
    """A fit of three batches an epoch that stands before its first transition."""
    torch.manual_seed(0)
    data = (torch.randn(12, 4), torch.randint(0, 2, (12,)))
    given = {
        "valid": data,
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "dataloader_options": {"batch_size": 4},
        "verbose": False,
        "start": False,
    }
    return st.fit(torch.nn.Linear(4, 2), data, **given | options)


# ---------------------------------------------------------------- breakpoints


def test_a_breakpoint_pauses_when_a_state_has_done_its_work():
    """At `backward` there are gradients, and the step has not been made."""
    run = started()
    with run.steps() as steps:
        point = steps.break_at("backward")
        assert steps.go() is point
        assert run.ctx.state == "backward"
        assert run.model.weight.grad is not None
        assert run.ctx.step == 0
        assert steps.go() is point
        assert (run.ctx.iter, point.hits) == (2, 2)


def test_a_condition_says_when_to_pause():
    """It reads the context; without a state it may hold in any."""
    run = started()
    with run.steps() as steps:
        steps.break_at("loss", when=lambda ctx: ctx.epoch == 2 and ctx.iter == 3)
        steps.go()
        assert (run.ctx.state, run.ctx.epoch, run.ctx.iter) == ("loss", 2, 3)
        steps.clear()
        steps.break_at(when=lambda ctx: ctx.valid_iter == 2)
        steps.go()
        assert run.ctx.state == "valid_batch"


def test_several_breakpoints_are_listed_and_removed():
    """`go` pauses at whichever comes first, and runs to the end when none is left."""
    run = started()
    steps = run.steps()
    loss, valid = steps.break_at("loss"), steps.break_at("valid")
    assert steps.breakpoints == (loss, valid)
    assert [steps.go().state for _ in range(4)] == ["loss", "loss", "loss", "valid"]
    steps.clear(loss)
    assert steps.breakpoints == (valid,)
    assert steps.go() is valid
    assert steps.go() is None
    assert run.outcome == st.Completed(2)
    assert (loss.hits, valid.hits) == (3, 2)


def test_one_goes_on_in_every_way():
    """`next` takes one transition, `until` goes to a place, `for` and `finish` past all breakpoints."""
    run = started()
    steps = run.steps()
    steps.break_at("draw")
    steps.go()
    assert str(next(steps)).startswith("draw -> batch")
    assert steps.until("step").dest == "step"
    assert next(iter(steps)).dest == "next_batch"
    assert steps.finish() is run.ctx
    assert run.outcome == st.Completed(2)


def test_what_is_changed_at_a_breakpoint_holds():
    """The live context can be looked at and changed: a learning rate of 0 keeps the weights from there on."""
    run = started(epochs=1)
    steps = run.steps()
    steps.break_at("backward", when=lambda ctx: ctx.iter == 2)
    steps.go()
    run.ctx.opt.param_groups[0]["lr"] = 0.0
    before = run.model.weight.detach().clone()
    steps.finish()
    assert torch.equal(run.model.weight, before)


def test_a_stepped_run_is_the_same_run():
    """Breakpoints, conditions and questions change nothing."""
    plain = started()
    plain.walk()
    looked = started()
    steps = looked.steps()
    steps.break_at("loss")
    while steps.go():
        str(steps.why())
        str(steps.why_not("valid"))
    assert looked.history.rows[1]["train_loss"] == plain.history.rows[1]["train_loss"]
    assert torch.equal(looked.model.weight, plain.model.weight)


def test_a_breakpoint_that_makes_no_sense():
    """A state that is not there gets a suggestion, and a condition is a function."""
    with started().steps() as steps:
        with pytest.raises(
            st.LifecycleError, match="no state 'backwards'; did you mean 'backward'"
        ):
            steps.break_at("backwards")
        with pytest.raises(TypeError, match="when must be a function of the context, got 3"):
            steps.break_at("backward", when=3)


def test_steps_say_where_they_are():
    """In a notebook, the object itself tells."""
    run = started()
    steps = run.steps()
    assert repr(steps) == "<Steps of 'supervised': before the first transition>"
    steps.until("loss")
    assert repr(steps) == "<Steps of 'supervised': in 'loss', epoch 1, batch 1, step 0>"
    steps.finish()
    assert repr(steps) == "<Steps of 'supervised': ended: Completed(epoch=2)>"


# ---------------------------------------------------------------- why


def test_why_shows_each_guard_that_was_asked():
    """The arrow taken, those before it, and each part of their guards, with reasons."""
    run = started(stop=st.TimeLimit(hours=1) | st.MaxSteps(2))
    with run.steps() as steps:
        steps.until("record")
        assert str(steps.why()).splitlines() == [
            "the run is in 'record' by next_batch -> record [stop now]",
            "  yes  next_batch -> record [stop now]",
            "         stop requested: no",
            "         after 1 hours: no",
            "         2 steps made: yes",
            "         batches left: yes",
        ]
        steps.until("end")
        assert [(way.transition.dest, way.holds) for way in steps.why().ways] == [("end", True)]


def test_why_is_that_of_the_last_decision():
    """A state that is reached without a question has none of an earlier one."""
    with started().steps() as steps:
        assert str(steps.why()) == "the run has not started"
        steps.until("batch")
        assert [str(part) for way in steps.why().ways for part in way.parts] == [
            "a batch was drawn: yes"
        ]
        steps.until("pred")
        assert str(steps.why()) == "the run is in 'pred' by batch -> pred"


def test_why_of_a_run_that_nobody_watched():
    """It follows from the table: what was asked before did not hold."""
    run = started(stop=st.EarlyStopping("valid_loss", 1, min_delta=9.0))
    run.walk()
    words = (
        "the run is in 'end' by next_epoch -> end [valid_loss has not improved for 1 row] /"
        " record the reason; outcome "
    )
    assert str(run.why()).splitlines() == [
        f"{words}Stopped('valid_loss has not improved for 1 row', epoch=2)",
        "  no   next_epoch -> end [stop now] / record the reason",
        "  yes  next_epoch -> end [valid_loss has not improved for 1 row] / record the reason",
    ]


def test_why_after_an_event():
    """What was raised, with its reason."""

    class Skip(st.Callback):
        def on_enter_pred(self, ctx):
            raise st.SkipBatch("too long")

    with started(callbacks=Skip()).steps() as steps:
        steps.until(lambda ctx: ctx.event is not None)
        assert (
            "the run is in 'next_batch' because SkipBatch('too long') was raised: batch ->"
            " next_batch SkipBatch" in str(steps.why())
        )


def test_why_after_a_failure():
    """The error, and how the run had got there."""
    run = started(loss=lambda pred, target: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        run.walk()
    assert str(caught.value.run.why()).startswith(
        "the run failed in 'loss': ZeroDivisionError: division by zero; it had got there by pred ->"
        " loss"
    )


# ---------------------------------------------------------------- why not


def test_why_not_shows_the_way_there():
    """Each decision on the shortest way, with each part of each guard as it would answer now, and where it turns off."""
    with started().steps() as steps:
        steps.until("draw")
        found = steps.why_not("valid")
        assert (
            found.words
            == "the run is in 'draw'; the shortest way to 'valid' is draw -> valid; as things stand"
            " now it would turn off to 'batch'"
        )
        assert [str(way) for way in found.ways] == [
            "yes  draw -> batch [a batch was drawn] / count the batch",
            "yes  draw -> valid [validation due]\n       every epoch: yes",
        ]


def test_why_not_from_further_away():
    """Decisions that lie further on are asked as things stand; what cannot be asked yet says so."""
    with started(non_finite="skip").steps() as steps:
        steps.until("pred")
        found = steps.why_not("step")
        assert found.words.startswith(
            "the run is in 'pred'; the shortest way to 'step' is pred -> loss -> backward -> step"
        )
        assert found.ways[0].holds is None
        assert "cannot be asked here: TypeError" in str(found)


def test_why_not_where_it_is_already_or_cannot_go():
    """In a scope that is open, after the end, and where only an event leads."""
    run = started(epochs=1)
    steps = run.steps()
    steps.until("loss")
    assert str(steps.why_not("train")) == "the run is in 'train', in its state 'loss'"
    with pytest.raises(st.LifecycleError, match="no state 'vald'; did you mean 'valid'"):
        steps.why_not("vald")
    steps.finish()
    assert "it ended with Completed(epoch=1). These arrows lead there" in str(run.why_not("valid"))
    life = Lifecycle(
        "own",
        [
            State("fit"),
            State("a", within="fit"),
            State("rescue", within="fit"),
            State("end", final=True),
        ],
        [
            Transition("fit", "a"),
            Transition("a", "end"),
            Transition("rescue", "end"),
            Transition("fit", "rescue", event=st.StopFit),
        ],
    )
    ctx = Position()
    with Machine(life).steps(ctx, until="a"):
        found = Machine(life).why_not(ctx, "rescue")
        assert "these are taken on events" in found.words
        assert [str(way.transition) for way in found.ways] == ["fit -> rescue StopFit"]


def test_why_not_asks_no_guard_that_a_run_has_not():
    """Questions leave the intervals of guards as they are."""
    run = started()
    with run.steps() as steps:
        steps.until("draw")
        marks = dict(run.ctx.marks)
        steps.why_not("valid")
        assert run.ctx.marks == marks


# ---------------------------------------------------------------- the flight recorder


def note_of(run: st.Run, error: type[BaseException]) -> str:
    with pytest.raises(error) as caught:
        run.walk()
    return "\n".join(caught.value.__notes__)


def test_a_failure_tells_of_the_last_transitions():
    """Up to the arrow that was being taken, loops told once."""

    class Boom(st.Callback):
        def on_enter_step(self, ctx):
            if ctx.epoch == 1 and ctx.iter == 3:
                raise RuntimeError("boom")

    note = " ".join(note_of(started(callbacks=Boom()), RuntimeError).split())
    assert note.endswith(
        "the last transitions: fit -> next_epoch -> epoch -> train -> (next_batch -> draw -> batch"
        " -> pred -> loss -> backward -> step) x 3"
    )


def test_a_failing_guard_has_all_transitions_before_it():
    """The run stands in the state that asks."""

    @guard
    def broken(ctx):
        "broken"
        raise ValueError("no answer")

    arrows = [Transition("a", "b"), Transition("b", "end", broken), Transition("b", "end")]
    life = Lifecycle("own", [State("a"), State("b"), State("end", final=True)], arrows)
    with pytest.raises(ValueError, match="no answer") as caught:
        Machine(life).run(Position())
    assert caught.value.__notes__[0].endswith("the last transitions: a -> b")


@pytest.mark.parametrize("engine", ["table", "transitions"])
def test_both_engines_tell_the_same(engine):
    """Events, self-loops and the arrow that fails."""

    def work(ctx):
        "work"
        ctx.marks["n"] = ctx.marks.get("n", 0) + 1
        if ctx.marks["n"] == 40:
            raise RuntimeError("enough")
        if ctx.marks["n"] % 2:
            raise st.SkipBatch

    @guard
    def again(ctx):
        "again"
        return True

    life = Lifecycle(
        "own",
        [
            State("fit"),
            State("head", within="fit"),
            State("work", work, "fit"),
            State("end", final=True),
        ],
        [
            *(
                Transition("fit", "head"),
                Transition("head", "work", again),
                Transition("head", "end"),
            ),
            *(
                Transition("work", "work", again),
                Transition("work", "head"),
                Transition("work", "head", event=st.SkipBatch),
            ),
        ],
    )
    with pytest.raises(RuntimeError) as caught:
        Machine(life, engine=engine).run(Position())
    told = " ".join(caught.value.__notes__[0].split())
    assert told.endswith(
        "the last transitions: (SkipBatch! head -> work -> work) x 10 -> SkipBatch! head -> work"
    )


def test_a_new_run_has_a_new_recorder():
    """What an earlier run of the same context did is not told."""
    run = started(epochs=1)
    run.walk()
    run.ctx.loss_fn = run.ctx.loss_fns["opt"]

    def broken(ctx):
        raise RuntimeError("boom")

    ctx = run.ctx
    life = Lifecycle(
        "own", [State("a", broken), State("end", final=True)], [Transition("a", "end")]
    )
    with pytest.raises(RuntimeError) as caught:
        Machine(life).run(ctx)
    assert caught.value.__notes__[0].endswith("the last transitions: a")


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ("", ""),
        ("a", "a"),
        ("a b c", "a -> b -> c"),
        ("a a a", "a x 3"),
        ("z a b a b a b c", "z -> (a -> b) x 3 -> c"),
        ("a b a", "a -> b -> a"),
        ("a a b a a b c", "(a -> a -> b) x 2 -> c"),
    ],
)
def test_loops_are_told_once(steps, told):
    """What repeats at once stands once, with how often."""
    assert folded(steps.split()) == told
