"""`TensorBoard`: its own reader finds what the history says."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.callbacks.tensorboard import TensorBoard
from statetrain.errors import ConfigError

pytest.importorskip("tensorboard")


def read(logdir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(logdir), size_guidance={"histograms": 0}).Reload()  # all of them


def scalars(logdir):
    events = read(logdir)
    # Files of one second are read by the letters of their names, so that the tenth of a process
    # comes before the ninth.
    return {
        tag: sorted((event.step, event.value) for event in events.Scalars(tag))
        for tag in events.Tags()["scalars"]
    }


def fit(data, callbacks, **options):
    common = {"loss": F.cross_entropy, "optimizer": torch.optim.SGD, "epochs": 3}
    return st.fit(nn.Linear(4, 3), data, callbacks=callbacks, **{**common, **options})


def test_every_column_at_its_step(tmp_path, points):
    "The scalars of a fit are its rows, grouped by set, at the steps of the rows."
    run = fit(points, TensorBoard(tmp_path), valid=0.3, dataloader_options={"batch_size": 8})
    found = scalars(tmp_path)

    assert set(found) == {"epoch", "batch", "samples", "seconds", "train/loss", "valid/loss"}
    for tag, column in (
        ("train/loss", "train_loss"),
        ("valid/loss", "valid_loss"),
        ("epoch", "epoch"),
    ):
        assert found[tag] == [(row["step"], pytest.approx(row[column])) for row in run.history]


def test_an_array_is_a_table_among_the_texts(tmp_path, points):
    "A vector has a row, a matrix has one for each of its own; what has more dimensions is a text."
    arrays = {
        "vector": torch.tensor([1.0, 2.5]),
        "confusion": torch.tensor([[3, 1], [0, 4]]),
        "cube": torch.zeros(1, 1, 2),
    }
    st.fit(
        nn.Linear(4, 3),
        points,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        epochs=1,
        callbacks=st.Logger(TensorBoard(tmp_path), what=lambda ctx: arrays),
    )
    events = read(tmp_path)
    texts = {
        name: events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()
        for name in arrays
    }
    assert texts == {
        "vector": "| 0 | 1 |\n| --- | --- |\n| 1.0 | 2.5 |",
        "confusion": "| 0 | 1 |\n| --- | --- |\n| 3 | 1 |\n| 0 | 4 |",
        "cube": "[[[0.0, 0.0]]]",
    }


def test_histograms_of_some_weights(tmp_path, points):
    "A pattern chooses the weights; there is a histogram of each per complete epoch."
    fit(
        points,
        TensorBoard(tmp_path, histograms=("w*",)),
        dataloader_options={"batch_size": 8},
        max_steps=7,
    )
    events = read(tmp_path)

    assert events.Tags()["histograms"] == ["weight"]
    assert [event.step for event in events.Histograms("weight")] == [3, 6]
    assert events.Histograms("weight")[0].histogram_value.num == 12


def test_weights_that_are_not_finite_are_left_out(tmp_path, points):
    "A histogram has the finite values; of none there is no histogram, and no error."
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight[0, 0] = torch.inf
        model.bias.fill_(torch.nan)
    st.fit(
        model,
        points,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.0},
        epochs=1,
        non_finite="skip",
        callbacks=TensorBoard(tmp_path / "skipped", histograms=True),
    )
    st.fit(
        model,
        points,
        compute=lambda ctx: 0 * model.weight[1:].sum(),
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.0},
        epochs=1,
        callbacks=TensorBoard(tmp_path, histograms=True),
    )

    assert read(tmp_path).Tags()["histograms"] == ["weight"]
    assert read(tmp_path).Histograms("weight")[0].histogram_value.num == 11


def test_a_failure_closes_the_file(tmp_path, points):
    "What was recorded before a failure can be read after it."

    class Fails(st.Callback):
        def on_enter_epoch(self, ctx):
            if ctx.epoch == 3:
                raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fit(points, [TensorBoard(tmp_path), Fails()])

    assert [value for _, value in scalars(tmp_path)["epoch"]] == [1, 2]


def test_a_fit_that_goes_on_goes_on_with_the_curves(tmp_path, points):
    "`run.fit` writes its rows after the others, once."
    fit(points, TensorBoard(tmp_path), epochs=1).fit(2)

    assert scalars(tmp_path)["epoch"] == [(1, 1), (2, 2), (3, 3)]


def test_a_run_that_is_continued_hides_what_came_after(tmp_path, points):
    "Events after the point where a run is continued are not shown beside the new ones."
    run = fit(points, TensorBoard(tmp_path), epochs=3)
    ctx, loaded = run.ctx, TensorBoard(tmp_path)
    del ctx.history.rows[1:]
    ctx.epoch, ctx.step, ctx.max_epochs = 1, 1, 2
    state = loaded.wrapped.state_dict()
    loaded.wrapped.load_state_dict({**state, "rows": 1, "backends": [["TensorBoard", {"step": 1}]]})
    st.Machine(run.lifecycle, [loaded]).run(ctx, at="next_epoch")

    assert scalars(tmp_path)["epoch"] == [(1, 1), (2, 2)]


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    "Without tensorboard, making the callback says what to install."
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'statetrain\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_a_pattern_without_a_match(tmp_path, points):
    "A pattern that matches no weight is refused before training."
    with pytest.raises(
        ConfigError, match="'wieght' matches no parameter of the model; did you mean 'weight'"
    ) as caught:
        fit(points, TensorBoard(tmp_path, histograms="wieght"))
    assert not hasattr(caught.value, "run")


@pytest.mark.parametrize("append", [False, True])
def test_a_new_run_hides_the_events_of_others_unless_it_appends(tmp_path, points, append):
    "Two runs of two epochs each into one folder: the points of the second, or of both."
    fit(points, TensorBoard(tmp_path, append=append), epochs=2)
    for file in tmp_path.iterdir():  # of a second long ago: files are read in the order of these
        file.rename(tmp_path / "events.out.tfevents.0000000001.other")
    fit(points, TensorBoard(tmp_path, append=append), epochs=2)
    steps = [event.step for event in read(tmp_path).Scalars("train/loss")]
    assert len(steps) == (4 if append else 2)
    assert sorted(set(steps)) == steps[-2:]


def test_whether_it_appends_is_true_or_false(tmp_path):
    "A word is refused."
    with pytest.raises(ConfigError, match="append"):
        TensorBoard(tmp_path, append="False")
