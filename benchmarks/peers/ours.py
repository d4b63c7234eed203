"""statetrain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import loops
import torch
import torch.nn.functional as F
from loops import Setting

import statetrain as st
from peers.variant import Variant


class Listener(st.Callback):
    """Called once a batch; counts."""

    def __init__(self) -> None:
        self.calls = 0

    def on_exit_step(self, ctx: Any) -> None:
        self.calls += 1


def _fit(setting: Setting, callbacks: Iterable[st.Callback] = (), **options: Any) -> None:
    st.fit(
        setting.model,
        setting.feed,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.01, "momentum": 0.9},
        epochs=setting.epochs,
        device="cpu",
        callbacks=callbacks,
        **options,
    )


def lean(setting: Setting) -> None:
    _fit(setting)


def typical(setting: Setting) -> None:
    with (setting.folder / "out.txt").open("w") as out:
        _fit(
            setting,
            [st.Progress(mode="plain", file=out), st.CSVLogger(setting.folder / "log.csv")],
            train_metrics={"accuracy": loops.Accuracy()},
            stop=st.EarlyStopping("train_loss", patience=5),
        )


def heavy(setting: Setting) -> None:
    _fit(
        setting,
        [
            st.Schedule("opt.lr", loops.rate),
            st.GradientClip(max_norm=loops.NORM),
            st.EMA(loops.DECAY),
            *(Listener() for _ in range(loops.HEAVY_CALLBACKS)),
            st.Logger(
                st.JSONLines(setting.folder / "log.jsonl"), every=st.Every(loops.LOG_EVERY, "steps")
            ),
            st.Checkpoint(setting.folder / "saved", every=st.Every(loops.SAVE_EVERY, "steps")),
        ],
    )


VARIANTS = {
    "lean": Variant(
        lean, loops.lean, "`fit` with nothing on: loss mean and NaN check are always there"
    ),
    "typical": Variant(
        typical, loops.typical, "accuracy as an object, `EarlyStopping`, `Progress`, `CSVLogger`"
    ),
    "heavy": Variant(
        heavy,
        loops.heavy,
        "100 listeners, `Logger`, `Checkpoint` (verified, with its files synced), `EMA`,"
        " `GradientClip`, `Schedule`",
    ),
}
