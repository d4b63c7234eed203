"""`evaluate` and `predict`: what a model says about data, without changing it."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest
import torch
from reference import bits
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import statetrain as st


def options(**more):
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 1,
        **more,
    }


def accuracy(pred, target):
    return (pred.argmax(1) == target).float().mean()


def by_hand(model, points, size=32):
    model.eval()
    with torch.no_grad():
        losses = [
            (F.cross_entropy(model(x), y).item(), len(x))
            for x, y in zip(points[0].split(size), points[1].split(size), strict=True)
        ]
    model.train()
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)


FORMS = {
    "tensors": lambda points: points,
    "arrays": lambda points: tuple(part.numpy() for part in points),
    "dataset": lambda points: TensorDataset(*points),
    "loader": lambda points: DataLoader(TensorDataset(*points), batch_size=32),
    "batches": lambda points: [points],
    "function": lambda points: lambda: iter([points]),
    "iterator": lambda points: iter([points]),
}


@pytest.mark.parametrize("form", FORMS)
def test_data_in_every_form(form, points, net):
    "evaluate gives the loss of a loop under no_grad in eval mode, predict its outputs, whatever the data is."
    run = st.fit(net, points, **options())
    assert st.evaluate(run, FORMS[form](points)) == {"loss": by_hand(net, points)}
    net.eval()
    with torch.no_grad():
        expected = net(points[0])
    assert torch.equal(st.predict(run, FORMS[form](points)), expected)


def test_a_run_brings_its_loss_metrics_and_keys(points, net):
    "What fit was told about batches and outputs, evaluate and predict know; anything may be said anew."
    batches = [
        {"image": x, "class": y}
        for x, y in zip(points[0].split(8), points[1].split(8), strict=True)
    ]
    run = st.fit(net, batches, input="image", target="class", metrics=accuracy, **options())
    values = run.evaluate(batches)
    assert set(values) == {"loss", "accuracy"}
    assert values["loss"] == by_hand(net, points, 8)
    assert run.predict(batches).shape == (22, 3)
    assert set(run.evaluate(batches, metrics={"size": lambda pred, target: float(len(pred))})) == {
        "loss",
        "size",
    }
    other = run.evaluate(batches, loss=lambda pred, target: 2 * F.cross_entropy(pred, target))
    assert other["loss"] == pytest.approx(2 * values["loss"])
    assert run.predict([{"picture": points[0]}], input="picture").shape == (22, 3)


def test_the_metrics_are_those_of_validation(points, net):
    "Where training and validation have metrics of their own, evaluate takes validation's; without validation, training's."
    run = st.fit(
        net,
        points,
        valid=points,
        train_metrics={"noise": accuracy},
        valid_metrics={"hits": accuracy},
        **options(),
    )
    assert set(run.evaluate(points)) == {"loss", "hits"}
    run = st.fit(net, points, train_metrics={"noise": accuracy}, **options())
    assert set(run.evaluate(points)) == {"loss", "noise"}


def test_nothing_is_changed(points, net):
    "Neither weights, buffers, modes, history nor counters of the run change, and the next fit goes on as if nothing had been."
    net[2].eval()
    run = st.fit(net, points, metrics=accuracy, **options())
    before = (
        bits(net, run.ctx.opt),
        [module.training for module in net.modules()],
        list(run.history),
        run.ctx.step,
        run.outcome,
        str(run.ctx),
    )
    run.evaluate(points)
    run.predict(points)
    after = (
        bits(net, run.ctx.opt),
        [module.training for module in net.modules()],
        list(run.history),
        run.ctx.step,
        run.outcome,
        str(run.ctx),
    )
    assert after == before
    assert torch.is_grad_enabled()


class Seen:
    """A metric object: how many samples it has seen."""

    def __init__(self):
        self.count = 0

    def update(self, pred, target):
        self.count += len(target)

    def compute(self):
        return self.count

    def reset(self):
        self.count = 0


def test_metrics_start_from_nothing(points, net):
    "Evaluating after a fit that broke in the middle of an epoch does not count what that epoch had summed up."

    class Break(st.Callback):
        def on_enter_step(self, ctx):
            if ctx.iter == 3:
                raise OSError("broken")

    metrics = {"accuracy": accuracy, "seen": Seen()}
    with pytest.raises(OSError, match="broken") as caught:
        st.fit(
            net,
            points,
            metrics=metrics,
            callbacks=Break(),
            dataloader_options={"batch_size": 8},
            **options(),
        )
    run = caught.value.run
    assert run.ctx.tallies["train"].metrics["seen"].count == 22
    net.eval()
    with torch.no_grad():
        expected = accuracy(net(points[0]), points[1]).item()
    values = run.evaluate(points)
    assert values["accuracy"] == pytest.approx(expected)
    assert values["seen"] == 22


def test_in_a_callback(points, net):
    "Both may be called while a fit is going on; the fit's own sums are not touched."
    seen = []

    class Look(st.Callback):
        def on_exit_step(self, ctx):
            seen.append(st.evaluate(ctx.model, points, loss=ctx.loss_fn, metrics=accuracy)["loss"])
            seen.append(st.predict(ctx.model, points).shape)
            assert ctx.model.training

    net[2].p = 0.0  # dropout would draw on, and the callback draws nothing
    start = {name: value.clone() for name, value in net.state_dict().items()}
    plain = {"metrics": accuracy, "dataloader_options": {"batch_size": 8, "shuffle": False}}
    watched = st.fit(net, points, callbacks=Look(), **plain, **options())
    ends = bits(net), watched.history["train_loss"], watched.history["train_accuracy"]
    assert len(seen) == 6
    net.load_state_dict(start)
    alone = st.fit(net, points, **plain, **options())
    assert (bits(net), alone.history["train_loss"], alone.history["train_accuracy"]) == ends


def test_a_module_alone(points, net):
    "A model that was trained elsewhere is evaluated with a loss that is given."
    assert st.evaluate(net, points, loss=F.cross_entropy, metrics=accuracy)["loss"] == by_hand(
        net, points
    )
    assert st.predict(net, points[0]).shape == (22, 3)
    with pytest.raises(
        st.ConfigError,
        match="loss must be a function of prediction and target, got none; for example loss=",
    ):
        st.evaluate(net, points)


def test_several_losses(points, net):
    "A run with two optimizers is evaluated with both losses, each in its own column."
    optimizers = {
        "first": torch.optim.SGD(net[0].parameters(), lr=0.1),
        "last": torch.optim.SGD(net[3].parameters(), lr=0.1),
    }
    losses = {
        "first": F.cross_entropy,
        "last": lambda pred, target: 3 * F.cross_entropy(pred, target),
    }
    run = st.fit(net, points, loss=losses, optimizer=optimizers, epochs=1)
    values = run.evaluate(points)
    assert values["loss_first"] == by_hand(net, points)
    assert values["loss_last"] == pytest.approx(3 * values["loss_first"])
    assert set(run.evaluate(points, loss=F.cross_entropy)) == {"loss"}


def test_a_validation_of_ones_own(points, net):
    "A run with valid_compute evaluates with it; one with compute alone needs a loss."

    def compute(ctx):
        loss = F.cross_entropy(ctx.model(ctx.input), ctx.target)
        loss.backward()
        return loss

    def valid_compute(ctx):
        return 5 * F.cross_entropy(ctx.model(ctx.input), ctx.target)

    plain = {"optimizer": torch.optim.SGD, "opt_hparams": {"lr": 0.1}, "epochs": 1}
    run = st.fit(net, points, valid=points, compute=compute, valid_compute=valid_compute, **plain)
    assert run.evaluate(points)["loss"] == pytest.approx(5 * by_hand(net, points))
    assert run.evaluate(points, loss=F.cross_entropy)["loss"] == by_hand(net, points)
    run = st.fit(net, points, compute=compute, **plain)
    with pytest.raises(
        st.ConfigError, match="loss must be a function of prediction and target, got none"
    ):
        run.evaluate(points)


class Pair(NamedTuple):
    logits: Any
    hidden: Any


class Parts(torch.nn.Linear):
    def forward(self, x):
        logits = super().forward(x)
        return {"logits": logits, "pair": Pair(logits, (x, x.sum())), "list": [logits]}


def test_predictions_keep_their_structure(points):
    "Dicts, tuples and named tuples of tensors are stacked part by part; stack=False gives the batches as they are."
    model = Parts(4, 3)
    whole = st.predict(model, points[0], dataloader_options={"batch_size": 8})
    assert set(whole) == {"logits", "pair", "list"}
    assert isinstance(whole["pair"], Pair)
    assert torch.equal(whole["pair"].hidden[0], points[0])
    assert whole["pair"].hidden[1].shape == (3,)  # a number for each batch
    batches = st.predict(model, points[0], dataloader_options={"batch_size": 8}, stack=False)
    assert [len(batch["logits"]) for batch in batches] == [8, 8, 6]
    assert torch.equal(torch.cat([batch["logits"] for batch in batches]), whole["list"][0])
    alone = st.predict(model, points[0], pred="pair.logits", dataloader_options={"batch_size": 8})
    assert torch.equal(alone, whole["logits"])


def test_predictions_without_a_target(points, net):
    "Inputs are enough, in a list, a dict or alone; what stands beside them is not looked at."
    expected = st.predict(net, points)
    for data in (
        points[0],
        [points[0]],
        [{"x": points[0]}],
        [(points[0],)],
        [(points[0], None)],
        [[points[0], "name"]],
    ):
        assert torch.equal(st.predict(net, data), expected)


def test_predictions_come_in_order(points, net):
    "The data's order is kept, and shuffling is refused."
    torch.testing.assert_close(
        st.predict(net, points, dataloader_options={"batch_size": 3}), st.predict(net, points)
    )
    with pytest.raises(
        st.ConfigError, match="predictions come in the data's order; leave shuffle out"
    ):
        st.predict(net, points, dataloader_options={"shuffle": True})


def test_callbacks_watch(points, net):
    "The lifecycles are evaluation() and prediction(); their states can be hooked, and misspelt hooks are found."
    seen = []

    class Watch(st.Callback):
        def on_enter_valid_loss(self, ctx):
            seen.append("loss")

        def on_enter_collect(self, ctx):
            seen.append("collect")

    st.evaluate(net, points, loss=F.cross_entropy, callbacks=[Watch()])
    st.predict(net, points, callbacks=Watch())
    assert seen == ["loss", "collect"]

    class Typo(st.Callback):
        def on_enter_colect(self, ctx): ...

    with pytest.raises(st.CallbackError, match="did you mean 'on_enter_collect'"):
        st.predict(net, points, callbacks=Typo())


def test_a_failure_carries_a_run_of_its_own(points, net):
    "An error in evaluate leaves the model's modes as they were and says in which batch it was."

    def broken(pred, target):
        raise OSError("broken")

    with pytest.raises(OSError, match="broken") as caught:
        st.evaluate(net, [points, points], loss=broken)
    assert caught.value.run.outcome.state == "valid_loss"
    assert (
        "in state 'valid_loss' of lifecycle 'evaluation', batch 1; raised by"
        in caught.value.__notes__[0]
    )
    assert net.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("ask", [st.evaluate, st.predict])
@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (None, [], "model must be a torch.nn.Module or a class of one, got None"),
        (
            torch.nn.Linear,
            [],
            (
                "the class Linear has learnt nothing; give a trained model, or the run that fit"
                " returned"
            ),
        ),
        (torch.nn.Linear(4, 3), [], "data is empty: its list has no batch"),
        (
            torch.nn.Linear(4, 3),
            None,
            (
                "data must be a DataLoader, a Dataset, tensors, arrays or an iterable of batches,"
                " got NoneType"
            ),
        ),
    ],
)
def test_what_cannot_be_asked(ask, model, data, message):
    "No model and no data are refused at once."
    loss = {"loss": F.cross_entropy} if ask is st.evaluate else {}
    with pytest.raises(st.ConfigError) as caught:
        ask(model, data, **loss)
    assert message in str(caught.value)


def test_data_that_gives_nothing(net):
    "An iterator without a batch is found when it is read."
    for ask in (
        lambda: st.evaluate(net, iter([]), loss=F.cross_entropy),
        lambda: st.predict(net, iter([])),
    ):
        with pytest.raises(
            st.DataError, match=r"gave no batch\. Is it empty, or an iterator that was read before"
        ):
            ask()


@pytest.mark.parametrize(
    "stop",
    [
        lambda ctx: ctx.request_stop("enough"),
        lambda ctx: (_ for _ in ()).throw(st.StopFit("enough")),
    ],
)
def test_a_stop_in_an_evaluation_is_an_error(stop, points, net):
    "Part of the data has no loss of the whole, and part of the predictions would pass for all: a request and an event say so."

    class Stop(st.Callback):
        def on_enter_valid_pred(self, ctx):
            stop(ctx)

        def on_enter_predict_pred(self, ctx):
            stop(ctx)

    with pytest.raises(
        st.MachineError,
        match=re.escape("the evaluation was stopped after 1 batches (enough), so it has no result"),
    ):
        st.evaluate(net, [points, points], loss=F.cross_entropy, callbacks=Stop())
    with pytest.raises(
        st.MachineError,
        match=re.escape("the prediction was stopped after 1 batches (enough), so it has no result"),
    ):
        st.predict(net, [points, points], callbacks=Stop())


def test_an_evaluation_that_skips_to_its_end_is_an_error(points, net):
    "What SkipEpoch leaves of it is no result; it gave an empty one."
    skip = st.on("enter_valid_pred")(lambda ctx: (_ for _ in ()).throw(st.SkipEpoch("enough")))
    with pytest.raises(st.MachineError, match="ended by SkipEpoch after 1 batches"):
        st.evaluate(net, [points, points], loss=F.cross_entropy, callbacks=skip)
