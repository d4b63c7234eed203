"""Ctrl-C and SIGTERM: the first asks, the second acts, and everything is as before afterwards."""

from __future__ import annotations

import signal
import threading

import pytest
import torch
from torch.nn import functional as F

import statetrain as st

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
    outside = [signal.signal(number, handler) for number, handler in zip(SIGNALS, (signal.default_int_handler, signal.SIG_DFL), strict=True)]
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
            st.fit(net, points, **options(loss=lambda pred, target: (_ for _ in ()).throw(OSError("broken"))))
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_a_signal_that_is_ignored_stays_ignored(points, net):
    "A process that was told to ignore a signal, as under nohup, does not stop for it."
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert st.fit(net, points, callbacks=Press(signal.SIGTERM), **options()).outcome == st.Completed(3)
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
    thread = threading.Thread(target=lambda: runs.append(st.fit(net, points, callbacks=Wait(), **options())))
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
