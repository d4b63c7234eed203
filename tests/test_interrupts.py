"""Signals: the first asks, the second acts, and everything is as before afterwards."""

from __future__ import annotations

import code
import signal
import sys
import threading

import pytest
import torch
from torch.nn import functional as F

import statetrain as st

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def options(**more):
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "dataloader_options": {"batch_size": 8},
        "epochs": 3,
        "trace": True,
        **more,
    }


class Press(st.Callback):
    """Sends signals on the way into the step of that number."""

    def __init__(self, *signals, step=4):
        self.signals, self.step, self.after = signals, step, []

    def on_enter_step(self, ctx):
        if ctx.step + 1 == self.step:
            for number in self.signals:
                signal.raise_signal(number)
                self.after.append(number)


@pytest.fixture(autouse=True)
def handlers():
    "Python's own handlers are there before every test, whatever started the tests, and after it."
    outside = [
        signal.signal(number, handler)
        for number, handler in zip(
            SIGNALS, (signal.default_int_handler, *[signal.SIG_DFL] * 3), strict=True
        )
    ]
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    after = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in zip(SIGNALS, outside, strict=True):
        signal.signal(number, handler)
    assert after == before


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_one_ends_the_run_in_order(number, points, net):
    "The batch is finished, the row is written, every scope is closed, and the run is returned as interrupted."
    run = st.fit(net, points, callbacks=Press(number), **options())
    assert run.outcome == st.Interrupted(2, number.name)
    assert not run.outcome.ok
    assert run.ctx.step == 4
    assert [(row["step"], row["epoch_complete"]) for row in run.history] == [(3, True), (4, False)]
    assert run.trace.states[-5:] == ["step", "next_batch", "record", "next_epoch", "end"]


def test_the_second_one_acts_at_once(points, net):
    "A second Ctrl-C leaves the fit where it is: the step is not made, and the run is still there."
    press = Press(signal.SIGINT, signal.SIGINT)
    before = []
    run = st.fit(net, points, callbacks=[press, Before(before)], **options())
    assert press.after == [signal.SIGINT]  # the second call never came back
    assert run.outcome == st.Interrupted(2, "SIGINT")
    assert run.ctx.step == 3
    assert run.trace.states[-2:] == ["step", "end"]
    assert len(run.history) == 1
    assert torch.is_grad_enabled()
    assert all(module.training for module in net.modules())
    assert before == ["fit"]


class Before(st.Callback):
    """Notes that the fit's exit hook ran, also when it is left in a hurry."""

    def __init__(self, notes):
        self.notes = notes

    def on_exit_fit(self, ctx):
        self.notes.append("fit")


@pytest.mark.parametrize("state", ["draw", "pred", "valid_pred", "record"])
def test_it_is_heard_in_every_state(state, points, net):
    "Two in a row, in training or in validation, in a hook or while the model computes, end the run as interrupted."

    class Twice(st.Callback):
        pass

    def press(self, ctx):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    setattr(Twice, f"on_enter_{state}", press)
    run = st.fit(net, points, valid=[points], callbacks=Twice(), **options())
    assert run.outcome == st.Interrupted(1, "SIGINT")


def test_it_is_heard_while_the_model_computes(points):
    "The second signal interrupts the forward pass itself."

    class Slow(torch.nn.Linear):
        def forward(self, x):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("not reached")

    run = st.fit(Slow(4, 3), points, **options())
    assert run.outcome == st.Interrupted(1, "SIGINT")
    assert run.trace.states[-2:] == ["pred", "end"]


def test_a_validation_that_is_interrupted_is_dropped(points, net):
    "The first signal in a validation acts at its next batch; half a validation makes no value."

    class During(st.Callback):
        def on_enter_valid_loss(self, ctx):
            signal.raise_signal(signal.SIGTERM)

    run = st.fit(net, points, valid=[points, points], callbacks=During(), **options())
    assert run.outcome == st.Interrupted(1, "SIGTERM")
    assert run.ctx.valid_iter == 1
    assert "valid_loss" not in run.history[0]


def test_an_interrupt_can_be_raised_instead(points, net):
    "on_interrupt='raise' ends the run in order and then raises KeyboardInterrupt, which carries the run."
    with pytest.raises(KeyboardInterrupt) as caught:
        st.fit(net, points, callbacks=Press(signal.SIGINT), on_interrupt="raise", **options())
    run = caught.value.run
    assert run.outcome == st.Interrupted(2, "SIGINT")
    assert len(run.history) == 2


