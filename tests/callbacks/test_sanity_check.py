"""`SanityCheck` finds the usual mistakes before the first batch, and leaves the run as it was."""

from __future__ import annotations

import logging
import random
import re

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import statetrain as st
from statetrain.errors import ConfigError
from statetrain.sanity import CHECKS


def fit(data, model=None, *, check=None, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)) if model is None else model
    common = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.05},
        "epochs": 2,
    }
    return st.fit(model, data, callbacks=[] if check is None else check, **{**common, **options})


def found(data, model=None, **options):
    """The names of the checks that found something, and what the run would say, without training."""
    check = st.SanityCheck()
    fit(data, model, check=check, start=False, **options)
    if "valid" not in options:
        assert check.problems.pop("validation_data_is_given")
    return check.problems


def xy(n=32, classes=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 4, generator=generator)
    return inputs, (inputs @ torch.randn(4, classes, generator=generator)).argmax(1)


def test_a_run_without_a_mistake(caplog):
    "Nothing is found, and nothing is said."
    with caplog.at_level(logging.WARNING, "statetrain"):
        assert found(xy(), valid=0.25) == {}
        assert found(xy(), valid=0.25, seed=3) == {}
    assert not caplog.records


# ---------------------------------------------------------------- each check finds what it is for


class Detached(nn.Module):
    """A model of which a part gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, inputs):
        return self.out(self.first(inputs).detach())


class Mixing(nn.Module):
    """A model that takes the mean over the wrong dimension away."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, inputs):
        return self.out(inputs - inputs.mean(0))


def net(*last):
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), *last)


def dead():
    model = net()
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    return model


def spoilt():
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    return model


def sure():
    model = net()
    with torch.no_grad():
        model[2].weight.mul_(300)
    return model


def without_a_layer():
    model = net()
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model[2].parameters(), lr=0.05),
        "opt_hparams": None,
    }


