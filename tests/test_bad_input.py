"""What cannot work says what is wrong, what was got and what to do, as early as it can be known, and leaves the run intact."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from reference import bits
from torch.nn import functional as F

import statetrain as st


class Batches(list):
    """A list of batches that counts how often it is gone through."""

    opened = 0

    def __iter__(self):
        self.opened += 1
        return super().__iter__()


@pytest.fixture
def batches(points):
    "Three batches of 8, 8 and 6."
    return Batches(zip(points[0].split(8), points[1].split(8), strict=True))


def options(**more):
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        **more,
    }


def elsewhere():
    return torch.optim.SGD(torch.nn.Linear(4, 3).parameters(), lr=0.1)


@st.guard
def a_guard(ctx):
    "a guard"
    return False


class Misspelt(st.Callback):
    def on_enter_bacth(self, ctx): ...


class NoHook(st.Callback):
    def on_batch(self, ctx): ...


class WrongArguments(st.Callback):
    def on_enter_batch(self): ...


class Coroutine(st.Callback):
    async def on_enter_batch(self, ctx): ...


class Fine(st.Callback):
    def on_enter_batch(self, ctx): ...


FINE = Fine()

ARGUMENTS = {
    # models
    "no model": (
        None,
        {},
        st.ConfigError,
        "model must be a torch.nn.Module or a class of one, got None",
    ),
    "a function as model": (
        len,
        {},
        st.ConfigError,
        "model must be a torch.nn.Module or a class of one, got <built-in function len>",
    ),
    "another class as model": (dict, {}, st.ConfigError, "got <class 'dict'>"),
    "a class with wrong hparams": (
        torch.nn.Linear,
        {"hparams": {"in_features": 4}},
        TypeError,
        "missing 1 required positional argument",
    ),
    "hparams for an instance": (
        ...,
        {"hparams": {"width": 3}},
        st.ConfigError,
        "hparams are for making a model; this one is made already",
    ),
    "no parameters": (
        torch.nn.ReLU(),
        {},
        st.ConfigError,
        "the model has no parameter to train: ReLU has none that requires a gradient",
    ),
    "all frozen": (
        torch.nn.Linear(4, 3).requires_grad_(False),
        {},
        st.ConfigError,
        "the model has no parameter to train: Linear has none",
    ),
    # optimizers
    "no optimizer": (
        ...,
        {"optimizer": None},
        st.ConfigError,
        "fit needs an optimizer; give optimizer=torch.optim.Adam",
    ),
    "no optimizers": (..., {"optimizer": {}}, st.ConfigError, "optimizer={} names no optimizer"),
    "a word as optimizer": (
        ...,
        {"optimizer": "adam"},
        st.ConfigError,
        "optimizer must be an optimizer, its class, or a mapping of names to these, got 'adam'",
    ),
    "a function that makes none": (
        ...,
        {"optimizer": lambda parameters, lr: 3},
        st.ConfigError,
        "optimizer 'opt' must make a torch.optim.Optimizer, got int",
    ),
    "another model's optimizer": (
        ...,
        {"optimizer": elsewhere(), "opt_hparams": None},
        st.ConfigError,
        "optimizer 'opt' has none of the model's parameters",
    ),
    "opt_hparams for an instance": (
        ...,
        {"optimizer": elsewhere()},
        st.ConfigError,
        "opt_hparams are for making an optimizer; 'opt' is made already",
    ),
    "misspelt opt_hparams": (
        ...,
        {"opt_hparams": {"lrr": 1}},
        st.ConfigError,
        "opt_hparams {'lrr': 1} do not make the optimizer SGD: ",
    ),
    "a negative learning rate": (
        ...,
        {"opt_hparams": {"lr": -1.0}},
        st.ConfigError,
        "do not make the optimizer SGD: Invalid learning rate: -1.0",
    ),
    "a learning rate that is NaN": (
        ...,
        {"opt_hparams": {"lr": math.nan}},
        st.ConfigError,
        "has the learning rate nan, which is no finite number",
    ),
    "an infinite learning rate": (
        ...,
        {"opt_hparams": {"lr": math.inf}},
        st.ConfigError,
        "has the learning rate inf, which is no finite number",
    ),
    "an optimizer for no part": (
        ...,
        {"optimizer": {"head": torch.optim.SGD}},
        st.ConfigError,
        "takes the parameters of model.head, which is no module",
    ),
    # losses
    "no loss": (
        ...,
        {"loss": None},
        st.ConfigError,
        (
            "loss must be a function of prediction and target, got none; for example"
            " loss=torch.nn.functional.cross_entropy"
        ),
    ),
    "a loss class": (
        ...,
        {"loss": torch.nn.CrossEntropyLoss},
        st.ConfigError,
        "got the class CrossEntropyLoss; write CrossEntropyLoss()",
    ),
    "a word as loss": (
        ...,
        {"loss": "mse"},
        st.ConfigError,
        "loss must be a function of prediction and target, got 'mse'",
    ),
    "losses of other names": (
        ...,
        {"loss": {"critic": F.cross_entropy}},
        st.ConfigError,
        "loss names ['critic'] must be those of the optimizers, ['opt']",
    ),
    # numbers
    **{
        f"epochs={value!r}": (
            ...,
            {"epochs": value},
            st.ConfigError,
            f"epochs must be a whole number of at least 0, or (least, most), got {value!r}",
        )
        for value in (-1, 1.5, "3", True, (1,), (1, 2, 3), (0, -1), (1.0, 2), [1, 2])
    },
    "least above most": (
        ...,
        {"epochs": (5, 3)},
        st.ConfigError,
        "epochs=(5, 3): the least number is above the most; write (least, most)",
    ),
    "no end": (
        ...,
        {"epochs": None},
        st.ConfigError,
        "epochs=None has no end; give max_steps= or stop=, or a number of epochs",
    ),
    **{
        f"{name}={value!r}": (
            ...,
            {name: value},
            st.ConfigError,
            f"{name} must be a whole number of at least 1, got {value!r}",
        )
        for name in ("accumulate", "max_steps")
        for value in (0, -3, 2.0, True, "2")
    },
    **{
        f"seed={value!r}": (
            ...,
            {"seed": value},
            st.ConfigError,
            f"seed must be a whole number from 0 to 2**63 - 1, or None, got {value!r}",
        )
        for value in (-1, 2**64, 0.5, True)
    },
    "a misspelt policy": (
        ...,
        {"non_finite": "skipp"},
        st.ConfigError,
        (
            "non_finite must be one of 'raise', 'skip', 'stop', 'ignore', or a RollBack(), got"
            " 'skipp'; did you mean 'skip'"
        ),
    ),
    "a misspelt word": (
        ...,
        {"on_interrupt": "rais"},
        st.ConfigError,
        "on_interrupt must be one of 'return', 'raise', 'exit', got 'rais'; did you mean 'raise'",
    ),
    # devices
    "an unknown device": (..., {"device": "gpu"}, st.ConfigError, "device 'gpu' cannot be used: "),
    # stopping and validation
    "an unknown monitor": (
        *(..., {"stop": st.EarlyStopping("train_los")}, st.ConfigError),
        (
            "nothing writes the monitor 'train_los'; did you mean 'train_loss'?; this run has no"
            " validation data, give valid= (monitored by [train_los has not improved"
        ),
    ),
    "a monitor without validation": (
        ...,
        {"stop": a_guard | st.Threshold("valid_loss", 0.1)},
        st.ConfigError,
        "this run has no validation data, give valid=",
    ),
    "a monitor inside a guard": (
        ...,
        {"stop": ~(a_guard | st.Threshold("accuracy", 1))},
        st.ConfigError,
        "nothing writes the monitor 'accuracy'",
    ),
    "a stop before the start": (
        ...,
        {"stop": ~st.Threshold("train_loss", 1)},
        st.ConfigError,
        "so the run would end before its first epoch; turn the criterion round",
    ),
    "a guard's class": (
        ...,
        {"stop": st.EarlyStopping},
        st.GuardError,
        "give an instance: EarlyStopping(...)",
    ),
    "a number as guard": (
        ...,
        {"stop": 5},
        st.GuardError,
        "a guard is a function of the context or a Guard, got 5",
    ),
    "an interval for nothing": (
        ...,
        {"validate": st.Every(2, "epochs")},
        st.ConfigError,
        "validate would not be used: there is no validation data; give valid=",
    ),
    "a validation for nothing": (
        ...,
        {"valid_compute": len},
        st.ConfigError,
        "valid_compute would not be used: there is no validation data",
    ),
    "metrics for nothing": (
        ...,
        {"valid_metrics": max},
        st.ConfigError,
        "valid_metrics would not be used: there is no validation data",
    ),
    "a number as validation": (
        ...,
        {"valid": True},
        st.ConfigError,
        (
            "valid must be a DataLoader, a Dataset, tensors, arrays or an iterable of batches, got"
            " bool"
        ),
    ),
    "a share of batches": (
        ...,
        {"valid": 0.2},
        st.ConfigError,
        "valid=0.2 draws samples from the training data, which a Batches does not allow",
    ),
    # callbacks
    "None as callbacks": (
        ...,
        {"callbacks": None},
        st.CallbackError,
        "a callback is an instance of statetrain.Callback, got None",
    ),
    "None as a callback": (
        ...,
        {"callbacks": [None]},
        st.CallbackError,
        "a callback is an instance of statetrain.Callback, got None",
    ),
    "a class as callbacks": (
        ...,
        {"callbacks": Fine},
        st.CallbackError,
        "callbacks are instances, got the class Fine; write Fine()",
    ),
    "a class as a callback": (
        ...,
        {"callbacks": [Fine]},
        st.CallbackError,
        "callbacks are instances, got the class Fine; write Fine()",
    ),
    "a function as callback": (
        ...,
        {"callbacks": print},
        st.CallbackError,
        "a callback is an instance of statetrain.Callback, got <built-in function print>",
    ),
    "the same callback twice": (
        ...,
        {"callbacks": [FINE, FINE]},
        st.CallbackError,
        "callback 'Fine' was given twice; each instance listens once",
    ),
    "a misspelt hook": (
        ...,
        {"callbacks": Misspelt()},
        st.CallbackError,
        (
            "'on_enter_bacth': no state 'bacth' in lifecycle 'supervised'; did you mean"
            " 'on_enter_batch'"
        ),
    ),
    "a hook of no kind": (..., {"callbacks": NoHook()}, st.CallbackError, "has 'on_batch'"),
    "a hook without the context": (
        ...,
        {"callbacks": WrongArguments()},
        st.CallbackError,
        "must take the context as its only argument: def on_enter_batch(self, ctx)",
    ),
    "a coroutine as hook": (
        ...,
        {"callbacks": Coroutine()},
        st.CallbackError,
        "on_enter_batch is a coroutine or generator and would never run",
    ),
    # options beside a lifecycle
    "options beside a lifecycle": (
        *(
            ...,
            {"lifecycle": st.supervised(validate=None), "accumulate": 4, "stop": a_guard},
            st.ConfigError,
        ),
        (
            "stop, accumulate would not be used: lifecycle 'supervised' is made already; make it"
            " with them: supervised(stop=...)"
        ),
    ),
    "a lifecycle that validates": (
        ...,
        {"lifecycle": st.supervised()},
        st.ConfigError,
        "has a state 'valid', but there is no validation data; give valid=",
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_wrong_arguments_are_refused_before_anything_happens(case, batches, net):
    "The message says what, got and remedy; no batch is drawn, no weight is touched, no mode is changed."
    model, more, kind, message = ARGUMENTS[case]
    net.eval()
    before = bits(net)
    with pytest.raises(kind) as caught:
        st.fit(net if model is ... else model, batches, **options(**more))
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert message in said
    assert batches.opened == 0
    assert bits(net) == before
    assert not net.training
    assert not hasattr(caught.value, "run")


@pytest.mark.parametrize("share", [0, 1, -0.2, 1.0, 1.5, math.nan, math.inf])
def test_a_share_is_between_0_and_1(share, points, net):
    "A validation share that is none is named."
    with pytest.raises(
        st.ConfigError,
        match=rf"^valid={share!r}: a share of the training data must lie between 0 and 1",
    ):
        st.fit(net, points, valid=share, **options())


@pytest.mark.parametrize(
    ("samples", "share", "train", "valid"), [(22, 0.04, 22, 0), (1, 0.5, 1, 0)]
)
def test_a_share_leaves_both_sides_something(samples, share, train, valid, points, net):
    "A share that would leave a side empty says how many samples there would be."
    data = tuple(part[:samples] for part in points)
    with pytest.raises(
        st.ConfigError,
        match=(
            rf"of {samples} samples leaves {train} for training and {valid} for validation; each"
            r" needs one"
        ),
    ):
        st.fit(net, data, valid=share, **options())


def test_several_optimizers_do_not_accumulate(batches, net):
    "Accumulation with several optimizers has no one meaning, and the error points to an own lifecycle."
    both = {
        "first": torch.optim.SGD(net[0].parameters(), lr=0.1),
        "last": torch.optim.SGD(net[3].parameters(), lr=0.1),
    }
    with pytest.raises(
        st.ConfigError, match=r"is a window one of each, or of all.* start from supervised"
    ):
        st.fit(net, batches, accumulate=2, **options(optimizer=both, opt_hparams=None))


def test_validation_needs_a_loss_too(batches, net):
    "With compute= alone, validation has nothing to compute, which is said before training."
    plain = {"optimizer": torch.optim.SGD, "opt_hparams": {"lr": 0.1}, "epochs": 1}
    with pytest.raises(
        st.ConfigError,
        match=(
            "state 'valid_loss' needs a loss, a function of prediction and target; give loss=, or"
            " valid_compute="
        ),
    ):
        st.fit(net, batches, valid=batches, compute=len, **plain)
    assert batches.opened == 0


@pytest.mark.parametrize("interval", [1, 0.5, 100])
def test_an_interval_has_a_unit(interval, batches, net):
    "validate=1 could be an epoch or a step, so it is neither."
    with pytest.raises(
        st.ConfigError,
        match=(
            rf"validate takes an interval with its unit, got {interval}; write Every\({interval},"
            r' "epochs"\)'
        ),
    ):
        st.fit(net, batches, valid=batches, validate=interval, **options())


def test_processes_that_cannot_find_each_other_are_refused(batches, net, monkeypatch):
    "Several processes without an address to meet at would train apart; that is said at once, in fit, evaluate and predict."
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)
    for ask in (
        lambda: st.fit(net, batches, **options()),
        lambda: st.evaluate(net, batches, loss=F.cross_entropy),
        lambda: st.predict(net, batches),
    ):
        with pytest.raises(st.ConfigError, match="WORLD_SIZE is 4, but RANK is not set"):
            ask()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert st.fit(net, batches, **options()).outcome == st.Completed(2)


# ---------------------------------------------------------------- what only a batch can show


class Trouble:
    """Something that goes wrong until it is mended."""

    def __init__(self, wrong, right):
        self.wrong, self.right, self.mended = wrong, right, False

    def __call__(self, *args):
        return self.right(*args) if self.mended else self.wrong(*args)


def raises(error):
    def function(*args):
        raise error

    return function


LOSSES = {
    "of each sample": (
        lambda p, t: F.cross_entropy(p, t, reduction="none"),
        st.LossError,
        "the loss must be a scalar, got shape (8,); reduce it, for example with .mean()",
    ),
    "a number": (
        lambda p, t: F.cross_entropy(p, t).item(),
        st.LossError,
        "the loss must be a tensor of shape (), got float: ",
    ),
    "nothing": (
        lambda p, t: None,
        st.LossError,
        "the loss must be a tensor of shape (), got NoneType: None; return it as a tensor",
    ),
    "a pair": (
        lambda p, t: (F.cross_entropy(p, t), {}),
        st.LossError,
        "the loss must be a tensor of shape (), got tuple",
    ),
    "detached": (
        lambda p, t: F.cross_entropy(p, t).detach(),
        st.LossError,
        "the loss has no gradient: nothing that it was computed from requires one",
    ),
    "an integer": (lambda p, t: (p.argmax(1) != t).sum(), st.LossError, "the loss has no gradient"),
    "of numpy": (lambda p, t: np.float32(0.5), st.LossError, "the loss has no gradient"),
    "complex": (
        lambda p, t: torch.complex(p.mean(), p.mean()),
        st.LossError,
        "the loss must be a real number, got torch.complex64; take its .real or .abs()",
    ),
    "broken": (raises(OSError("no space left")), OSError, "no space left"),
    "a stop iteration": (
        raises(StopIteration()),
        st.MachineError,
        "StopIteration was raised by the action of 'loss'; it never ends an epoch",
    ),
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_loss_that_cannot_be_trained_on(case, batches, net):
    "It is found in the first batch, before a weight has moved; the run is intact and goes on when the loss is mended."
    wrong, kind, message = LOSSES[case]
    loss = Trouble(wrong, F.cross_entropy)
    before = bits(net)
    with pytest.raises(kind, match=re.escape(message)) as caught:
        st.fit(net, batches, **options(loss=loss))
    assert bits(net) == before
    intact(caught.value, net, epoch=1, batch=1, step=0)
    loss.mended = True
    goes_on(caught.value.run)


def intact(error, net, *, epoch, batch, step, rows=0):
    "The error carries a run that knows how it ended, and a note that says where."
    run = error.run
    assert isinstance(run.outcome, st.Failed)
    for kept in (run.outcome.error, run.ctx.error):  # a copy, so that both are freed with it
        assert (type(kept), kept.args) == (type(error), error.args)
        assert kept.__traceback__ is None
    assert run.model is net
    assert len(run.history) == rows
    assert run.ctx.step == step
    assert f"epoch {epoch}, batch {batch}, step {step}" in error.__notes__[0]
    assert f"in state {run.outcome.state!r} of lifecycle 'supervised'" in error.__notes__[0]
    assert repr(run).startswith("<Run 'supervised': Failed(")
    assert "Failed" in str(run.ctx)
    assert net.training
    assert torch.is_grad_enabled()


def goes_on(run):
    "A failed run goes on with more epochs, and can be asked."
    epochs, rows = run.ctx.epoch, len(run.history)
    run.fit(epochs=2)
    assert run.outcome == st.Completed(epochs + 2)
    assert run.ctx.error is None
    assert len(run.history) == rows + 2
    assert math.isfinite(run.history["train_loss"][-1])


OUTPUTS = {
    "nothing": (lambda x: None, "the model returned None; does its forward end with a return?"),
    "a dict": (
        lambda x: {"logits": x[:, :3]},
        (
            "the model returned a dict with 'logits'; name the part that the loss takes with"
            " pred='logits'"
        ),
    ),
    "a tuple": (
        lambda x: (x[:, :3], x),
        "the model returned a tuple of 2; name the part that the loss takes with pred='[0]'",
    ),
    "a number": (lambda x: 3.0, "the model returned a float; name the part"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_a_model_that_returns_the_wrong_thing(case, batches):
    "The error of the loss has a note that says what the model returned and how to name the part."
    wrong, note = OUTPUTS[case]

    class Model(torch.nn.Linear):
        mended = False

        def forward(self, x):
            return super().forward(x) if self.mended else wrong(x)

    model = Model(4, 3)
    with pytest.raises((TypeError, AttributeError)) as caught:
        st.fit(model, batches, **options())
    assert any(note in line for line in caught.value.__notes__)
    assert caught.value.run.ctx.step == 0
    model.mended = True
    goes_on(caught.value.run)


class Broken:
    """Batches of which one cannot be read, until it is mended."""

    def __init__(self, batches, at, error):
        self.batches, self.at, self.error, self.mended = batches, at, error, False

    def __iter__(self):
        for number, batch in enumerate(self.batches, 1):
            if number == self.at and not self.mended:
                raise self.error
            yield batch


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_data_that_breaks(at, accumulate, batches, net):
    "The data's own exception comes out as it is, with where it was; what was trained before stays, and the run goes on."
    broken = OSError(f"batch {at} cannot be read")
    data = Broken(batches, at, broken)
    with pytest.raises(OSError, match="cannot be read") as caught:
        st.fit(net, data, accumulate=accumulate, **options())
    assert caught.value is broken
    run = caught.value.run
    done = max(at - accumulate, 0)  # with accumulation, the data is read one batch ahead
    intact(broken, net, epoch=1, batch=done, step=done // accumulate)
    assert run.outcome.state == "draw"
    data.mended = True
    goes_on(run)
    assert run.ctx.step == done // accumulate + 2 * math.ceil(3 / accumulate)


def test_validation_data_that_breaks(batches, net):
    "A failure in validation says so; the weights of the epoch before it are kept."
    data = Broken(batches, 2, OSError("cannot be read"))
    with pytest.raises(OSError, match="cannot be read") as caught:
        st.fit(net, batches, valid=data, **options())
    assert (
        "in state 'valid_draw' of lifecycle 'supervised', epoch 1, validation batch 1, step 3"
        in caught.value.__notes__[0]
    )
    data.mended = True
    goes_on(caught.value.run)
    assert [row["valid_loss"] > 0 for row in caught.value.run.history] == [True, True]


@pytest.mark.parametrize("which", ["train", "valid"])
def test_data_that_turns_out_to_be_empty(which, batches, net):
    "An iterable without a length that gives nothing is an error of its own, in training and in validation."
    data = {"train": batches, "valid": batches, which: lambda: iter([])}
    with pytest.raises(st.DataError, match="gave no batch"):
        st.fit(net, data["train"], valid=data["valid"], **options())


GUARDS = {
    "a tensor": (
        lambda ctx: torch.tensor(True),
        st.GuardError,
        r"must answer True or False, got Tensor; read a host value, or compare with \.item\(\)",
    ),
    "a number": (
        lambda ctx: 1,
        st.GuardError,
        r"arrow next_epoch -> end: guard \[.*\] must answer True or False, got int: 1",
    ),
    "nothing": (lambda ctx: None, st.GuardError, "must answer True or False, got NoneType: None"),
    "a numpy truth": (
        lambda ctx: np.bool_(True),
        st.GuardError,
        "must answer True or False, got bool",
    ),
    "an error": (raises(ZeroDivisionError("in the guard")), ZeroDivisionError, "in the guard"),
    "an event": (
        raises(st.StopFit("enough")),
        st.LifecycleError,
        r"StopFit was raised by the guard \[.*\].* call ctx\.request_stop\(reason\)",
    ),
}


@pytest.mark.parametrize("case", GUARDS)
def test_a_guard_that_does_not_answer(case, batches, net):
    "A guard answers exactly True or False; anything else names the guard and the arrow, and nothing has been trained."
    wrong, kind, message = GUARDS[case]
    answer = Trouble(wrong, lambda ctx: False)
    before = bits(net)
    with pytest.raises(kind, match=message) as caught:
        st.fit(net, batches, stop=st.guard(lambda ctx: answer(ctx)), **options())
    assert bits(net) == before
    assert caught.value.run.outcome.state == "next_epoch"
    assert any("next_epoch -> end" in line for line in [str(caught.value), *caught.value.__notes__])
    answer.mended = True
    goes_on(caught.value.run)


HOOKS = {
    "junk": (
        lambda ctx: 42,
        st.CallbackError,
        (
            r"the hook Bad\.on_enter_step must return nothing, and returned something; let it write"
            r" into the context instead"
        ),
    ),
    "a generator": (
        lambda ctx: (n for n in ()),
        st.CallbackError,
        "must return nothing, and returned something",
    ),
    "an error": (raises(ZeroDivisionError("in the hook")), ZeroDivisionError, "in the hook"),
    "a stop iteration": (
        raises(StopIteration("enough")),
        st.MachineError,
        r"StopIteration was raised by the hook Bad\.on_enter_step; it never ends an epoch",
    ),
    "an unknown event": (
        raises(type("Other", (st.Event,), {})("what")),
        st.LifecycleError,
        "no open scope takes Other .*add Transition",
    ),
    "a system exit": (raises(SystemExit(3)), SystemExit, "3"),
}


@pytest.mark.parametrize("case", HOOKS)
def test_a_callback_that_misbehaves(case, batches, net):
    "The error names the hook; the step that was about to be made is not made, and the run goes on without the trouble."
    wrong, kind, message = HOOKS[case]
    hook = Trouble(wrong, lambda ctx: None)

    class Bad(st.Callback):
        def on_enter_step(self, ctx):
            return hook(ctx)

    before = bits(net)
    with pytest.raises(kind, match=message) as caught:
        st.fit(net, batches, callbacks=Bad(), **options())
    assert bits(net) == before
    intact(caught.value, net, epoch=1, batch=1, step=0)
    assert "the hook Bad.on_enter_step" in caught.value.__notes__[0]
    hook.mended = True
    goes_on(caught.value.run)


def test_an_error_while_failing_does_not_hide_the_first(batches, net):
    "A hook of `failed` and a clean-up that raise are noted on the first error, which is the one that comes out."

    class Worse(st.Callback):
        def on_enter_fit(self, ctx):
            ctx.defer(raises(OSError("in the clean-up")))

        def on_enter_step(self, ctx):
            raise ZeroDivisionError("the first")

        def on_enter_failed(self, ctx):
            assert isinstance(ctx.error, ZeroDivisionError)
            raise OSError("in the hook of failed")

    with pytest.raises(ZeroDivisionError, match="the first") as caught:
        st.fit(net, batches, callbacks=Worse(), **options())
    notes = " ".join(caught.value.__notes__)
    assert "OSError('in the hook of failed')" in notes
    assert "OSError('in the clean-up')" in notes


def test_a_failure_keeps_the_rows_before_it(batches, net):
    "The history, the best row and the model of a run that fails in its third epoch are those of two epochs."

    class Bad(st.Callback):
        mended = False

        def on_enter_step(self, ctx):
            if ctx.epoch == 3 and ctx.iter == 2 and not self.mended:
                raise OSError("broken")

    bad = Bad()
    with pytest.raises(OSError, match="broken") as caught:
        st.fit(net, batches, valid=batches, callbacks=bad, **options(epochs=5))
    intact(caught.value, net, epoch=3, batch=2, step=7, rows=2)
    run = caught.value.run
    assert run.best()["epoch"] in (1, 2)
    assert run.evaluate(batches)["loss"] > 0
    assert run.predict(batches).shape == (22, 3)
    bad.mended = True
    goes_on(run)
    assert run.history["epoch"] == [1, 2, 4, 5]


@pytest.mark.parametrize("epochs", [-1, 1.5, "2", True, None])
def test_going_on_takes_a_number_of_epochs(epochs, batches, net):
    "run.fit is as strict as fit, and leaves the run as it is."
    run = st.fit(net, batches, **options())
    with pytest.raises(
        st.ConfigError, match=f"epochs must be a whole number of at least 0, got {epochs!r}"
    ):
        run.fit(epochs=epochs)
    assert run.outcome == st.Completed(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: st.EarlyStopping("valid_loss", patience=0),
            "EarlyStopping: patience must be a whole number of at least 1, got 0",
        ),
        (lambda: st.EarlyStopping("valid_loss", patience=-1), "got -1"),
        (
            lambda: st.EarlyStopping("valid_loss", mode="minimum"),
            "EarlyStopping: mode must be one of 'min', 'max', 'zero', got 'minimum'",
        ),
        (lambda: st.TimeLimit(minutes=0), "TimeLimit: say how long, above 0"),
        (lambda: st.Every(0, "steps"), "Every: n must be a number above 0, got 0"),
        (lambda: st.Every(1.5, "epochs"), "Every: n must be a whole number of epochs, got 1.5"),
        (lambda: st.Every(1, "epoch"), "Every: unit must be one of"),
        (lambda: st.MaxSteps(0), "MaxSteps: n must be a whole number of at least 1, got 0"),
    ],
)
def test_criteria_check_themselves(make, message):
    "Limits and patience are checked where they are made."
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


# ---------------------------------------------------------------- what would do nothing


def fit_small(**more):
    data = [(torch.randn(4, 3), torch.randn(4, 1))] * 2
    given = {"loss": F.mse_loss, "optimizer": torch.optim.SGD, "epochs": 1, "verbose": False}
    return st.fit(torch.nn.Linear(3, 1), data, **{**given, **more})


def computed(ctx):
    return F.mse_loss(ctx.model(ctx.input), ctx.target)


class OfLightning(st.Callback):
    def setup(self, ctx): ...


class OfFastai(st.Callback):
    def after_epoch(self): ...


class Inherits(OfFastai):
    def on_enter_fit(self, ctx): ...


class OfTheTrainer(st.Callback):
    def on_evaluate(self, ctx): ...


class CallsItsOwn(st.Callback):
    def on_enter_fit(self, ctx):
        self.setup(ctx)

    def setup(self, ctx):
        ctx.buffers["called"] = True


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"callbacks": OfLightning()}, r"'setup'.*another library's hook.*write 'on_enter_fit'"),
        ({"callbacks": OfFastai()}, r"'after_epoch'.*never called here; write 'on_exit_epoch'"),
        ({"callbacks": Inherits()}, r"'after_epoch'.*never called here"),
        ({"callbacks": OfTheTrainer()}, r"'on_evaluate'.*never called here; write 'on_exit_valid'"),
        ({"callbacks": st.on("train_epoch_start")(print)}, r"write 'on_enter_epoch'"),
        (
            {"callbacks": st.only_if(st.Every(1, "epochs"), Inherits(), "on_enter_fit")},
            r"'after_epoch'.*never called here",
        ),
        ({"compute": computed, "pred": "nope"}, r"pred= would not be used: compute="),
        (
            {
                "callbacks": st.LRScheduler(
                    torch.optim.lr_scheduler.StepLR, per="valid", step_size=1
                )
            },
            r"advances with each validation, and this run has none",
        ),
    ],
    ids=[
        "lightning",
        "fastai",
        "inherited",
        "the trainer",
        "a function",
        "wrapped",
        "pred",
        "per valid",
    ],
)
def test_what_would_do_nothing_is_refused(more, message):
    """Hooks that nothing calls and arguments that nothing reads are errors, not silence."""
    with pytest.raises((st.ConfigError, st.CallbackError), match=message):
        fit_small(**more)


def test_what_is_used_is_not_refused():
    """A method that the callback calls itself; a part that a metric takes; a named evaluation."""
    assert fit_small(callbacks=CallsItsOwn()).ctx.buffers["called"]

    def keeps(ctx):
        ctx.pred = {"out": ctx.model(ctx.input)}
        return F.mse_loss(ctx.pred["out"], ctx.target)

    run = fit_small(compute=keeps, pred="out", metrics={"mean": lambda pred, target: pred.mean()})
    assert isinstance(run.history[-1]["train_mean"], float)
    fit_small(
        evaluations=st.Evaluation("test", [(torch.zeros(2, 3), torch.zeros(2, 1))]),
        callbacks=st.LRScheduler(
            torch.optim.lr_scheduler.ReduceLROnPlateau, per="valid", monitor="test_loss"
        ),
    )


@pytest.mark.parametrize(
    ("hook", "event", "instead"),
    [
        ("exit_batch", st.SkipEpoch, "on_enter_next_batch"),
        ("exit_backward", st.SkipBatch, "on_enter_step"),
        ("exit_train", st.StopFit, "on_enter_record"),
        ("exit_epoch", st.SkipEpoch, None),  # no epoch is open there
    ],
)
def test_an_event_in_an_exit_hook_names_the_hook_that_may_raise_it(hook, event, instead):
    """The message names the enter hook that comes next; raised there, the run goes on."""
    raised = []

    def leave(ctx):
        if not raised:
            raised.append(ctx.state)
            raise event("enough")

    expected = f"Raise it in {instead}, which comes next"
    if instead is None:
        expected = "Here, call ctx.request_stop"
    with pytest.raises(st.LifecycleError, match=expected):
        fit_small(callbacks=st.on(hook)(leave))
    raised.clear()
    if instead is not None:
        assert fit_small(callbacks=st.on(instead.removeprefix("on_"))(leave)).outcome is not None


class Fails:
    """A metric that fails in one of its methods."""

    def __init__(self, where):
        self.where = where

    def update(self, pred, target):
        if self.where == "update":
            raise ValueError("bad")

    def compute(self):
        if self.where == "compute":
            raise ValueError("bad")
        return 0.0

    def reset(self): ...


@pytest.mark.parametrize(
    "second",
    [Fails("update"), Fails("compute"), lambda pred, target: pred.nothing],
    ids=["update", "compute", "function"],
)
def test_a_metric_that_fails_is_named(second):
    """By the name that it was given, and its set."""
    with pytest.raises((ValueError, AttributeError)) as caught:
        fit_small(metrics={"first": Fails(""), "second": second})
    assert any("the metric 'second' of the set 'train'" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("name", "here"),
    [("should_stop", "ctx.request_stop"), ("global_step", "ctx.step"), ("trainer", "ctx")],
)
def test_a_field_of_another_library_is_told_by_its_name_here(name, here):
    """Read or set in a hook: a note says what it is called, without the list of all fields."""
    for use in (
        lambda ctx: setattr(ctx, name, True),
        lambda ctx: bool(getattr(ctx, name)) and None,
    ):
        with pytest.raises(AttributeError) as caught:
            fit_small(callbacks=st.on("exit_step")(use))
        notes = "\n".join(caught.value.__notes__)
        assert f"other libraries call {name!r} is here: {here}" in notes
        assert "earlier_batches" not in notes


def _hooks_of_elsewhere(name, function):
    function.__name__ = name
    return type("Elsewhere", (st.Callback,), {name: function})()


@pytest.mark.parametrize(
    "function",
    [
        lambda self, logs=None: None,
        lambda self, trainer, module: None,
        lambda self, args, state, control, **more: None,
    ],
    ids=["keras", "lightning", "transformers"],
)
@pytest.mark.parametrize(("name", "meant"), [("begin", "enter_fit"), ("end", "exit_fit")])
def test_hooks_that_are_called_once_a_run_elsewhere(function, name, meant):
    "Written as in another library, the hooks of training are answered with those that are called once a run."
    callback = _hooks_of_elsewhere(f"on_train_{name}", function)
    words = rf"on_train_{name} is called once an epoch, .* for once a run, write on_{meant}"
    with pytest.raises(st.CallbackError, match=words):
        st.fit(
            torch.nn.Linear(2, 2),
            (torch.ones(4, 2), torch.ones(4, 2)),
            loss=torch.nn.functional.mse_loss,
            optimizer=torch.optim.SGD,
            callbacks=callback,
        )