def test_going_on_after_an_interrupt(points, net):
    "run.fit goes on with more epochs; the signal is not remembered, and a new one is heard."
    run = st.fit(net, points, callbacks=Press(signal.SIGINT), **options())
    run.fit(epochs=1)
    assert run.outcome == st.Completed(3)
    assert run.ctx.step == 7
    again = Press(signal.SIGINT, step=8)
    run.machine.callbacks[0].signals, run.machine.callbacks[0].step = again.signals, again.step
    run.fit(epochs=3)
    assert run.outcome == st.Interrupted(4, "SIGINT")
    assert run.ctx.step == 8  # the first of this fit is no second one
    run.machine.callbacks[0].signals = ()

    class Ask(st.Callback):
        def on_enter_step(self, ctx):
            ctx.request_stop("something else")

    again = st.Run(run.ctx, st.Machine(run.lifecycle, Ask()))
    again.fit(epochs=1)
    assert again.outcome == st.Stopped(5, "something else")


def test_handlers_are_put_back_after_a_failure(points, net):
    "An error inside the run does not leave the run's handlers behind."

    def own(number, frame):
        raise AssertionError("not called")

    previous = signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(OSError, match="broken"):
            st.fit(
                net,
                points,
                **options(loss=lambda pred, target: (_ for _ in ()).throw(OSError("broken"))),
            )
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_a_signal_that_is_ignored_stays_ignored(points, net):
    "A process that was told to ignore a signal, as under nohup, does not stop for it."
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert st.fit(
            net, points, callbacks=Press(signal.SIGTERM), **options()
        ).outcome == st.Completed(3)
    finally:
        signal.signal(signal.SIGTERM, previous)


def in_a_thread(function):
    results = []

    def work():
        try:
            results.append(function())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=60)
    return results[0]


def test_a_fit_in_a_thread_installs_no_handlers(points, net):
    "Outside the main thread, where Python allows none, a fit works without."
    handlers = []

    class Look(st.Callback):
        def on_enter_step(self, ctx):
            handlers.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    run = in_a_thread(lambda: st.fit(net, points, callbacks=Look(), **options()))
    assert run.outcome == st.Completed(3)
    assert set(handlers) == {before}


def test_a_thread_goes_on_with_an_interrupted_run(points, net):
    "A run that was interrupted in the main thread and goes on in another is not interrupted again."
    run = st.fit(net, points, callbacks=Press(signal.SIGINT), **options())
    in_a_thread(lambda: run.fit(epochs=1))
    assert run.outcome == st.Completed(3)


def test_a_request_from_another_thread_stops_the_run(points, net):
    "A fit in a thread is stopped from outside by a request."
    reached, asked = threading.Event(), threading.Event()

    class Wait(st.Callback):
        def on_enter_step(self, ctx):
            contexts.append(ctx)
            reached.set()
            asked.wait(60)

    contexts, runs = [], []
    thread = threading.Thread(
        target=lambda: runs.append(st.fit(net, points, callbacks=Wait(), **options()))
    )
    thread.start()
    assert reached.wait(60)
    contexts[0].request_stop("from outside")
    asked.set()
    thread.join(60)
    assert runs[0].outcome == st.Stopped(1, "from outside")
    assert runs[0].ctx.step == 1


def test_evaluate_passes_an_interrupt_on(points, net):
    "A part of the data has no loss of the whole: an interrupted evaluate or predict raises KeyboardInterrupt."

    class During(st.Callback):
        def on_enter_valid_pred(self, ctx):
            signal.raise_signal(signal.SIGINT)

        def on_enter_predict_pred(self, ctx):
            signal.raise_signal(signal.SIGINT)

    run = st.fit(net, points, **options())
    for ask in (run.evaluate, run.predict):
        with pytest.raises(KeyboardInterrupt, match="SIGINT"):
            ask([points, points], callbacks=During())
    assert run.outcome == st.Completed(3)


def test_an_evaluation_inside_a_callback_is_interrupted_with_its_fit(points, net):
    "Ctrl-C during an evaluate that a callback makes ends the fit too, as interrupted."

    class During(st.Callback):
        def on_enter_valid_pred(self, ctx):
            signal.raise_signal(signal.SIGINT)

    class Evaluate(st.Callback):
        def on_exit_epoch(self, ctx):
            st.evaluate(ctx.model, points, loss=F.cross_entropy, callbacks=During())

    run = st.fit(net, points, callbacks=Evaluate(), **options())
    assert isinstance(run.outcome, st.Interrupted)
    assert run.outcome.epoch == 1


# ---------------------------------------------------------------- how the process ends