inputs, labels = xy()
shared = TensorDataset(inputs, labels)
regression = {"loss": F.mse_loss, "model": nn.Linear(4, 1)}
CASES = {
    "training_data_can_be_read": ({"data": [(inputs,)]}, "no batch could be made"),
    "training_data_is_shuffled": ({"data": DataLoader(shared, batch_size=8)}, r"shuffle=True"),
    "validation_data_is_given": ({"valid": None}, "give valid=0.2"),
    "sets_do_not_overlap": (
        {"data": Subset(shared, range(20)), "valid": Subset(shared, range(15, 32))},
        "5 of the 17 validation samples are training samples too",
    ),
    "inputs_are_finite": (
        {"data": (inputs.index_fill(0, torch.tensor([3]), float("nan")), labels)},
        "NaN or infinite",
    ),
    "inputs_are_scaled": ({"data": (inputs * 100, labels)}, "scale them"),
    "targets_vary": ({"data": (inputs, labels * 0)}, "all 32 targets of a batch are the same"),
    "last_batch_is_not_one_sample": (
        {
            "data": xy(33),
            "model": nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)),
        },
        "drop_last=True",
    ),
    "model_and_loss_fit": ({"model": nn.Linear(5, 3)}, "RuntimeError: mat1 and mat2"),
    "validation_works": ({"valid": (torch.randn(8, 5), labels[:8])}, "a validation batch failed"),
    "model_is_float": ({"model": net().bfloat16()}, 'precision="bf16"'),
    "weights_are_finite": ({"model": spoilt()}, "2.weight"),
    "optimizer_has_all_parameters": (
        without_a_layer(),
        "no optimizer has the parameters 0.weight, 0.bias",
    ),
    "labels_in_range": (
        {"data": (inputs, labels + 1)},
        "labels go from 1 to 3, and the model tells 3 classes, 0 to 2; count labels from 0",
    ),
    "shapes_of_prediction_and_target": (
        {**regression, "data": (inputs, inputs[:, 0])},
        r"\(32, 1\) and the target \(32,\).*target.unsqueeze\(1\)",
    ),
    "prediction_is_finite": (
        {
            "loss": lambda pred, target: F.cross_entropy(pred, target) * float("inf"),
            "non_finite": "skip",
        },
        "not finite; look for a log",
    ),
    "prediction_suits_the_loss": ({"model": net(nn.Softmax(1))}, "ends with a softmax"),
    "first_loss_is_that_of_guessing": (
        {"model": sure()},
        "where guessing among 3 classes gives 1.1",
    ),
    "gradients_reach_all_parameters": (
        {"model": Detached()},
        "the loss does not depend on first.weight, first.bias",
    ),
    "one_step_lowers_the_loss": (
        {"opt_hparams": {"lr": 500.0}},
        "a step raises the loss of its own batch",
    ),
    "samples_do_not_mix": ({"model": Mixing()}, "depends on the others of its batch"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_check_finds_its_mistake(name):
    "The message says what is wrong and how to mend it."
    options, words = CASES[name]
    problems = found(**{"data": xy(), **options})
    assert name in problems
    assert re.search(words, problems[name]), problems[name]


def test_no_check_is_without_a_case():
    "Each check that is made is tested above."
    assert set(CASES) == {check.__name__ for check in CHECKS}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sets_do_not_overlap", {"data": xy(), "valid": None}, None),
        (
            "sets_do_not_overlap",
            {"data": (inputs, labels), "valid": (inputs, labels)},
            "32 of the 32",
        ),
        ("validation_works", {"valid": (inputs, labels + 1)}, "labels go from 1 to 3"),
        ("validation_works", {"data": (inputs, labels + 1), "valid": (inputs, labels + 1)}, None),
        ("gradients_reach_all_parameters", {"model": dead()}, "are all 0"),
        ("one_step_lowers_the_loss", {"opt_hparams": {"lr": 0.0}}, "a step changes nothing"),
        (
            "labels_in_range",
            {
                "loss": F.binary_cross_entropy_with_logits,
                "model": nn.Linear(4, 4),
                "data": (inputs, inputs.sign()),
            },
            "from -1 to 1",
        ),
        ("labels_in_range", {"data": (inputs, labels.where(labels > 0, -100))}, None),
        (
            "prediction_suits_the_loss",
            {"loss": F.nll_loss, "model": sure()},
            "end the model with log_softmax",
        ),
        (
            "prediction_suits_the_loss",
            {
                "loss": nn.BCELoss(),
                "model": nn.Linear(4, 4),
                "data": (inputs, (inputs > 0).float()),
            },
            "goes beyond 0 to 1|failed",
        ),
        (
            "prediction_suits_the_loss",
            {
                "loss": nn.BCEWithLogitsLoss(),
                "model": nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()),
                "data": (inputs, (inputs > 0).float()),
            },
            "ends with a sigmoid",
        ),
        ("prediction_suits_the_loss", {"model": net(nn.LogSoftmax(1))}, None),
        (
            "prediction_suits_the_loss",
            {
                "model": net(nn.Softmax(1)),
                "loss": st.Loss(F.cross_entropy, input="pred", target="target"),
            },
            "ends with a softmax",
        ),
        (
            "one_step_lowers_the_loss",
            {
                "loss": st.Loss(F.cross_entropy, input="pred", target="target"),
                "opt_hparams": {"lr": 500.0},
            },
            "raises the loss",
        ),
        (
            "last_batch_is_not_one_sample",
            {
                "model": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
                "dataloader_options": {"batch_size": 1},
            },
            "the batch size is 1",
        ),
        (
            "last_batch_is_not_one_sample",
            {
                "data": xy(33),
                "model": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
                "dataloader_options": {"drop_last": True},
            },
            None,
        ),
        ("samples_do_not_mix", {"model": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))}, None),
    ],
)
def test_further_cases(name, options, words):
    "What else a check finds, and what it does not mind."
    problems = found(**{"data": xy(), **options})
    if words is None:
        assert name not in problems
    else:
        assert re.search(words, problems[name]), problems


# ---------------------------------------------------------------- it leaves the run as it was


class Noisy(Dataset):
    """Samples with noise from every generator that there is, and from one of its own."""

    def __init__(self) -> None:
        self.inputs, self.labels = xy()
        self.generator = torch.Generator().manual_seed(5)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index):
        noise = torch.randn(4) + torch.randn(4, generator=self.generator) + random.random()
        return self.inputs[index] + 0.1 * noise, self.labels[index]


class Stream(IterableDataset):
    """The same samples, without a length."""

    def __iter__(self):
        return iter([(x + 0.1 * torch.randn(4), y) for x, y in zip(*xy(), strict=True)])


