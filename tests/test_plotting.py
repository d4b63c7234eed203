"""Curves of a history."""

import pytest
import torch
import torch.nn.functional as F

import statetrain as st

matplotlib = pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")


def trained(**options):
    batches = [(torch.randn(2, 3), torch.randn(2, 1)) for _ in range(3)]
    return st.fit(
        torch.nn.Linear(3, 1),
        batches,
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.01},
        epochs=3,
        **options,
    )


def test_each_metric_is_a_panel_with_a_line_for_each_set(tmp_path):
    """Loss and a metric of a run with validation make two panels of two lines, with the history's values."""
    run = trained(valid=[(torch.randn(2, 3), torch.randn(2, 1))], metrics={"mae": F.l1_loss})
    figure = run.plot()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["loss", "mae"]
    lines = {line.get_label(): list(line.get_ydata()) for line in shown[0].get_lines()}
    assert lines == {"train": run.history["train_loss"], "valid": run.history["valid_loss"]}
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_several_optimizers_have_a_line_each():
    """The losses of two optimizers are two lines of one panel."""
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 1), "b": torch.nn.Linear(3, 1)})
    model.forward = lambda x: model["a"](x) + model["b"](x)
    batches = [(torch.randn(2, 3), torch.randn(2, 1)) for _ in range(3)]
    sgd = {"a": torch.optim.SGD, "b": torch.optim.SGD}
    run = st.fit(model, batches, loss=F.mse_loss, optimizer=sgd, opt_hparams={"lr": 0.01}, epochs=2)
    (axes,) = [axes for axes in run.plot("loss", x="step").axes if axes.get_visible()]
    assert {line.get_label() for line in axes.get_lines()} == {"train_loss_a", "train_loss_b"}


def test_unknown_names_are_errors():
    """A metric or a counter that is not there is named, with the nearest one."""
    run = trained()
    with pytest.raises(st.ConfigError, match="no metric 'los'; did you mean 'loss'"):
        run.plot("los")
    with pytest.raises(st.ConfigError, match="x must be one of 'epoch', 'batch', 'step'"):
        run.plot(x="epochs")
