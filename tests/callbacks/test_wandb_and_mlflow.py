"""`WandB` and `MLflow`: their own readers find what was logged. Nothing leaves the machine."""

from __future__ import annotations

import json
import struct
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.callbacks import mlflow as ours
from statetrain.errors import ConfigError

HOSTILE = [
    "../x",
    "/abs",
    "a\nb",
    "=cmd()",
    "<b>",
    "\x1b[2J",
    "\ud800",
    "a\x00b",
    "",
    "..",
    "a//b",
    "%2e%2e/x",
]


def fit(data, callbacks, **more):
    common = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "seed": 0,
        "verbose": False,
    }
    return st.fit(
        nn.Linear(4, 3),
        data,
        callbacks=callbacks,
        **{**common, "dataloader_options": {"batch_size": 8}, **more},
    )


def everything(ctx):
    "Each kind of loggable, once."
    return {
        "a/number": 1.5,
        "matrix": torch.eye(2),
        "note": st.Text("<b>\n=1"),
        "picture": st.Image(torch.ones(3, 2, 2)),
        "sound": st.Audio(torch.zeros(8), 8000),
        "file": st.File(__file__),
    }


@pytest.mark.parametrize("name", ["WandB", "MLflow"])
def test_a_missing_package_names_the_extra(name, monkeypatch):
    "Making the callback says what to install."
    monkeypatch.setitem(sys.modules, name.lower(), None)
    with pytest.raises(ImportError, match=rf"pip install 'statetrain\[{name.lower()}\]'"):
        getattr(st, name)()


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_names_that_mlflow_takes(name):
    "Whatever a name is made of, what MLflow gets has its few signs, is one path, and leads nowhere else."
    safe = ours._safe(name)
    assert safe
    assert not safe.startswith("/")
    assert all(c.isascii() and (c.isalnum() or c in "_-. /") for c in safe)
    assert not {"", ".", ".."} & set(safe.split("/"))


# ---------------------------------------------------------------- Weights & Biases


@pytest.fixture
def wandb(monkeypatch):
    "The package; its runs stay here."
    monkeypatch.setenv("WANDB_MODE", "offline")
    return pytest.importorskip("wandb")


def records(file):
    "The records of a file of wandb: LevelDB's log format, blocks of 32 KiB, after a head of 7 bytes."
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, begun = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        begun += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(begun)
            begun = b""


def history(folder):
    "The rows of all runs in a folder, as wandb wrote them down, and its names for the runs."
    import wandb

    wandb.teardown()  # its service writes the file in its own time, and this waits for it
    rows, ids = [], []
    for file in sorted(
        folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime_ns
    ):
        for record in records(file):
            if record.WhichOneof("record_type") == "run":
                ids.append(record.run.run_id)
            if record.WhichOneof("record_type") == "history":
                rows.append(
                    {
                        item.key or "/".join(item.nested_key): json.loads(item.value_json)
                        for item in record.history.item
                    }
                )
    return rows, ids