DATA = {
    "arrays": lambda: xy(),
    "a dataset that draws": Noisy,
    "a loader": lambda: DataLoader(Noisy(), batch_size=8, shuffle=True),
    "a loader with a generator": lambda: DataLoader(
        shared, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(3)
    ),
    "an iterable dataset": lambda: DataLoader(Stream(), batch_size=8),
    "a list": lambda: [(inputs[:16], labels[:16]), (inputs[16:], labels[16:])],
    "a function": lambda: lambda: iter([(inputs + torch.randn(32, 4), labels)]),
}


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("kind", DATA)
def test_the_run_is_the_same(kind, seed, cnn):
    "Weights, buffers, momentum, rows and the generators afterwards are those of a run without it, to the last bit."

    def run(*callbacks):
        random.seed(7)
        model = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.ReLU(), nn.Linear(6, 3)
        )
        torch.manual_seed(0)
        for layer in model:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        done = fit(
            DATA[kind](),
            model,
            check=list(callbacks),
            seed=seed,
            optimizer=torch.optim.Adam,
            valid=xy(8, seed=2),
        )
        rows = [{**row, "seconds": 0} for row in done.history]
        return bits(done.model, done.ctx.opt), rows, torch.rand(3).tolist(), random.random()

    assert run(st.SanityCheck()) == run()


def test_an_iterator_is_not_drawn_from():
    "What can be read once is left alone, and what needs no batch is checked all the same."
    check = st.SanityCheck(without="validation_data_is_given")
    run = fit(
        iter([(inputs, labels)] * 3),
        without_a_layer()["model"],
        check=check,
        epochs=1,
        optimizer=torch.optim.SGD,
    )
    assert run.ctx.step == 3
    assert check.problems == {}


def test_gradients_that_were_there_stay():
    "A loss that holds on to the model itself is computed without leaving gradients behind."
    model = net()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    check = st.SanityCheck()
    fit(
        xy(),
        model,
        check=check,
        start=False,
        loss=lambda pred, target: F.cross_entropy(pred, target) + model[0].weight.square().sum(),
    )
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[2].weight.grad is None


# ---------------------------------------------------------------- what it leads to


def test_problems_are_told(caplog):
    "In the log, all of them together, and the run goes on."
    with caplog.at_level(logging.WARNING, "statetrain"):
        run = fit(
            DataLoader(shared, batch_size=8),
            net(nn.Softmax(1)),
            check=st.SanityCheck(),
            valid=xy(8, seed=2),
        )
    assert run.outcome.ok
    (record,) = caplog.records
    assert (
        record.getMessage().splitlines()[0]
        == f"sanity check: 2 of {len(CHECKS)} checks found a problem"
    )
    assert "training_data_is_shuffled: the training data comes" in record.getMessage()


def test_problems_are_raised():
    "Nothing is trained; a check that one does not mean can be left out."
    model = net(nn.Softmax(1))
    before = bits(model)
    with pytest.raises(
        ConfigError, match=r"prediction_suits_the_loss: the model ends with a softmax.*\n.*without="
    ):
        fit(xy(), model, check=st.SanityCheck("raise"))
    assert bits(model) == before
    assert fit(
        xy(),
        model,
        check=st.SanityCheck(
            "raise", without=["prediction_suits_the_loss", "validation_data_is_given"]
        ),
    ).outcome.ok


def test_checks_of_ones_own():
    "A function of the probe, which has the batch, the prediction and the losses."

    def batches_are_large(probe):
        return (
            "take more"
            if len(probe.aside.input) < 64
            and probe.pred.shape == (32, 3)
            and probe.before["opt"] > 0
            else None
        )

    check = st.SanityCheck(more=[batches_are_large])
    fit(xy(), check=check, start=False, valid=xy(8, seed=2))
    assert check.problems == {"batches_are_large": "take more"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: st.SanityCheck("shout"), "'warn', 'raise', got 'shout'"),
        (lambda: st.SanityCheck(without="labels_in_rang"), "did you mean 'labels_in_range'"),
        (lambda: st.SanityCheck(more=[3]), "a function of a Probe, got 3"),
    ],
)
def test_what_it_does_not_take(make, words):
    "Names of checks and what they lead to are checked when it is made."
    with pytest.raises(ConfigError, match=words):
        make()