@pytest.mark.parametrize("presses", [1, 2])
@pytest.mark.parametrize("number", SIGNALS)
def test_the_process_can_end_with_the_code_that_a_scheduler_expects(number, presses, points, net):
    "on_interrupt='exit' ends the run, in order or at once, and then the process with 128 and the signal's number; the error carries the run."
    with pytest.raises(SystemExit) as caught:
        st.fit(net, points, callbacks=Press(*[number] * presses), on_interrupt="exit", **options())
    assert caught.value.code == 128 + number == caught.value.run.outcome.exit_code
    assert caught.value.run.outcome == st.Interrupted(2, number.name)
    assert len(caught.value.run.history) == (2 if presses == 1 else 1)


def test_other_reasons_exit_as_for_ctrl_c():
    "An interrupt that names no signal, as from a thread, counts as Ctrl-C; and the usual codes are the usual codes."
    assert [
        st.Interrupted(1, reason).exit_code
        for reason in ("KeyboardInterrupt", "SIGINT", "SIGTERM", "SIGHUP")
    ] == [130, 130, 143, 129]


def test_a_run_that_was_not_interrupted_does_not_exit(points, net):
    "on_interrupt='exit' returns a run that came to its end."
    assert st.fit(net, points, on_interrupt="exit", **options()).outcome == st.Completed(3)


def test_an_unknown_way_to_end_is_refused(points, net):
    "With the nearest one."
    with pytest.raises(st.ConfigError, match="did you mean 'exit'"):
        st.fit(net, points, on_interrupt="exitt", **options())


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_handler_of_ones_own_for_a_spare_signal_is_left(number, points, net):
    "A process that does something of its own on SIGUSR1 or SIGHUP still does, and the run goes on."
    heard = []
    previous = signal.signal(number, lambda *_: heard.append(number))
    try:
        assert st.fit(net, points, callbacks=Press(number), **options()).outcome == st.Completed(3)
    finally:
        signal.signal(number, previous)
    assert heard == [number, number, number][: len(heard)]
    assert heard


# ---------------------------------------------------------------- a run within a run


class Inner(st.Callback):
    """Does something of its own after each epoch, with a signal in the middle of it."""

    def __init__(self, work):
        self.work, self.came_back = work, []

    def on_exit_epoch(self, ctx):
        self.came_back.append(self.work(ctx))


def test_a_fit_within_a_fit_does_not_keep_the_signal_for_itself(points, net):
    "One Ctrl-C within the inner fit stops both in order: the inner one at its next batch, the outer one at its next anchor."
    inner = Inner(
        lambda ctx: st.fit(
            torch.nn.Linear(4, 3), points, callbacks=Press(signal.SIGINT, step=2), **options()
        )
    )
    run = st.fit(net, points, callbacks=inner, **options())
    assert [one.outcome for one in inner.came_back] == [st.Interrupted(1, "SIGINT")]
    assert inner.came_back[0].ctx.step == 2
    assert run.outcome == st.Interrupted(1, "SIGINT")
    assert [row["epoch_complete"] for row in run.history] == [True]


def test_two_signals_within_an_inner_fit_end_both_at_once(points, net):
    "The second one is not lost between the two: the outer run takes its KeyboardInterrupt where the inner one was called."
    inner = Inner(
        lambda ctx: st.fit(
            torch.nn.Linear(4, 3),
            points,
            callbacks=Press(signal.SIGTERM, signal.SIGTERM),
            **options(),
        )
    )
    run = st.fit(net, points, callbacks=inner, **options())
    assert inner.came_back == []
    assert run.outcome == st.Interrupted(1, "SIGTERM")
    assert run.trace.states[-1] == "end"


def test_a_signal_for_each_run_is_two(points, net):
    "A signal that comes to the outer run first and to the inner one afterwards is a second one."

    def work(ctx):
        signal.raise_signal(signal.SIGINT)
        return st.fit(
            torch.nn.Linear(4, 3), points, callbacks=Press(signal.SIGINT, step=2), **options()
        )

    inner = Inner(work)
    run = st.fit(net, points, callbacks=inner, **options())
    assert inner.came_back == []
    assert run.outcome == st.Interrupted(1, "SIGINT")


def test_an_evaluation_within_a_fit_is_finished(points, net):
    "A part of it would be of no use: the first signal stops the fit alone, after the evaluation."
    rest = Inner(
        lambda ctx: st.evaluate(net, [points, points], loss=F.cross_entropy, callbacks=During())
    )
    run = st.fit(net, points, callbacks=rest, **options())
    assert [list(values) for values in rest.came_back] == [["loss"]]
    assert run.outcome == st.Interrupted(1, "SIGINT")


class During(st.Callback):
    """A signal in the first batch of an evaluation."""

    def on_enter_valid_loss(self, ctx):
        if ctx.valid_iter == 1:
            signal.raise_signal(signal.SIGINT)


def test_an_evaluation_alone_is_interrupted(points, net):
    "Without a fit around it, Ctrl-C is a KeyboardInterrupt."
    with pytest.raises(KeyboardInterrupt):
        st.evaluate(net, [points, points], loss=F.cross_entropy, callbacks=During())


