"""`prefetch=`: drawing one batch ahead, so that it is placed while the one before is trained on."""

from __future__ import annotations

import pytest
import torch
from reference import bits
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import statetrain as st
from statetrain.standard import actions


def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Dropout(0.2), torch.nn.Linear(6, 3))


def options(**more):
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 3,
        "device": "cpu",
        **more,
    }


def ahead(**more):
    return st.supervised(validate=None, prefetch=True, seeded=True, **more)


def test_it_is_an_edit_of_the_table():
    "The action of draw is another one; no state and no arrow is added, and with accumulation it is the same."
    plain, life = st.supervised(), st.supervised(prefetch=True)
    assert life == plain.replace("draw", action=actions.draw_prefetched)
    assert "begin to place it" in str(life)
    assert (
        st.supervised(prefetch=True, accumulate=2).state("draw").action is actions.draw_prefetched
    )


def test_it_is_off_where_nothing_overlaps(points):
    "On the CPU, fit leaves the table as it is."
    assert (
        st.fit(make(), points, prefetch=True, **options(epochs=1)).lifecycle.state("draw").action
        is actions.draw
    )


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("form", ["tensors", "arrays", "without a length"])
def test_the_run_is_the_same(points, form, accumulate):
    "Weights and rows are those of a run that draws one batch at a time, with batches that have to be placed and loaders without a length."
    loader = DataLoader(TensorDataset(*points), batch_size=8)
    data = {
        "tensors": loader,
        "arrays": [(x.numpy(), y) for x, y in loader],
        "without a length": lambda: iter(loader),
    }[form]
    plain = st.fit(
        make(),
        data,
        seed=1,
        lifecycle=st.supervised(validate=None, seeded=True, accumulate=accumulate),
        **options(),
    )
    run = st.fit(make(), data, seed=1, lifecycle=ahead(accumulate=accumulate), **options())
    assert bits(run.model) == bits(plain.model)
    assert run.history["train_loss"] == plain.history["train_loss"]
    assert run.ctx.samples == plain.ctx.samples == 66


class Cutting(st.Callback):
    """Ends the run by an error once so many steps have been made."""

    def __init__(self, step):
        self.step = step

    def on_enter_batch(self, ctx):
        if ctx.step == self.step:
            raise RuntimeError("cut")


@pytest.mark.parametrize("step", range(1, 9))
def test_a_run_that_is_cut_goes_on_exactly(points, tmp_path, step):
    "Wherever it is cut, the batch that was drawn ahead is not counted: the run goes on to the same weights and the same rows."
    # A new one for each run
    loader = lambda: DataLoader(TensorDataset(*points), batch_size=8, shuffle=True)  # noqa: E731
    whole = st.fit(make(), loader(), seed=1, lifecycle=ahead(), **options())
    checkpoint = st.Checkpoint(tmp_path, every=st.Every(1, "steps"))
    with pytest.raises(RuntimeError, match="cut"):
        st.fit(
            make(),
            loader(),
            seed=1,
            lifecycle=ahead(),
            callbacks=[checkpoint, Cutting(step)],
            **options(),
        )
    run = st.fit(
        make(),
        loader(),
        seed=1,
        lifecycle=ahead(),
        resume="last",
        callbacks=checkpoint,
        **options(),
    )
    assert bits(run.model) == bits(whole.model)
    assert [row["samples"] for row in run.history if row["epoch_complete"]] == [22, 44, 66]


def test_waiting_is_measured(points):
    "The time in which the next batch is drawn and placed counts as waiting for data, as it does without."
    now = iter(range(10**6))
    profile = st.Profile(clock=lambda: float(next(now)))
    st.fit(
        make(),
        points,
        seed=1,
        lifecycle=ahead(),
        callbacks=profile,
        **options(epochs=1, dataloader_options={"batch_size": 8}),
    )
    draws = [row for row in profile.table() if row["state"] == "draw" and not row["hook"]]
    assert draws[0]["visits"] == 4
    assert profile.waiting == draws[0]["seconds"] > 0


def test_a_batch_that_is_given_up_ahead_is_passed_over(points):
    "A batch that the data gives up while it is drawn ahead costs that batch alone."

    class Giving:
        def __init__(self, parts):
            self.parts = iter(parts)

        def __iter__(self):
            return self

        def __next__(self):
            part = next(self.parts)
            if part is None:
                raise st.SkipBatch("torn")
            return part

    parts = list(zip(points[0].split(8), points[1].split(8), strict=True))
    run = st.fit(
        make(),
        lambda: Giving([parts[0], None, parts[1], parts[2]]),
        seed=1,
        lifecycle=ahead(),
        **options(epochs=1),
    )
    assert run.ctx.samples == 22
    assert run.ctx.step == 3


@pytest.mark.parametrize("given", [2, "yes", None])
def test_what_is_neither_true_nor_false_is_refused(given, points, net):
    "A number of batches, as other libraries take it, is an error that says how far ahead it is."
    with pytest.raises(st.ConfigError, match="prefetch must be True or False"):
        st.fit(
            net,
            points,
            loss=torch.nn.functional.cross_entropy,
            optimizer=torch.optim.SGD,
            prefetch=given,
        )