def test_other_lifecycles_and_optimizers():
    "A computation of one's own is not run; several optimizers and one that computes the loss again are."

    def compute(ctx):
        "compute"
        loss = F.cross_entropy(ctx.model(ctx.input), ctx.target)
        loss.backward()
        return loss

    calls = []
    assert found(xy(), compute=lambda ctx: calls.append(1) or compute(ctx), loss=None) == {}
    assert calls == []
    assert found(xy(), optimizer=torch.optim.LBFGS) == {}
    model = net()
    several = {
        "first": torch.optim.SGD(model[0].parameters(), lr=0.05),
        "out": torch.optim.SGD(model[2].parameters(), lr=0.05),
    }
    assert found(xy(), model, optimizer=several, opt_hparams=None) == {}


# ---------------------------------------------------------------- what no optimizer has


class Scaled(nn.Module):
    "A loss with a parameter of its own."

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, pred, target):
        return F.mse_loss(pred, target) * self.scale.exp() - self.scale


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


def regression():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(16, 3, generator=generator)
    return [(X, X.sum(1, keepdim=True))]


def fit_parts(model, **options):
    given = {"loss": F.mse_loss, "optimizer": torch.optim.SGD, "epochs": 3}
    return st.fit(model, regression(), **{**given, **options})


def test_gradients_that_no_optimizer_uses_are_warned_of_once():
    "Parameters that were not given, those of a loss, and a layer that is unfrozen later: one warning, with the remedy."
    model = two_layers()
    with pytest.warns(
        UserWarning, match=r"no optimizer has '0\.weight', '0\.bias', which get"
    ) as found:
        fit_parts(model, optimizer=torch.optim.SGD(model[1].parameters(), lr=0.1))
    assert len(found) == 1

    loss = Scaled()
    with pytest.warns(UserWarning, match=r"has 'loss.scale', .*\*loss.parameters\(\)"):
        fit_parts(two_layers(), loss=loss)
    assert loss.scale == 1.0

    model = two_layers()
    model[0].requires_grad_(False)
    epochs = []

    @st.on("enter_epoch")
    def unfreeze(ctx):
        epochs.append(ctx.epoch)
        ctx.model[0].requires_grad_(ctx.epoch > 1)

    with pytest.warns(UserWarning, match=r"add what is unfrozen later by ctx.opt.add_param_group"):
        fit_parts(model, callbacks=unfreeze)
    assert epochs == [1, 2, 3]


def test_what_is_right_is_not_warned_of():
    "Frozen parameters, several optimizers that share them, and a loss whose parameters are given."
    model, loss = two_layers(), Scaled()
    fit_parts(
        model, loss=loss, optimizer=torch.optim.SGD([*model.parameters(), *loss.parameters()], 0.1)
    )
    optimizers = {name: torch.optim.SGD(model[i].parameters(), 0.1) for i, name in enumerate("ab")}
    fit_parts(model, optimizer=optimizers)
    model[0].requires_grad_(False)
    fit_parts(model, optimizer=torch.optim.SGD(model[1].parameters(), lr=0.1))


def test_the_check_knows_the_parameters_of_a_loss():
    "Before training, by the same word."
    check = st.SanityCheck({"optimizer_has_all_parameters": "raise"})
    with pytest.raises(st.ConfigError, match=r"no optimizer has the parameters loss\.scale"):
        fit_parts(two_layers(), loss=Scaled(), callbacks=check)


def test_each_check_has_a_level(caplog):
    "A mapping says which problems end the run; the others are written to the log."
    broken = [(torch.full((4, 3), float("nan")), torch.zeros(4, 1))] * 2
    options = {"loss": F.mse_loss, "optimizer": torch.optim.SGD, "epochs": 1}
    with pytest.raises(st.ConfigError, match="inputs_are_finite"):
        st.fit(
            two_layers(),
            broken,
            callbacks=st.SanityCheck({"inputs_are_finite": "raise"}),
            **options,
        )
    ends = st.SanityCheck({"labels_in_range": "raise"})
    st.fit(two_layers(), broken, callbacks=ends, non_finite="ignore", **options)
    assert "inputs_are_finite" in caplog.text
    with pytest.raises(st.ConfigError, match="there is no check 'labels'"):
        st.SanityCheck({"labels": "raise"})
    with pytest.raises(st.ConfigError, match="then must be one of 'warn', 'raise', got 'error'"):
        st.SanityCheck({"labels_in_range": "error"})