def test_after_an_inner_run_the_outer_one_hears_again(points, net):
    "The inner fit puts back the handlers of the outer one."
    inner = Inner(lambda ctx: st.fit(torch.nn.Linear(4, 3), points, **options()))
    run = st.fit(net, points, callbacks=[inner, Press(signal.SIGTERM, step=5)], **options())
    assert run.outcome == st.Interrupted(2, "SIGTERM")
    assert inner.came_back[0].outcome == st.Completed(3)


# ---------------------------------------------------------------- in a notebook


class Cells(code.InteractiveInterpreter):
    """Runs cells one after the other, as a notebook's kernel does: what is raised ends the cell, and the names stay."""

    def __init__(self, names):
        super().__init__(names)
        self.raised = []

    def run(self, cell):
        before = len(self.raised)
        self.runcode(compile(cell, "<cell>", "exec"))
        return self.raised[before:]

    def showtraceback(self):
        self.raised.append(sys.exc_info()[0])


def test_a_cell_is_stopped_looked_at_and_gone_on_with(points, tmp_path):
    "The stop button in fit, a look at the run, run.resume(): the run ends as one that was never stopped."
    given = options(clock=lambda: 0.0)
    names = {
        "st": st,
        "torch": torch,
        "points": points,
        "options": given,
        "stop": Press(signal.SIGINT, step=5),
        "folder": tmp_path / "run",
    }
    cells = Cells(names)
    made = "torch.manual_seed(0); net = torch.nn.Linear(4, 3)"
    assert cells.run(f"{made}; whole = st.fit(net, points, seed=1, **options)") == []
    assert (
        cells.run(
            f"{made}; run = st.fit(net, points, seed=1, callbacks=[st.Checkpoint(folder), stop],"
            " **options)"
        )
        == []
    )
    assert (
        cells.run(
            "seen = (run.outcome, run.ctx.step, len(run.history), run.model is net, net.training)"
        )
        == []
    )
    assert names["seen"] == (st.Interrupted(2, "SIGINT"), 5, 2, True, True)
    assert cells.run("stop.signals = (); run.resume()") == []
    assert names["run"].outcome == st.Completed(3)
    assert list(names["run"].history) == list(names["whole"].history)
    assert torch.equal(names["run"].model.weight, names["whole"].model.weight)


def test_a_cell_without_checkpoints_goes_on_with_the_next_epoch(points):
    "run.walk() begins a new epoch: without a checkpoint, nobody knows the place within the one that was stopped."
    names = {
        "st": st,
        "torch": torch,
        "points": points,
        "options": options(),
        "stop": Press(signal.SIGINT, step=5),
    }
    cells = Cells(names)
    cells.run("run = st.fit(torch.nn.Linear(4, 3), points, callbacks=stop, **options)")
    assert names["run"].outcome == st.Interrupted(2, "SIGINT")
    assert cells.run("stop.signals = (); run.walk()") == []
    assert names["run"].outcome == st.Completed(3)
    assert names["run"].ctx.step == 5 + 3


def test_a_cell_that_steps_is_stopped_between_two_steps(points):
    "KeyboardInterrupt between two transitions leaves the steps where they are, and the next cell takes them up."
    names = {
        "st": st,
        "torch": torch,
        "points": points,
        "options": options(),
        "press": lambda: signal.raise_signal(signal.SIGINT),
    }
    cells = Cells(names)
    cells.run(
        "run = st.fit(torch.nn.Linear(4, 3), points, start=False, **options); steps = run.steps()"
    )
    assert cells.run("for arrow in steps:\n    if run.ctx.step == 4: press()") == [
        KeyboardInterrupt
    ]
    assert (names["run"].ctx.step, names["run"].outcome) == (4, None)
    assert cells.run("steps.finish()") == []
    assert names["run"].outcome == st.Completed(3)
    assert names["run"].ctx.step == 9


def test_a_cell_that_is_stopped_within_a_step_ends_the_run_in_order(points):
    "KeyboardInterrupt inside a hook or an action takes the arrow that names it; the run can go on from there."
    names = {
        "st": st,
        "torch": torch,
        "points": points,
        "options": options(),
        "stop": Press(signal.SIGINT, step=5),
    }
    cells = Cells(names)
    cells.run("run = st.fit(torch.nn.Linear(4, 3), points, start=False, callbacks=stop, **options)")
    assert cells.run("run.steps().finish()") == []
    assert names["run"].outcome == st.Interrupted(2, "KeyboardInterrupt")
    assert cells.run("stop.signals = (); run.walk()") == []
    assert names["run"].outcome == st.Completed(3)
