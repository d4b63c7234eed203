"""A finished run in a file, and weights alone; nothing in a file is ever executed."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.callbacks.checkpoint import Checkpoint
from statetrain.checkpoints import tensorfile
from statetrain.errors import CheckpointError


class Net(torch.nn.Sequential):
    def __init__(self, hidden=6):
        super().__init__(
            torch.torch.nn.Linear(4, hidden),
            torch.nn.BatchNorm1d(hidden),
            torch.nn.ReLU(),
            torch.torch.nn.Linear(hidden, 3),
        )


def accuracy(pred, target):
    return (pred.argmax(1) == target).float().mean()


@pytest.fixture
def run(points):
    "Two epochs of a small network, with validation, a metric and a record."

    class Note(st.Callback):
        def on_exit_step(self, ctx):
            ctx.log("steps", ctx.step)

    return st.fit(
        Net,
        points,
        valid=points,
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam,
        epochs=2,
        metrics=accuracy,
        callbacks=Note(),
        hparams={"hidden": 5},
        opt_hparams={"lr": 0.01, "betas": (0.8, 0.9)},
    )


def test_a_run_comes_back_from_its_file(run, points, tmp_path):
    "Weights to the bit, history, records and hyperparameters; the model that they are put into predicts and is evaluated."
    path = tmp_path / "some" / "run.safetensors"
    st.save(run, path)
    saved = st.load(path)
    assert saved.history == run.history
    assert saved.records == {"steps": [1, 2]}
    assert (saved.hparams, saved.opt_hparams) == ({"hidden": 5}, {"lr": 0.01, "betas": (0.8, 0.9)})
    assert saved.outcome == run.outcome == st.Completed(epoch=2)
    assert repr(saved) == "<SavedRun of Net: Completed(epoch=2), 2 rows>"
    for model in (saved.restore(Net), saved.restore(Net(5))):
        assert bits(model) == bits(run.model)
        assert torch.equal(st.predict(model, points), run.predict(points))
        assert st.evaluate(model, points, loss=F.cross_entropy, metrics=accuracy) == run.evaluate(
            points
        )
    assert [path.name for path in path.parent.iterdir()] == ["run.safetensors"]


def test_what_is_left_of_a_run(run):
    "ctx.state_dict() is plain data and the model's own tensors, also when the context was cleaned."
    run.ctx.clean()
    state = run.ctx.state_dict()
    assert state["weights"]["0.weight"].data_ptr() == run.model[0].weight.data_ptr()
    assert st.History(state["history"]) == run.history
    assert state["records"] == {"steps": [1, 2]}
    assert state["hparams"] == {"hidden": 5}


def test_arguments_that_are_no_plain_data_are_kept_in_words(points, tmp_path):
    "An activation function among the hyperparameters is no reason to lose a run at its end."

    class Chosen(torch.torch.nn.Linear):
        def __init__(self, activation):
            super().__init__(4, 3)
            self.activation = activation

    run = st.fit(
        Chosen,
        points,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        epochs=1,
        hparams={"activation": torch.relu},
        opt_hparams={"lr": 0.1},
    )
    st.save(run, tmp_path / "run")
    saved = st.load(tmp_path / "run")
    assert saved.hparams == {"activation": repr(torch.relu)}
    assert bits(saved.restore(Chosen(torch.relu))) == bits(run.model)


def test_losses_of_several_optimizers_come_back_as_such(points, tmp_path):
    "The long form of the history knows the optimizers."
    model = Net()
    optimizers = {
        "first": torch.optim.SGD(model[0].parameters(), lr=0.1),
        "last": torch.optim.SGD(model[3].parameters(), lr=0.1),
    }
    run = st.fit(model, points, loss=F.cross_entropy, optimizer=optimizers, epochs=1)
    st.save(run, tmp_path / "run")
    assert st.load(tmp_path / "run").history.table() == run.history.table()


@pytest.mark.parametrize("given", [lambda run: run, lambda run: run.model], ids=["run", "module"])
def test_weights_alone(given, run, tmp_path):
    "They are put in place, from a file of weights or from a saved run; other tools know the file."
    safetensors = pytest.importorskip(
        "safetensors.torch", reason="the extra `checkpoint` is not installed"
    )
    st.save_weights(given(run), tmp_path / "weights.safetensors")
    st.save(run, tmp_path / "run.safetensors")
    for name in ("weights.safetensors", "run.safetensors"):
        model = Net(5)
        st.load_weights(model, tmp_path / name)
        assert bits(model) == bits(run.model)
    theirs = safetensors.load_file(tmp_path / "weights.safetensors")
    assert {name: value.shape for name, value in theirs.items()} == {
        name: value.shape for name, value in run.model.state_dict().items()
    }
    safetensors.save_file({name: value + 1 for name, value in theirs.items()}, tmp_path / "theirs")
    before = copy.deepcopy(run.model)
    st.load_weights(given(run), tmp_path / "theirs")
    assert torch.equal(run.model[0].weight, before[0].weight + 1)


def test_the_weights_of_a_part(run, tmp_path):
    "A part of a model is a module: its weights go into a part of another model, under whatever name it has there."
    st.save_weights(run.model[0], tmp_path / "first")
    other = torch.nn.ModuleDict({"backbone": torch.nn.Linear(4, 5), "head": torch.nn.Linear(5, 2)})
    head = bits(other["head"])
    st.load_weights(other["backbone"], tmp_path / "first")
    assert bits(other["backbone"]) == bits(run.model[0])
    assert bits(other["head"]) == head
    with pytest.raises(CheckpointError, match="another model's than Linear's"):
        st.load_weights(other["head"], tmp_path / "first")


def test_another_models_weights_are_refused(run, tmp_path):
    "The message says what does not fit, and nothing of it is loaded."
    st.save_weights(run, tmp_path / "weights")
    model = Net(6)
    before = bits(model)
    with pytest.raises(
        CheckpointError,
        match=(
            r"another model's than Net's: '0.weight' of shape \(5, 4\), where the model's is \(6,"
            r" 4\); .* \.\.\."
        ),
    ):
        st.load_weights(model, tmp_path / "weights")
    with pytest.raises(
        CheckpointError, match=r"no 'weight'; no 'bias'; '[^']+', which the model does not have"
    ):
        st.load_weights(torch.torch.nn.Linear(4, 3), tmp_path / "weights")
    assert bits(model) == before


def test_the_weights_of_a_checkpoint(points, tmp_path):
    "Of one, or of the newest of a directory; the model's weights alone are put in place."
    run = st.fit(
        Net(),
        points,
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam,
        epochs=2,
        callbacks=Checkpoint(tmp_path / "saved"),
    )
    folder = tmp_path / "saved"
    model = Net()
    before = bits(model)
    load_order = sorted(path for path in folder.iterdir() if path.is_dir())
    st.load_checkpoint(model, load_order[0])
    first = bits(model)
    st.load_checkpoint(model, folder)
    assert before != first != bits(model) == bits(run.model)
    (tmp_path / "empty").mkdir()
    for nothing in ("empty", "none"):
        with pytest.raises(CheckpointError, match="there is no checkpoint in"):
            st.load_checkpoint(model, tmp_path / nothing)


class Trap:
    """Unpickling it would be noticed."""

    def __reduce__(self):
        return (pytest.fail, ("code in a file was run",))


def test_a_file_that_is_something_else_is_an_error(run, tmp_path):
    "A pickle is not unpickled; a damaged file and weights alone are no run, and the message says which file."
    st.save(run, tmp_path / "run")
    whole = (tmp_path / "run").read_bytes()
    files = {
        "pickle": pickle.dumps(Trap()),
        "empty": b"",
        "short": whole[:-10],
        "damaged": whole.replace(b'\\"hparams\\"', b'\\"hparods\\"'),
        "future": whole.replace(b'\\"format\\":4', b'\\"format\\":7'),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            st.load(tmp_path / name)
    st.save_weights(run, tmp_path / "weights")
    with pytest.raises(CheckpointError, match=r"weights holds no run; .* use load_weights"):
        st.load(tmp_path / "weights")
    with pytest.raises(FileNotFoundError):
        st.load(tmp_path / "nothing")


def test_what_cannot_be_saved_leaves_the_file_as_it_was(run, tmp_path):
    "The error says what it is; the older file is whole, and nothing lies beside it."
    path = tmp_path / "run"
    st.save(run, path)
    before = path.read_bytes()
    run.ctx.log("thing", object())
    with pytest.raises(CheckpointError, match=r"records\.thing.*object"):
        st.save(run, path)
    with pytest.raises(st.ConfigError, match="for a model alone, use save_weights"):
        st.save(run.model, path)

    class Extra(torch.torch.nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state): ...

    with pytest.raises(CheckpointError, match="'_extra_state' is a dict; use save"):
        st.save_weights(Extra(2, 2), path)
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class Wider(torch.nn.Module):
    """A network whose first layer is another one's, under another name."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.ModuleDict({"0": torch.nn.Linear(4, 5)})
        self.head = torch.nn.Linear(5, 2)


