"""SaveWeights: files of weights under names of one's own."""

import pytest
import torch
import torch.nn.functional as F

import statetrain as st

pytest.importorskip("safetensors", reason="the extra `checkpoint` is not installed")

BATCH = [(torch.ones(2, 3), torch.zeros(2, 1))]


def fit(callback, losses, **options):
    """Trains a model whose validation loss goes as told, one value an epoch; each epoch changes the weights."""
    told = iter(losses)

    def valid(ctx):
        return torch.tensor(next(told))

    model = torch.nn.Linear(3, 1)
    sgd = {"optimizer": torch.optim.SGD, "opt_hparams": {"lr": 0.01}, "loss": F.mse_loss}
    return st.fit(
        model,
        BATCH,
        valid=BATCH,
        valid_compute=valid,
        epochs=len(losses),
        callbacks=callback,
        **sgd,
        **options,
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_path_is_a_pattern_of_columns(tmp_path):
    """Each row makes a file named by its counters and metrics; folders are made; the last file holds the model's weights."""
    run = fit(
        st.SaveWeights(tmp_path / "deep" / "e{epoch:02d}-{valid_loss:.2f}.safetensors"), [3.0, 1.0]
    )
    assert names(tmp_path / "deep") == ["e01-3.00.safetensors", "e02-1.00.safetensors"]
    fresh = torch.nn.Linear(3, 1)
    st.load_weights(fresh, tmp_path / "deep" / "e02-1.00.safetensors")
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.parameters(), run.model.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("mode", "losses", "left"),
    [
        ("min", [5.0, 4.0, 3.0, 9.0, 2.0, 10.0, 11.0, 1.0], ["5", "8"]),
        ("min", [5.0, 4.0, 3.0, 9.0], ["2", "3", "4"]),
        ("max", [5.0, 4.0, 3.0, 9.0], ["1", "4"]),
        ("zero", [5.0, -4.0, 3.0, -9.0], ["2", "3", "4"]),
        ("min", [1.0, float("nan")], ["1", "2"]),
        ("min", [float("nan"), 3.0, 2.0, 1.0], ["3", "4"]),
    ],
)
def test_the_best_and_the_latest_are_kept(tmp_path, mode, losses, left):
    """Of all files the best two and the latest stay; NaN is never among the best of numbers."""
    callback = st.SaveWeights(tmp_path / "{epoch}.safetensors", "valid_loss", mode, keep=2)
    fit(callback, losses)
    assert names(tmp_path) == [f"{name}.safetensors" for name in left]
    assert sorted(path.name for path in callback.saved) == names(tmp_path)


def test_only_improvements(tmp_path):
    """With best_only a row that is no better than all before makes no file, and NaN never does."""
    fit(
        st.SaveWeights(tmp_path / "{epoch}.safetensors", "valid_loss", best_only=True),
        [float("nan"), 3.0, 3.0, 1.0, 2.0, 0.5],
    )
    assert names(tmp_path) == ["2.safetensors", "4.safetensors", "6.safetensors"]


def test_every_other_epoch(tmp_path):
    """An interval says which rows are saved."""
    fit(st.SaveWeights(tmp_path / "{epoch}.safetensors", every=st.Every(2, "epochs")), [1.0] * 5)
    assert names(tmp_path) == ["2.safetensors", "4.safetensors"]


def test_two_with_one_interval_keep_out_of_each_others_way(tmp_path):
    """Each remembers its own firings, also behind a condition."""
    every = st.Every(2, "epochs")
    first, second = (
        st.SaveWeights(tmp_path / "a{epoch}.safetensors", every=every),
        st.SaveWeights(tmp_path / "b{epoch}.safetensors", every=every),
    )
    fit([first, st.only_if(lambda ctx: ctx.epoch > 2, second)], [1.0] * 5)
    assert names(tmp_path) == [
        "a2.safetensors",
        "a4.safetensors",
        "b3.safetensors",
        "b4.safetensors",
    ]


def test_what_it_kept_is_remembered_and_only_its_own_files_are_deleted(tmp_path):
    """A run that resumes deletes what is no longer among the best under its own path.

    One that was branched off, with another path, leaves the first run's files.
    """
    first = st.SaveWeights(tmp_path / "a{epoch}.safetensors", "valid_loss", keep=1)
    fit(first, [2.0, 3.0])
    state = first.state_dict()
    branched = st.SaveWeights(tmp_path / "b{epoch}.safetensors", "valid_loss", keep=1)
    branched.load_state_dict(state)
    branched.on_enter_fit = lambda ctx: None  # it resumes
    fit(branched, [1.0])
    assert names(tmp_path) == ["a1.safetensors", "a2.safetensors", "b1.safetensors"]
    again = st.SaveWeights(tmp_path / "a{epoch}.safetensors", "valid_loss", keep=1)
    again.load_state_dict(state)
    again.on_enter_fit = lambda ctx: None
    fit(again, [4.0, 4.0, 0.5])
    assert names(tmp_path) == ["a3.safetensors", "b1.safetensors"]