def test_wandb_has_the_rows(wandb, tmp_path, points):
    "Each row of the history with its counters, and every kind of loggable; a run that goes on is the same run."
    logger = st.Logger(
        st.WandB("try", folder=tmp_path),
        what=[everything, st.HyperParameters(), st.Histograms("weight")],
    )
    run = fit(points, logger)
    rows, ids = history(tmp_path)

    assert [row["train_loss"] for row in rows] == run.history["train_loss"]
    assert [(row["epoch"], row["step"], row["batch"], row["samples"]) for row in rows] == [
        (n, 3 * n, 3 * n, 22 * n) for n in (1, 2)
    ]
    assert rows[0]["a/number"] == 1.5
    assert rows[0]["note"] == "<b>\n=1"
    assert sum(row["picture/_type"] == "image-file" for row in rows) == 2
    assert sum(rows[0]["weight/values"]) == 12
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/audio/*.wav"))) == 2
    run.fit(1)
    assert set(ids) == set(history(tmp_path)[1]) == {logger.backends[0].state_dict()["id"]}
    assert logger.backends[0].state_dict()["resumed_at"] == [6]


def test_wandb_with_hostile_names(wandb, tmp_path, points):
    "They are keys of its rows, and make no file outside its folder."
    inside = tmp_path / "in"
    fit(
        points,
        st.Logger(st.WandB("try", folder=inside), what=lambda ctx: dict.fromkeys(HOSTILE, 1.5)),
        epochs=1,
    )
    assert [file.name for file in tmp_path.iterdir()] == ["in"]
    rows, _ = history(inside)
    assert sum(value == 1.5 for value in rows[0].values()) == len(HOSTILE)


def test_wandb_refuses_bad_arguments(wandb, tmp_path, points):
    "A mode that there is not, and a folder that cannot be written, before training."
    with pytest.raises(ConfigError, match=r"mode must be one of 'offline', .*, got 'off'"):
        st.WandB(mode="off")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"WandB cannot write into .*file/in") as caught:
        fit(points, st.WandB("try", folder=tmp_path / "file" / "in"))
    assert not hasattr(caught.value, "run")


# ---------------------------------------------------------------- MLflow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "A local store; making one takes seconds, so the tests share it, each with an experiment of its own."
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    folder = tmp_path_factory.mktemp("store")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own libraries among themselves
        from mlflow.tracking import MlflowClient

        uri = f"sqlite:///{folder}/mlflow.db"
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments()
        return client, uri


@pytest.fixture
def client(store, tmp_path, monkeypatch):
    "The store, seen from an empty folder."
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield store


def runs_of(client, experiment):
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def test_mlflow_has_the_rows(client, points):
    "Each row of the history at its step, settings as parameters, the rest as artifacts; a run that goes on is the same run."
    client, uri = client
    logger = st.Logger(
        st.MLflow("rows", uri=uri, tags={"who": "me"}), what=[everything, st.HyperParameters()]
    )
    run = fit(points, logger)
    (found,) = runs_of(client, "rows")
    assert (found.info.status, found.data.tags["who"]) == ("FINISHED", "me")
    run.fit(1)
    (found,) = runs_of(client, "rows")

    values = [
        (metric.step, metric.value)
        for metric in client.get_metric_history(found.info.run_id, "train_loss")
    ]
    assert values == [(row["step"], pytest.approx(row["train_loss"])) for row in run.history]
    assert found.data.metrics["a/number"] == 1.5
    assert (found.data.params["opt_hparams.lr"], found.data.params["parameters"]) == ("0.1", "15")
    assert found.data.tags["resumed_at_steps"] == "6"
    files = {
        file.path
        for folder in client.list_artifacts(found.info.run_id)
        for file in client.list_artifacts(found.info.run_id, folder.path)
    }
    assert {
        "picture/step_3.png",
        "sound/step_6.wav",
        "note/step_9.txt",
        "matrix/step_3.json",
        "file/step_3_test_wandb_and_mlflow.py",
    } <= files


def test_mlflow_says_how_a_run_ended(client, points):
    "A failure is a failed run, and what was recorded before it is there."
    client, uri = client

    class Fails(st.Callback):
        def on_enter_epoch(self, ctx):
            if ctx.epoch == 2:
                raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fit(points, [st.MLflow("ends", uri=uri), Fails()])
    (found,) = runs_of(client, "ends")
    assert found.info.status == "FAILED"
    assert "train_loss" in found.data.metrics


def test_mlflow_with_hostile_names(client, tmp_path, points):
    "They become names that it takes, and make no file outside its store."
    client, uri = client

    # Short
    def source(ctx):
        return {
            **dict.fromkeys(HOSTILE, 1.5),
            **{f"{name} text": st.Text(name) for name in HOSTILE},
        }

    fit(points, st.Logger(st.MLflow("hostile", uri=uri), what=source), epochs=1)
    (found,) = runs_of(client, "hostile")
    assert found.data.metrics["_x3d_cmd_x28__x29_"] == 1.5
    assert not list(tmp_path.iterdir())
    assert not (Path(__file__).parents[2] / "mlruns").exists()  # nor where the process began


def test_mlflow_refuses_a_store_that_is_none(client, tmp_path, points):
    "What cannot be reached is refused before training."
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"MLflow cannot use the store 'sqlite:///.*file/x.db'"
    ) as caught:
        fit(points, st.MLflow(uri=f"sqlite:///{tmp_path}/file/x.db"))
    assert not hasattr(caught.value, "run")