@pytest.mark.parametrize("kind", ["safetensors", "torch", "checkpoint"])
def test_weights_are_loaded_in_part(kind, points, tmp_path):
    "By new names, without some; what is not loaded stays, and without strict=False each name has to be met."
    run = st.fit(
        Net(5),
        points,
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam,
        epochs=1,
        callbacks=Checkpoint(tmp_path / "checkpoint"),
    )
    st.save_weights(run, tmp_path / "safetensors")
    torch.save(run.model.state_dict(), tmp_path / "torch")
    load = st.load_checkpoint if kind == "checkpoint" else st.load_weights
    model = Wider()
    before = copy.deepcopy(model)
    chosen = {"rename": {"0.": "backbone.0."}, "exclude": ["1.*", "3.*"]}
    with pytest.raises(CheckpointError, match=r"no 'head\.weight'"):
        load(model, tmp_path / kind, **chosen)
    assert bits(model) == bits(before)
    load(model, tmp_path / kind, **chosen, strict=False)
    assert bits(model.backbone["0"]) == bits(run.model[0])
    assert bits(model.head) == bits(before.head)
    with pytest.raises(CheckpointError, match="none of the weights has a name"):
        load(model, tmp_path / kind, strict=False)
    with pytest.raises(CheckpointError, match=r"'0.weight' of shape \(5, 4\)"):
        load(Net(6), tmp_path / kind, strict=False)
    with pytest.raises(st.ConfigError, match="exclude='tail' fits none of '"):
        load(model, tmp_path / kind, exclude="tail")
    with pytest.raises(st.ConfigError, match="no name begins with 'encoder'"):
        load(model, tmp_path / kind, rename={"encoder": "x"})
    with pytest.raises(st.ConfigError, match=r"two weights the name '3\."):
        load(model, tmp_path / kind, rename={"0.": "3."})