def test_a_state_cannot_lead_to_files_elsewhere(tmp_path):
    """Values that would leave the folder are dropped: a checkpoint may come from anyone."""
    (tmp_path / "w").mkdir()
    (tmp_path / "thesis.safetensors").write_text("precious")
    callback = st.SaveWeights(tmp_path / "w/{epoch}.safetensors", "valid_loss", keep=1)
    callback.load_state_dict({"files": [[{"epoch": "../thesis"}, 1e9, 1], [{"step": 1}, 2.0, 1]]})
    assert callback.saved == []
    callback.load_state_dict({"files": [["thesis", 1e9], [], "abc", 3, [{"epoch": 1}, "x", 1]]})
    callback.on_enter_fit = lambda ctx: None
    fit(callback, [2.0, 1.0])
    assert (tmp_path / "thesis.safetensors").read_text() == "precious"
    assert names(tmp_path / "w") == ["2.safetensors"]


def test_a_second_fit_has_its_own_best(tmp_path):
    """The best of an earlier run is not the one to beat, and its files stay."""
    callback = st.SaveWeights(tmp_path / "{epoch}-{valid_loss}.safetensors", "valid_loss", keep=1)
    fit(callback, [1.0])
    fit(callback, [9.0, 8.0])
    assert names(tmp_path) == ["1-1.0.safetensors", "2-8.0.safetensors"]


def test_min_delta_is_what_an_improvement_exceeds(tmp_path):
    """With best_only, a row that is better by no more than it makes no file."""
    options = {"best_only": True, "min_delta": 0.5}
    fit(st.SaveWeights(tmp_path / "{epoch}.st", "valid_loss", **options), [3.0, 2.6, 2.4, 1.0])
    assert names(tmp_path) == ["1.st", "3.st", "4.st"]


def test_a_row_of_a_part_of_an_epoch_does_not_count_for_the_training(tmp_path):
    """With validations inside the epoch, train_loss covers a part; valid_loss is whole each time."""
    two = [(torch.ones(2, 3), torch.zeros(2, 1))] * 4
    for monitor, expected in (("train_loss", ["4", "8"]), ("valid_loss", ["3", "6"])):
        st.fit(
            torch.nn.Linear(3, 1),
            two,
            valid=BATCH,
            validate=st.Every(3, "steps"),
            loss=F.mse_loss,
            optimizer=torch.optim.SGD,
            epochs=2,
            callbacks=st.SaveWeights(tmp_path / monitor / "{step}", monitor),
        )
        assert names(tmp_path / monitor) == expected


def test_a_path_that_cannot_be_written_is_an_error_before_the_first_batch(tmp_path):
    """A file where a folder has to be, and a format that does not suit numbers."""
    (tmp_path / "file").write_text("not a folder")
    steps = st.on("exit_step")(lambda ctx: pytest.fail("a step was made"))
    with pytest.raises(st.ConfigError, match=r"SaveWeights cannot write to .*file"):
        fit([steps, st.SaveWeights(tmp_path / "file" / "{epoch}")], [1.0])
    with pytest.raises(st.ConfigError, match=r"cannot be read: .*format"):
        st.SaveWeights(tmp_path / "{epoch:z}")


@pytest.mark.parametrize("made", [st.SaveWeights, st.KeepBest, st.Checkpoint, st.EarlyStopping])
def test_a_monitor_of_which_higher_is_better_needs_a_mode(made, tmp_path):
    """The lowest accuracy is hardly meant: without a mode there is a warning; with one, none."""
    path = {st.SaveWeights: {"path": tmp_path}, st.Checkpoint: {"folder": tmp_path}}.get(made, {})
    for column in ("valid_accuracy", "test_acc", "valid_f1", "valid_top5"):
        with pytest.warns(UserWarning, match=f"takes the lowest {column} for the best"):
            made(**path, monitor=column)
    made(**path, monitor="valid_accuracy", mode="min")
    made(**path, monitor="valid_loss")
    made(**path, monitor="valid_accumulated_loss")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "w.safetensors", "keep": 2}, "keep needs a monitor"),
        (
            {"path": "w.safetensors", "monitor": "valid_loss", "keep": 0},
            "keep must be a whole number of at least 1",
        ),
        (
            {"path": "w.safetensors", "mode": "mim"},
            "mode must be one of 'min', 'max', 'zero', got 'mim'; did you mean 'min'",
        ),
        ({"path": "{epoch"}, "cannot be read"),
        ({"path": "{ctx.model}"}, r"\{ctx.model\} in the path names no column"),
    ],
)
def test_what_cannot_be(arguments, message):
    """Arguments out of range are errors when the callback is made."""
    with pytest.raises(st.ConfigError, match=message):
        st.SaveWeights(**arguments)


def test_a_column_that_nothing_writes(tmp_path):
    """A misspelt column in the path is an error before the first batch."""
    with pytest.raises(
        st.ConfigError, match="nothing writes the monitor 'valid_los'; did you mean 'valid_loss'"
    ):
        fit(st.SaveWeights(tmp_path / "{valid_los:.2f}.safetensors"), [1.0])


@pytest.mark.parametrize("averages", [False, True], ids=["weights", "average"])
def test_the_trained_weights_alone(averages, tmp_path):
    """Frozen parameters are left out; with EMA(valid=True) the others are the average's."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    ema = st.EMA(0.5, valid=True)
    run = st.fit(
        model,
        BATCH * 3,
        valid=BATCH,
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        callbacks=[ema] * averages + [st.SaveWeights(tmp_path / "w", trained_only=True)],
        epochs=1,
    )
    again = torch.nn.Linear(2, 1)
    st.load_weights(again, tmp_path / "w", rename={"1.": ""})
    wanted = ema.model if averages else run.model
    assert torch.equal(again.weight, wanted[1].weight)
    assert torch.equal(again.bias, wanted[1].bias)
