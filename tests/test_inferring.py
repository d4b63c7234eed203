"""Evaluating and predicting in torch's inference mode, and gathering predictions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import statetrain as st
from statetrain.compute.gathering import Gathering, samples_of


class Probing(torch.nn.Linear):
    """Remembers in which mode it was run, and keeps a table that it makes when it is first needed, as rotary embeddings do."""

    def __init__(self):
        super().__init__(4, 3)
        self.modes = []
        self.table = None
        self.register_buffer("cached", None, persistent=False)

    def forward(self, x):
        self.modes.append(torch.is_inference_mode_enabled())
        if self.table is None:
            self.table, self.cached = torch.ones(3), torch.ones(3)
        return super().forward(x) * self.table * self.cached


@pytest.fixture
def model():
    return Probing()


def test_both_use_it_where_nobody_listens(model, points):
    "The model is run in inference mode by evaluate and predict, and not when a callback, a function or a list would keep what is made."
    st.evaluate(model, points, loss=F.cross_entropy, device="cpu")
    st.predict(model, points[0], device="cpu")
    assert all(model.modes)
    model.modes.clear()
    st.evaluate(model, points, loss=F.cross_entropy, callbacks=st.Callback(), device="cpu")
    st.predict(model, points[0], compute=lambda ctx: ctx.model(ctx.input), device="cpu")
    kept = st.predict(model, points[0], stack=False, device="cpu")
    assert not any(model.modes)
    assert not any(part.is_inference() for part in kept)
    assert not torch.is_inference_mode_enabled()


def test_what_it_leaves_can_be_trained_on(model, points):
    "After an evaluation and a prediction, the tables that the model has made and the predictions take part in a training."
    preds = st.predict(model, points[0], device="cpu")
    st.evaluate(model, points, loss=F.cross_entropy, device="cpu")
    assert not preds.is_inference()
    assert not model.table.is_inference()
    assert not model.cached.is_inference()
    run = st.fit(
        model,
        (points[0], preds),
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=1,
        device="cpu",
    )
    assert isinstance(run.outcome, st.Completed)


class Caching(Dataset):
    """Makes each sample once, and keeps it."""

    def __init__(self):
        self.kept = {}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.kept.setdefault(
            index, (torch.full((4,), float(index)), torch.tensor(index % 3))
        )


class Streaming(IterableDataset):
    """Keeps what it gives."""

    def __init__(self):
        self.kept = []

    def __iter__(self):
        for i in range(4):
            self.kept.append(torch.full((4,), float(i)))
            yield self.kept[-1], torch.tensor(i % 3)


def test_what_a_dataset_keeps_is_plain(model):
    "Data that caches is drawn outside of the mode, so what it keeps may be trained on; its length and order stay."
    caching, streaming = Caching(), Streaming()
    preds = st.predict(model, DataLoader(caching, batch_size=2), device="cpu")
    st.evaluate(model, DataLoader(streaming, batch_size=2), loss=F.cross_entropy, device="cpu")
    given = []

    def batches():
        for _ in range(2):
            given.append((torch.ones(2, 4), torch.zeros(2).long()))
            yield given[-1]

    st.evaluate(model, batches, loss=F.cross_entropy, device="cpu")
    assert all(model.modes)
    assert len(preds) == 4
    assert not any(x.is_inference() for x, _ in [*caching.kept.values(), *given])
    assert not any(x.is_inference() for x in streaming.kept)


def test_an_error_leaves_the_mode(model):
    "A batch that the model cannot take ends the mode with the evaluation, and its error names the state."
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        st.predict(model, torch.ones(2, 5), device="cpu")
    assert not torch.is_inference_mode_enabled()
    assert "predict_pred" in "".join(caught.value.__notes__)


def test_a_lazy_model_gets_plain_weights(points):
    "The weights of a module that is made by its first batch can be trained, though that was a prediction."
    model = torch.nn.LazyLinear(3)
    st.predict(model, points[0], device="cpu")
    assert not model.weight.is_inference()


# ---------------------------------------------------------------- gathering


def gathered(parts, samples, large):
    gathering = Gathering(samples, large)
    for part in parts:
        gathering.append(part)
    return gathering.joined()


@pytest.mark.parametrize(
    "samples", [None, 10, 12, 7], ids=["unknown", "known", "fewer came", "more came"]
)
@pytest.mark.parametrize("large", [0, 2**24])
def test_predictions_are_gathered_alike(samples, large):
    "Whether they are written to their places at once or joined in the end, and whatever the loader said, they are the same."
    parts = list(torch.arange(30.0).reshape(10, 3).split(4))
    assert torch.equal(gathered(parts, samples, large), torch.cat(parts))


def test_others_than_the_first_are_joined_as_ever():
    "Another type is promoted as torch.cat does, another shape is the error that it was, and containers are joined part by part."
    whole, half = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.float64)
    assert gathered([whole, half], 4, 0).dtype == torch.float64
    with pytest.raises(st.DataError, match="cannot be joined"):
        gathered([whole, torch.ones(2, 4)], 4, 0)
    assert gathered([{"a": whole}, {"a": whole}], 4, 0)["a"].shape == (4, 3)
    assert gathered([torch.tensor(1.0), torch.tensor(2.0)], 4, 0).tolist() == [1.0, 2.0]


def test_large_predictions_are_held_once():
    "What is written to its place at once shares no memory with the batches, and the result is a plain tensor though they are not."
    with torch.inference_mode():
        parts = [torch.ones(2, 3), torch.ones(2, 3)]
        gathering = Gathering(4, 0)
        for part in parts:
            gathering.append(part)
    assert not gathering._parts
    assert not gathering.joined().is_inference()
    assert gathering.joined().data_ptr() == gathering._whole.data_ptr()


def test_a_loader_says_how_many_samples_it_has():
    "A DataLoader with a sampler knows; one with batches of its own, or any other iterable, may not."
    data = TensorDataset(torch.zeros(10, 4))
    assert samples_of(DataLoader(data, batch_size=4)) == 10
    assert samples_of(DataLoader(data, sampler=[1, 2, 3], batch_size=2)) == 3
    assert samples_of(DataLoader(data, batch_sampler=[[0, 1], [2]])) is None
    assert samples_of([torch.zeros(2)]) is None
