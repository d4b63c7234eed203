"""Metrics: summed up where the data is, weighted by samples, and turned into numbers once a row."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import statetrain as st
from statetrain.losses.metrics import MeanOf, named_metrics
from statetrain.losses.tally import tally

CPU = torch.device("cpu")


def options(**more):
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        **more,
    }


def accuracy(pred, target):
    return (pred.argmax(1) == target).float().mean()


class Counting:
    """A metric object that counts how often each of its methods is called."""

    def __init__(self):
        self.calls, self.seen = Counter(), 0

    def update(self, pred, target):
        self.calls["update"] += 1
        self.seen += len(target)

    def compute(self):
        self.calls["compute"] += 1
        return torch.tensor(float(self.seen))

    def reset(self):
        self.calls["reset"] += 1
        self.seen = 0


def test_losses_are_means_over_samples(points):
    "A short last batch counts by its samples: the epoch's loss is not the mean of the batches' losses."
    model = torch.nn.Linear(4, 3)
    batches = [tuple(part[:20] for part in points), tuple(part[20:] for part in points)]
    with torch.no_grad():
        losses = [F.cross_entropy(model(x), y).item() for x, y in batches]
    run = st.fit(model, batches, valid=batches, **options(opt_hparams={"lr": 0.0}, epochs=1))
    expected = (losses[0] * 20 + losses[1] * 2) / 22
    assert run.history["train_loss"] == run.history["valid_loss"] == [expected]
    assert expected != pytest.approx(sum(losses) / 2)


def test_a_function_is_averaged_over_samples(points):
    "A function of prediction and target becomes a column for each set, weighted by the size of each batch."
    model = torch.nn.Linear(4, 3)
    batches = [tuple(part[:20] for part in points), tuple(part[20:] for part in points)]
    run = st.fit(
        model,
        batches,
        valid=batches,
        metrics=[accuracy, lambda pred, target: float(len(target))],
        **options(opt_hparams={"lr": 0.0}),
    )
    with torch.no_grad():
        expected = accuracy(model(points[0]), points[1]).item()
    for kind in ("train", "valid"):
        assert run.history[f"{kind}_accuracy"] == [pytest.approx(expected)] * 2
        assert run.history[f"{kind}_metric"] == [(20 * 20 + 2 * 2) / 22] * 2


def test_functions_without_a_name_are_numbered(points):
    "Two lambdas, and one for the validation alone, have columns of their own; a partial is called as its function."
    run = st.fit(
        torch.nn.Linear(4, 3),
        points,
        valid=points,
        metrics=[lambda pred, target: 1.0, lambda pred, target: 2.0, partial(const, value=3.0)],
        valid_metrics=lambda pred, target: 4.0,
        **options(epochs=1),
    )
    row = run.history[-1]
    found = {name: row[name] for name in row if "metric" in name or "const" in name}
    assert found == {
        "train_metric": 1.0,
        "train_metric_2": 2.0,
        "train_const": 3.0,
        "valid_metric": 1.0,
        "valid_metric_2": 2.0,
        "valid_const": 3.0,
        "valid_metric_3": 4.0,
    }


def const(pred, target, value):
    return value


def test_metric_objects_are_computed_once_a_row(points):
    "An object sees every batch and is computed once for each row; the user's own stays as it was."
    metric, kept = Counting(), []

    class Keep(st.Callback):
        def on_enter_fit(self, ctx):
            kept.extend(tally.metrics["seen"] for tally in ctx.tallies.values())

    run = st.fit(
        torch.nn.Linear(4, 3),
        points,
        valid=points,
        metrics={"seen": metric},
        callbacks=Keep(),
        dataloader_options={"batch_size": 8},
        **options(epochs=3),
    )
    train, valid = kept
    assert train.calls["update"] == valid.calls["update"] == 9
    assert train.calls["compute"] == valid.calls["compute"] == 3
    assert run.history["train_seen"] == run.history["valid_seen"] == [22.0] * 3
    assert metric.calls == Counter()
    assert train is not valid


def test_metrics_run_without_gradients(points):
    "Neither in training nor in validation does a metric build a graph."
    graphs = []

    def look(pred, target):
        graphs.append((pred * 2).requires_grad)
        return pred.mean()

    st.fit(torch.nn.Linear(4, 3), points, valid=points, metrics=look, **options())
    assert set(graphs) == {False}


def test_with_several_optimizers_a_metric_sees_the_last_prediction(points, net):
    "Losses have a column for each optimizer; metrics are updated once a batch."
    optimizers = {
        "first": torch.optim.SGD(net[0].parameters(), lr=0.1),
        "last": torch.optim.SGD(net[3].parameters(), lr=0.1),
    }
    run = st.fit(
        net,
        points,
        valid=points,
        metrics={"seen": Counting()},
        **options(optimizer=optimizers, opt_hparams=None),
    )
    assert run.history["train_seen"] == run.history["valid_seen"] == [22.0, 22.0]
    assert [name for name in run.history.columns if "loss" in name] == [
        "train_loss_first",
        "train_loss_last",
        "valid_loss_first",
        "valid_loss_last",
    ]


def test_a_metric_is_a_monitor(points):
    "Early stopping and thresholds may watch a metric's column."
    run = st.fit(
        torch.nn.Linear(4, 3),
        points,
        valid=points,
        metrics=accuracy,
        stop=st.Threshold("valid_accuracy", 0.0, mode="max"),
        **options(),
    )
    assert run.outcome == st.Stopped(1, "valid_accuracy at least 0")


def test_the_forms_of_metrics():
    "One, several, an iterator or a mapping; functions and objects; names as given or those of the functions."
    assert list(named_metrics(None)) == []
    assert list(named_metrics(accuracy)) == ["accuracy"]
    assert list(named_metrics(Counting())) == ["counting"]
    assert list(named_metrics([accuracy, Counting()])) == ["accuracy", "counting"]
    assert list(named_metrics({"mine": accuracy})) == ["mine"]


def test_an_iterator_of_metrics_serves_both_sets(points):
    "Metrics from a generator are there in training and in validation."
    run = st.fit(
        torch.nn.Linear(4, 3),
        points,
        valid=points,
        metrics=(metric for metric in [accuracy]),
        **options(),
    )
    assert {"train_accuracy", "valid_accuracy"} <= set(run.history.columns)


def test_a_method_of_the_model_as_a_metric_is_not_copied(points):
    "A metric that is a method of something large refers to it, in fit and in evaluate."

    class Own(torch.nn.Linear):
        def __deepcopy__(self, memo):
            raise AssertionError("copied")

        def norm(self, pred, target):
            return self.weight.norm()

    model = Own(4, 3)
    run = st.fit(model, points, valid=points, metrics=model.norm, **options())
    assert run.history["valid_norm"][-1] == pytest.approx(model.weight.norm().item())
    assert run.evaluate(points)["norm"] == pytest.approx(model.weight.norm().item())


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([accuracy, accuracy], "two metrics are called 'accuracy'; give them names of their own"),
        ({"loss": accuracy}, "a metric is called 'loss', as the column of the loss is"),
        ([Counting], "metric 'counting' is the class Counting; give an instance: Counting"),
        (
            {"mine": 3},
            (
                "metric 'mine' must be a function of prediction and target, or have update, compute"
                " and reset; got 3"
            ),
        ),
        (["accuracy"], "got 'accuracy'"),
    ],
)
def test_what_is_no_metric(metrics, message, points):
    "Wrong metrics are refused before anything runs."
    model = torch.nn.Linear(4, 3)
    before = model.weight.tolist()
    with pytest.raises(st.ConfigError) as caught:
        st.fit(model, points, metrics=metrics, **options())
    assert message in str(caught.value)
    assert model.weight.tolist() == before


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "got None; does the function end with a return"),
        ("0.5", "got str: '0.5'"),
        ((0.5, 0.2), r"got tuple: \(0.5, 0.2\)"),
        (np.zeros(3), r"got shape \(3,\); use .mean"),
        (torch.tensor(1j), "got Tensor"),
    ],
)
def test_a_metric_that_gives_no_number_is_named(points, value, words):
    "Whatever it returns, it is said before a sum is made of it."
    with pytest.raises(st.LossError, match=f"(?s)must return one number .*{words}.*metric 'odd'"):
        st.fit(torch.nn.Linear(4, 3), points, metrics={"odd": partial(odd, value)}, **options())


def odd(value, pred, target):
    return value


def test_a_metric_of_several_values_is_an_error(points):
    "A function that returns a tensor of values for each sample is told to reduce it."

    def right(pred, target):
        return pred.argmax(1) == target

    with pytest.raises(
        st.LossError,
        match=r"metric 'right' must return one number for a batch, .*got shape \(22,\); .*\.mean\(\)",
    ):
        st.fit(torch.nn.Linear(4, 3), points, metrics=right, **options())


def test_a_metric_object_may_give_several_values(points):
    "Each of them has a column."

    class Both(Counting):
        def compute(self):
            return {"seen": self.seen}

    run = st.fit(torch.nn.Linear(4, 3), points, metrics={"both": Both()}, **options())
    assert run.history["train_both_seen"] == [22] * 2


def test_a_mean_of_nothing_is_no_number():
    "A metric that saw no batch is NaN, not 0."
    assert math.isnan(MeanOf(accuracy).compute())
    assert tally("train", ["opt"], accuracy, CPU).compute() == {}


# ---------------------------------------------------------------- reads of the device


class Reads(TorchDispatchMode):
    """Counts how often a tensor is read as a number by the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def steps_of(points, on_host, **more):
    "Runs an epoch, and gives the reads by the host in each state."
    # A DataLoader would read numbers of its own
    batches = list(zip(points[0].split(8), points[1].split(8), strict=True))
    run = st.fit(
        torch.nn.Linear(4, 3), batches, valid=batches, metrics=accuracy, **options(epochs=0), **more
    )
    run.ctx.max_epochs, run.ctx.on_host = 1, on_host
    reads = Counter()
    steps = run.machine.steps(run.ctx)
    while True:
        with Reads() as mode:
            transition = next(steps, None)
        if transition is None:
            return run, reads
        reads[transition.dest] += mode.count


