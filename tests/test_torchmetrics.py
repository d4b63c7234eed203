"""torchmetrics' objects by their protocol, against the same computed by hand."""

import pytest
import torch
import torch.nn.functional as F

import statetrain as st

torchmetrics = pytest.importorskip("torchmetrics", reason="the extra `metrics` is not installed")


def data(classes=3, n=7):
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(5, 4, generator=generator),
            torch.randint(0, classes, (5,), generator=generator),
        )
        for _ in range(n)
    ]


def everything(model, batches):
    with torch.no_grad():
        return torch.cat([model(x) for x, _ in batches]), torch.cat([y for _, y in batches])


def test_classification_metrics():
    """Accuracy and multiclass AUROC over all batches are those of the whole data at once."""
    model = torch.nn.Linear(4, 3)
    metrics = {
        "accuracy": torchmetrics.classification.MulticlassAccuracy(3, average="micro"),
        "auroc": torchmetrics.classification.MulticlassAUROC(3),
    }
    got = st.evaluate(model, data(), loss=F.cross_entropy, metrics=metrics)
    pred, target = everything(model, data())
    assert got["accuracy"] == pytest.approx((pred.argmax(1) == target).float().mean().item())
    assert got["auroc"] == pytest.approx(
        torchmetrics.functional.classification.multiclass_auroc(pred, target, 3).item()
    )
    assert got["loss"] == pytest.approx(F.cross_entropy(pred, target).item())


def test_binary_metrics_with_and_without_logits():
    """Binary accuracy takes probabilities and logits alike, and binary AUROC needs no threshold."""
    for head in (torch.nn.Identity(), torch.nn.Sigmoid()):
        model = torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Flatten(0), head)
        loss = (
            (lambda p, t: F.binary_cross_entropy_with_logits(p, t.float()))
            if isinstance(head, torch.nn.Identity)
            else (lambda p, t: F.binary_cross_entropy(p, t.float()))
        )
        metrics = {
            "accuracy": torchmetrics.classification.BinaryAccuracy(),
            "auroc": torchmetrics.classification.BinaryAUROC(),
        }
        got = st.evaluate(model, data(2), loss=loss, metrics=metrics)
        pred, target = everything(model, data(2))
        positive = pred > (0.0 if isinstance(head, torch.nn.Identity) else 0.5)
        assert got["accuracy"] == pytest.approx((positive.long() == target).float().mean().item())
        assert got["auroc"] == pytest.approx(
            torchmetrics.functional.classification.binary_auroc(pred, target).item()
        )


def test_regression_metrics():
    """MAE, MSE and RMSE are those of the whole data at once, also with a short last batch."""
    batches = [(x, x.sum(1, keepdim=True)) for x, _ in data()]
    batches[-1] = (batches[-1][0][:2], batches[-1][1][:2])
    model = torch.nn.Linear(4, 1)
    metrics = {
        "mae": torchmetrics.MeanAbsoluteError(),
        "mse": torchmetrics.MeanSquaredError(),
        "rmse": torchmetrics.MeanSquaredError(squared=False),
    }
    got = st.evaluate(model, batches, loss=F.mse_loss, metrics=metrics)
    pred, target = everything(model, batches)
    assert got["mae"] == pytest.approx((pred - target).abs().mean().item(), rel=1e-5)
    assert got["mse"] == pytest.approx((pred - target).square().mean().item(), rel=1e-5)
    assert got["rmse"] == pytest.approx((pred - target).square().mean().sqrt().item(), rel=1e-5)


def test_metric_sets_for_train_and_valid_apart():
    """A metric for validation alone is no column of training; the user's object is left as it was; each row starts anew."""
    accuracy = torchmetrics.classification.MulticlassAccuracy(3, average="micro")
    run = st.fit(
        torch.nn.Linear(4, 3),
        data(),
        valid=data(),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.0},
        epochs=2,
        metrics={"error": lambda p, t: (p.argmax(1) != t).float().mean()},
        valid_metrics={"accuracy": accuracy},
    )
    assert "train_accuracy" not in run.history.columns
    assert (
        run.history["valid_accuracy"][0]
        == run.history["valid_accuracy"][1]
        == pytest.approx(1 - run.history["valid_error"][0])
    )
    assert accuracy._update_count == 0


def test_two_metrics_of_one_name_are_refused():
    """The same name in the common and in the valid set is an error before training."""
    accuracy = torchmetrics.classification.MulticlassAccuracy(3)
    with pytest.raises(st.ConfigError, match="two metrics are called 'accuracy'"):
        st.fit(
            torch.nn.Linear(4, 3),
            data(),
            valid=data(),
            loss=F.cross_entropy,
            optimizer=torch.optim.SGD,
            metrics={"accuracy": accuracy},
            valid_metrics={"accuracy": accuracy},
        )