def test_a_file_of_torch_runs_no_code_and_holds_weights(tmp_path):
    "Objects are refused, and so is a whole training state."
    torch.save({"trap": Trap()}, tmp_path / "trap")
    torch.save({"epoch": 3}, tmp_path / "state")
    torch.save([torch.zeros(2)], tmp_path / "list")
    for name, words in {
        "trap": "trap cannot be read with weights_only=True",
        "state": "state holds no tensors by name",
        "list": "list holds a list",
    }.items():
        with pytest.raises(CheckpointError, match=words):
            st.load_weights(Net(), tmp_path / name)


def test_an_average_is_loaded_whole(tmp_path):
    "It has names of its own."
    with pytest.raises(st.ConfigError, match="loads a whole model"):
        st.load_checkpoint(Net(), tmp_path, average=True, strict=False)


def test_how_a_run_ended_comes_back(points, tmp_path):
    "Stopped with its reason; failed with the state and what the error was; not begun as None."
    common = {"loss": F.cross_entropy, "optimizer": torch.optim.Adam}
    stopped = st.fit(Net(5), points, stop=st.Threshold("train_loss", 100), **common)
    st.save(stopped, tmp_path / "stopped")
    assert st.load(tmp_path / "stopped").outcome == stopped.outcome

    @st.on("enter_step")
    def fail(ctx):
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom") as failed:
        st.fit(Net(5), points, callbacks=fail, **common)
    st.save(failed.value.run, tmp_path / "failed")
    outcome = st.load(tmp_path / "failed").outcome
    assert (outcome.state, outcome.epoch, outcome.ok) == ("step", 1, False)
    assert str(outcome.error) == "ValueError('boom')"

    st.save(st.fit(Net(5), points, start=False, **common), tmp_path / "new")
    assert st.load(tmp_path / "new").outcome is None