def test_away_from_the_host_numbers_are_made_in_record_only(points):
    "Where the loss is not read in each batch, losses and metrics stay tensors until the row: as many reads as columns."
    run, reads = steps_of(points, on_host=False, non_finite="ignore")
    assert {state: count for state, count in reads.items() if count} == {"record": 4}
    there, _ = steps_of(points, on_host=True, non_finite="ignore")
    assert run.history.columns == there.history.columns
    assert isinstance(run.history[0]["train_loss"], float)


def test_on_the_cpu_the_loss_is_read_once_a_batch(points):
    "The NaN check and the mean share one number."
    _, reads = steps_of(points, on_host=True)
    assert {state: count for state, count in reads.items() if count} == {
        "loss": 3,
        "valid_loss": 3,
        "record": 2,
    }


def test_a_device_without_numbers(points):
    "On the meta device every read by the host is an error: a step with a metric, dropout and momentum makes none."
    life = st.supervised(non_finite="ignore", validate=st.Every(1, "epochs")).replace(
        "record", action=None
    )
    made = []

    def momentum(parameters):
        made.append(torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
        return made[0]

    run = st.fit(
        torch.nn.Sequential(
            torch.nn.Linear(4, 6),
            torch.nn.BatchNorm1d(6),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(6, 3),
        ),
        points,
        valid=points,
        lifecycle=life,
        metrics={"size": lambda pred, target: pred.mean()},
        device="meta",
        **options(optimizer=momentum, opt_hparams=None),
    )
    assert run.ctx.on_host is False
    assert run.ctx.step == 2
    assert run.ctx.tallies["valid"].losses["opt"].total.device.type == "meta"
    assert run.ctx.tallies["valid"].losses["opt"].total.dtype == torch.float64


def test_the_loss_is_read_if_somebody_says_that_they_read_it(points):
    "On a device, a guard or a callback that declares to read `loss_value` has it read; on meta, that is the device's error."

    class Reader(st.Callback):
        reads = {"loss_value"}

    for more in ({}, {"non_finite": "ignore", "callbacks": Reader()}):
        with pytest.raises(RuntimeError, match="meta") as caught:
            st.fit(torch.nn.Linear(4, 3), points, device="meta", **more, **options())
        assert caught.value.run.ctx.on_host is True
        assert caught.value.run.outcome.state == "loss"


def test_a_loss_that_is_no_scalar_is_found_away_from_the_host(points):
    "Without a read, the shape of the loss is checked all the same."
    with pytest.raises(
        st.LossError,
        match=(
            r"the loss must be a scalar, got shape \(22,\); reduce it, for example with \.mean\(\)"
        ),
    ):
        st.fit(
            torch.nn.Linear(4, 3),
            points,
            device="meta",
            non_finite="ignore",
            **options(loss=lambda pred, target: F.cross_entropy(pred, target, reduction="none")),
        )


def test_a_metric_says_how_its_numbers_are_shown(points, capsys):
    "In the printed history, in a notebook, in the lines of a run and by format_metrics; other columns, and the values, are as without."

    def share(pred, target):
        return (pred.argmax(dim=1) == target).float().mean()

    def parts(pred, target):
        return {"low": pred.min(), "high": pred.max()}

    run = st.fit(
        torch.nn.Linear(4, 3),
        points,
        valid=points,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        epochs=1,
        metrics={"acc": st.Metric(share, format=".1%"), "logit": st.Metric(parts, format="+.1f")},
        callbacks=st.Progress(mode="plain"),
    )
    row = run.history[-1]
    acc, low = f"{row['valid_acc']:.1%}", f"{row['valid_logit_low']:+.1f}"
    for text in (str(run.history), run.history._repr_html_(), capsys.readouterr().out):
        assert acc in text
        assert low in text
        assert f"{row['valid_loss']:.4g}" in text
    assert f"acc: {acc} - " in run.ctx.format_metrics()


@pytest.mark.parametrize("form", [".1q", 3])
def test_a_format_that_shows_no_number_is_refused(form):
    "Where it is given."
    with pytest.raises(st.ConfigError, match="shows no number"):
        st.Metric(F.mse_loss, format=form)