def test_the_trained_weights_alone(points, tmp_path):
    "All but the frozen parameters are written; put into a model with the same frozen ones, they make the run's model."
    model = Net()
    model[0].requires_grad_(False)
    run = st.fit(model, points, loss=F.cross_entropy, optimizer=torch.optim.SGD, epochs=1)
    st.save_weights(run, tmp_path / "trained", trained_only=True)
    tensors, _ = tensorfile.read(tmp_path / "trained")
    assert set(tensors) == set(model.state_dict()) - {"0.weight", "0.bias"}
    again = Net()
    again[0].load_state_dict(model[0].state_dict())
    st.load_weights(again, tmp_path / "trained", strict=False)
    assert bits(again) == bits(run.model)
    with pytest.raises(CheckpointError, match=r"no '0\.weight'"):
        st.load_weights(again, tmp_path / "trained")
    with pytest.raises(CheckpointError, match="no parameter of Net requires a gradient"):
        st.save_weights(model.requires_grad_(False), tmp_path / "none", trained_only=True)
    assert not (tmp_path / "none").exists()


def test_adapters_are_saved_alone(tmp_path):
    "With LoRA of peft, average, optimizer and file hold the adapters; a fresh base with them predicts the same."
    peft = pytest.importorskip("peft", reason="peft is not installed")

    def adapted():
        torch.manual_seed(0)
        base = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        return peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0", "2"]))

    x, y = torch.randn(24, 4), torch.arange(24) % 3
    ema = st.EMA(0.5)
    run = st.fit(
        adapted(),
        (x, y),
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam,
        opt_hparams={"lr": 0.1},
        epochs=2,
        callbacks=[ema, st.SaveWeights(tmp_path / "by-epoch-{epoch}", trained_only=True)],
    )
    adapters = {name for name, one in run.model.named_parameters() if one.requires_grad}
    assert len(adapters) == 4
    assert {name.removeprefix("0.") for name in ema.state_dict()["average"]} == adapters
    assert len(run.ctx.opt.state_dict()["state"]) == 4
    st.save_weights(run, tmp_path / "trained", trained_only=True)
    for name in ("trained", "by-epoch-2"):
        assert set(tensorfile.read(tmp_path / name)[0]) == adapters
        again = adapted()
        st.load_weights(again, tmp_path / name, strict=False)
        assert torch.equal(again.eval()(x), run.model.eval()(x))


class Framed(nn.Module):
    """A model with its weights one level down, as a trainer's own module has them."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize(
    ("saved", "arguments"),
    [
        (lambda net: {"state_dict": net.model.state_dict(), "epoch": 3, "callbacks": {}}, {}),
        (
            lambda net: {
                "model": net.model.state_dict(),
                "model_ema": Framed().model.state_dict(),
                "optimizer": torch.optim.Adam(net.parameters()).state_dict(),
            },
            {"part": "model"},
        ),
        (
            lambda net: {"state_dict": net.state_dict(), "hyper_parameters": {"lr": 0.1}},
            {"rename": {"model.": ""}},
        ),
        (
            lambda net: {f"module.{k}": v for k, v in net.model.state_dict().items()},
            {"rename": {"module.": ""}},
        ),
    ],
    ids=["alone", "one of two", "a trainer's", "wrapped"],
)
@pytest.mark.parametrize("archive", [True, False])
def test_weights_among_other_things_are_found(saved, arguments, archive, tmp_path):
    "As tutorials and trainers write them, also in the format that torch had before archives."
    torch.manual_seed(0)
    net, model = Framed(), Framed().model
    path = tmp_path / "file"
    torch.save(saved(net), path, _use_new_zipfile_serialization=archive)
    st.load_weights(model, path, **arguments)
    assert bits(model) == bits(net.model)


def test_errors_say_where_the_weights_are(tmp_path):
    "Which parts there are, and what stands before the names."
    net, model = Framed(), Framed().model
    two = {"model": model.state_dict(), "model_ema": model.state_dict(), "epoch": 1}
    torch.save(two, tmp_path / "two")
    for arguments in ({}, {"part": "ema"}):
        with pytest.raises(st.CheckpointError, match="by name in 'model', 'model_ema'; say which"):
            st.load_weights(model, tmp_path / "two", **arguments)
    torch.save(net.state_dict(), tmp_path / "framed")
    with pytest.raises(
        st.CheckpointError, match=r"'model\.' before them: rename=\{'model\.': ''\}"
    ):
        st.load_weights(model, tmp_path / "framed")
    st.save_weights(net, tmp_path / "safe")
    with pytest.raises(st.CheckpointError, match="so it has no 'model'"):
        st.load_weights(model, tmp_path / "safe", part="model")


def test_a_separator_is_a_text():
    "Python's error would be about something else."
    with pytest.raises(ValueError, match="separator must be a text"):
        st.Context().flatten(separator=3)
