"""Data as users have it: datasets, arrays, iterables, and batches of every structure."""

from __future__ import annotations

import dataclasses
import re
from collections import OrderedDict, UserDict, defaultdict
from typing import Any, NamedTuple

import attrs
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import statetrain as st
from statetrain.data.counting import count
from statetrain.data.joining import join
from statetrain.data.loading import as_loader
from statetrain.data.placing import pin, place
from statetrain.data.reading import BatchReader
from statetrain.data.splitting import split
from statetrain.data.structure import describe_batch, map_leaves
from statetrain.testing import assert_resumable

CPU = torch.device("cpu")


def options(**more):
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        **more,
    }


def cut(points, size=8):
    inputs, targets = points
    return [(inputs[i : i + size], targets[i : i + size]) for i in range(0, len(inputs), size)]


class Rows(Dataset):
    def __init__(self, points):
        self.points = points

    def __len__(self):
        return len(self.points[0])

    def __getitem__(self, index):
        return self.points[0][index], self.points[1][index]


class Stream(IterableDataset):
    def __init__(self, points):
        self.points = points

    def __iter__(self):
        return iter(zip(*self.points, strict=True))


class Boasting(Stream):
    "A stream that claims more than it has."

    def __len__(self):
        return 1000


# ---------------------------------------------------------------- where batches come from

SOURCES = {
    "tensors": lambda points: points,
    "arrays": lambda points: (points[0].double().numpy(), points[1].numpy()),
    "dict of tensors": lambda points: {"x": points[0], "y": points[1]},
    "dict of arrays": lambda points: {"inputs": points[0].numpy(), "labels": points[1].numpy()},
    "dataset": Rows,
    "tensor dataset": lambda points: TensorDataset(*points),
    "stream": Stream,
    "loader": lambda points: DataLoader(Rows(points), batch_size=8),
    "loader of a stream": lambda points: DataLoader(Stream(points), batch_size=8),
    "list of batches": cut,
    "tuple of batches": lambda points: tuple(cut(points)),
    "function": lambda points: lambda: iter(cut(points)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_forms_of_data_train_alike(source, points):
    "The same samples in the same order make the same weights, in whatever form they come, for training and validation."
    ends = []
    for given in (cut(points), SOURCES[source](points)):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        made_here = source not in (
            "loader",
            "loader of a stream",
            "list of batches",
            "tuple of batches",
            "function",
        )
        loader_options = (
            {"batch_size": 8, **({} if source == "stream" else {"shuffle": False})}
            if made_here and given is not None
            else None
        )
        if isinstance(given, list):
            loader_options = None
        run = st.fit(model, given, valid=given, dataloader_options=loader_options, **options())
        ends.append((model.weight.tolist(), run.history["valid_loss"], run.ctx.samples))
    assert ends[0] == ends[1]


def test_data_made_into_a_loader_is_shuffled_for_training_only(points):
    "Tensors are drawn in a new order in each epoch of training, and in their own order in validation."
    orders = {"train": [], "valid": []}

    class Look(st.Callback):
        def on_enter_pred(self, ctx):
            orders["train"].append(ctx.input[:, 0].tolist())

        def on_enter_valid_pred(self, ctx):
            orders["valid"].append(ctx.input[:, 0].tolist())

    run = st.fit(torch.nn.Linear(4, 3), points, valid=points, callbacks=Look(), **options())
    own = points[0][:, 0].tolist()
    assert orders["valid"] == [own, own]
    assert [sorted(order) for order in orders["train"]] == [sorted(own)] * 2
    assert orders["train"][0] != own
    assert orders["train"][0] != orders["train"][1]
    assert run.ctx.train_data.batch_size == 32


def test_an_iterator_serves_one_epoch(points):
    "A generator is read once: one epoch is fine, more are refused before anything runs, and going on says what is wrong."
    model = torch.nn.Linear(4, 3)
    with pytest.raises(
        st.ConfigError,
        match=(
            "a generator can be read once, and there are more epochs; give a list, a loader, or a"
            " function"
        ),
    ):
        st.fit(model, (batch for batch in cut(points)), **options())
    run = st.fit(model, (batch for batch in cut(points)), **options(epochs=1))
    assert run.ctx.step == 3
    with pytest.raises(
        st.DataError, match=r"gave no batch in epoch 2\. An iterator can be read once; give a list"
    ):
        run.fit(epochs=1)


def test_the_sampler_hears_which_epoch_it_is(points):
    "set_epoch is called with the epoch, counted from 0, as distributed samplers want it."
    heard = []

    class Sampler(torch.utils.data.SequentialSampler):
        def set_epoch(self, epoch):
            heard.append(epoch)

    data = Rows(points)
    st.fit(torch.nn.Linear(4, 3), DataLoader(data, sampler=Sampler(data)), **options(epochs=3))
    assert heard == [0, 1, 2]


class Growing:
    """Shuffled batches of four samples, and of eight from the third epoch on."""

    def __init__(self, samples):
        self.samples, self.epoch = samples, 1

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        yield from torch.randperm(self.samples).split(4 if self.epoch < 3 else 8)

    def __len__(self):
        return self.samples // (4 if self.epoch < 3 else 8)


@pytest.mark.parametrize("more", [{}, {"accumulate": 2}, {"prefetch": True}], ids=str)
def test_the_batch_size_may_grow_from_epoch_to_epoch(points, more):
    "A batch sampler that is told the epoch: the steps, losses and weights of a loop by hand."
    x, y = (part[:16] for part in points)
    window = more.get("accumulate", 1)
    torch.manual_seed(0)
    by_hand, sampler, losses = torch.nn.Linear(4, 3), Growing(16), []
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for epoch in range(1, 5):
        sampler.set_epoch(epoch)
        torch.empty((), dtype=torch.int64).random_()  # a loader draws a seed for its workers
        total = 0.0
        for number, rows in enumerate(list(sampler)):
            loss = F.cross_entropy(by_hand(x[rows]), y[rows])
            (loss / window).backward()
            total += loss.item() * len(rows)
            if number % window == window - 1:
                optimizer.step()
                optimizer.zero_grad()
        losses.append(total / 16)

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    loader = DataLoader(TensorDataset(x, y), batch_sampler=Growing(16))
    run = st.fit(model, loader, **options(epochs=4, **more))
    assert run.history["batch"] == [4, 8, 10, 12]
    assert run.history["train_loss"] == pytest.approx(losses)
    assert torch.allclose(model.weight, by_hand.weight, atol=1e-6)


def test_a_growing_batch_size_is_resumed(points):
    "With a seed, at any anchor; the length of an epoch is that of its own number."

    def build():
        torch.manual_seed(0)
        data = TensorDataset(*(part[:16] for part in points))
        loader = DataLoader(data, batch_sampler=Growing(16))
        return st.fit(
            torch.nn.Linear(4, 3), loader, **options(epochs=4, seed=1, accumulate=2, start=False)
        )

    assert build().walk().history["batch"] == [4, 8, 10, 12]
    assert_resumable(build)


def test_the_length_of_a_stream_is_a_guess(points):
    "An iterable dataset may claim more samples than it gives; with accumulation, the last window is known all the same."
    loader = DataLoader(Boasting(points), batch_size=8)
    run = st.fit(torch.nn.Linear(4, 3), loader, **options())
    assert run.ctx.step == 6
    run = st.fit(torch.nn.Linear(4, 3), loader, accumulate=2, **options())
    assert run.ctx.step == 4  # in each of two epochs a window of two batches, and one of one


def test_a_dataset_that_ends_early_is_an_error(points):
    "A StopIteration from a dataset would end the epoch silently; it is told from the end."

    class Short(Rows):
        def __getitem__(self, index):
            if index == 10:
                raise StopIteration
            return super().__getitem__(index)

    with pytest.raises(
        st.DataError, match=r"ended after 1 of 3 batches; did the dataset raise StopIteration\?"
    ) as caught:
        st.fit(torch.nn.Linear(4, 3), DataLoader(Short(points), batch_size=8), **options())
    assert caught.value.run.ctx.step == 1


def test_a_validation_share_is_drawn_without_overlap(points):
    "valid=0.3 of 22 samples leaves 16 for training and takes 6 for validation; together they are all samples."
    seen = {"train": [], "valid": []}

    class Look(st.Callback):
        def on_enter_pred(self, ctx):
            seen["train"] += ctx.input[:, 0].tolist()

        def on_enter_valid_pred(self, ctx):
            seen["valid"] += ctx.input[:, 0].tolist()

    for data in (points, Rows(points)):
        seen["train"].clear()
        seen["valid"].clear()
        st.fit(torch.nn.Linear(4, 3), data, valid=0.3, callbacks=Look(), **options(epochs=1))
        assert (len(seen["train"]), len(seen["valid"])) == (16, 6)
        assert sorted(seen["train"] + seen["valid"]) == sorted(points[0][:, 0].tolist())


def test_a_share_draws_with_the_generator_it_is_given(points):
    "The same generator state draws the same split."
    one, two = (split(points, 0.5, torch.Generator().manual_seed(3))[1].indices for _ in range(2))
    assert one == two
    assert one != list(range(11))


# ---------------------------------------------------------------- batches


class Pair(NamedTuple):
    image: Any
    label: Any


@dataclasses.dataclass
class Plain:
    input: torch.Tensor
    target: torch.Tensor
    weight: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: torch.Tensor
    y: torch.Tensor


@attrs.define
class Base:
    inputs: torch.Tensor


@attrs.frozen
class Derived(Base):
    labels: torch.Tensor


class Loose:
    def __init__(self, first, second):
        self.input, self.target = first, second


BATCHES = {
    "tuple": (lambda x, y: (x, y), {}),
    "list": (lambda x, y: [x, y], {}),
    "three": (lambda x, y: (x, y, "names"), {}),
    "named tuple": (Pair, {}),
    "named tuple by name": (Pair, {"input": "image", "target": "label"}),
    "dict": (lambda x, y: {"input": x, "target": y, "id": 7}, {}),
    "other dict": (lambda x, y: {"label": y, "x": x}, {}),
    "ordered dict": (lambda x, y: OrderedDict(inputs=x, targets=y), {}),
    "user dict": (lambda x, y: UserDict(inputs=x, targets=y), {}),
    "dict by keys": (
        lambda x, y: {"pixels": x, "class": y},
        {"input": "pixels", "target": "class"},
    ),
    "dataclass": (Plain, {}),
    "frozen dataclass": (Frozen, {}),
    "attrs": (Derived, {}),
    "object": (Loose, {}),
    "nested": (
        lambda x, y: {"data": {"views": [x, x + 1]}, "meta": (0, {"label": y})},
        {"input": "data.views[0]", "target": "meta[1].label"},
    ),
    "last": (lambda x, y: (y, "name", x), {"input": "[-1]", "target": "[0]"}),
}


# What an object of no known kind holds is left as it is, so it has to hold tensors.
@pytest.mark.parametrize(
    ("structure", "arrays"),
    [*((name, False) for name in BATCHES), *((name, True) for name in BATCHES if name != "object")],
)
def test_batches_of_every_structure(structure, arrays, points):
    "Input and target are found by position or by key, arrays become tensors, and the weights are those of plain tuples."
    make, keys = BATCHES[structure]
    ends = []
    for shape, given in ((lambda x, y: (x, y), {}), (make, keys)):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        batches = [shape(x.numpy(), y.numpy()) if arrays else shape(x, y) for x, y in cut(points)]
        run = st.fit(model, batches, valid=batches[:1], **given, **options())
        ends.append((model.weight.tolist(), run.history["valid_loss"], run.ctx.samples))
    assert ends[0] == ends[1]
    assert ends[0][2] == 44


def test_the_whole_batch_as_input_or_target(points):
    "A batch that is a lone tensor is the input; target='batch' makes it the target too, as an autoencoder wants."
    batches = [x for x, _ in cut(points)]
    run = st.fit(torch.nn.Linear(4, 4), batches, target="batch", **options(loss=F.mse_loss))
    assert run.ctx.samples == 44
    tensors = st.fit(torch.nn.Linear(4, 4), points[0], target="[0]", **options(loss=F.mse_loss))
    assert tensors.ctx.samples == 44


class TwoInputs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, left, right):
        return self.layer(left) - self.layer(right)


def test_several_inputs(points):
    "A tuple of keys gives positional arguments, a mapping named ones."
    batches = [{"a": x, "b": x + 1, "y": y} for x, y in cut(points)]
    ends = []
    for key in (("a", "b"), {"right": "b", "left": "a"}):
        torch.manual_seed(0)
        model = TwoInputs()
        run = st.fit(model, batches, input=key, **options())
        ends.append(model.layer.weight.tolist())
        assert run.ctx.samples == 44
        assert len(run.predict(batches)) == 22
    assert ends[0] == ends[1]


def test_several_targets(points):
    "A tuple of keys gives the loss a tuple."

    def loss(pred, targets):
        first, second = targets
        return F.cross_entropy(pred, first) + F.cross_entropy(pred, second)

    batches = [{"x": x, "first": y, "second": y} for x, y in cut(points)]
    assert (
        st.fit(
            torch.nn.Linear(4, 3), batches, target=("first", "second"), **options(loss=loss)
        ).ctx.step
        == 6
    )


class Parts(torch.nn.Linear):
    "A model that returns more than logits."

    def __init__(self, kind):
        super().__init__(4, 3)
        self.kind = kind

    def forward(self, x):
        logits = super().forward(x)
        if self.kind == "dict":
            return {"hidden": x, "logits": logits}
        return (x, logits) if self.kind == "tuple" else Pair(x, logits)


@pytest.mark.parametrize(
    ("kind", "key"), [("dict", "logits"), ("tuple", "[1]"), ("named", "label")]
)
def test_the_part_of_the_prediction(kind, key, points):
    "pred= names the part that loss and metrics take, in training, validation, evaluate and predict."
    model = Parts(kind)
    run = st.fit(
        model,
        points,
        valid=0.3,
        pred=key,
        metrics={"size": lambda pred, _: float(pred.shape[1])},
        **options(),
    )
    assert run.history["train_size"] == run.history["valid_size"] == [3.0, 3.0]
    assert run.evaluate(points)["size"] == 3.0
    assert run.predict(points).shape == (22, 3)
    with pytest.raises(KeyError):
        st.fit(model, points, pred="logit", **options())


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("dict", "returned a dict with 'hidden', 'logits'; name the part .* pred='hidden'"),
        ("tuple", r"pred='\[0\]'"),
    ],
)
def test_a_prediction_of_several_parts_says_how_to_name_one(kind, note, points):
    "Where the loss expects a tensor, the error's note says how to name the part that it takes."
    with pytest.raises((TypeError, AttributeError)) as caught:
        st.fit(Parts(kind), points, **options())
    assert any(re.search(note, line) for line in caught.value.__notes__)


def test_placing_keeps_the_structure():
    "Every container comes back as what it was; what is no data stays as it is."
    x = np.ones((2, 2))
    for thing in (
        Pair(x, 3),
        [x, "a"],
        Plain(x, x, 2.0),
        Frozen(x, x),
        Derived(x, x),
        OrderedDict(a=x, b=None),
        {"a": (x,)},
    ):
        placed = place(thing, CPU)
        assert type(placed) is type(thing)
        assert count(None, placed, None) == 2  # a tensor is found in it
    assert place("text", CPU) == "text"
    assert place(Plain(x, x, 2.0), CPU).weight == 2.0
    same = torch.ones(2)
    assert place((same,), CPU)[0] is same


class Moving(dict):
    """A batch that moves itself, and says how it was asked to."""

    def to(self, device, non_blocking=False):
        return Moving(device=device, waits=not non_blocking)

    def pin_memory(self):
        return Moving(pinned=True)


class Old(Moving):
    """One whose method knows of a device alone."""

    def to(self, device):
        return Old(device=device)


def test_what_moves_itself_need_not_be_waited_for():
    "A container with a method of its own is asked not to wait, if it can be, and to pin its memory, if it can; wherever it is."
    assert place([Moving(x=1)], CPU) == [{"device": CPU, "waits": False}]
    assert place({"part": Old(x=1)}, CPU) == {"part": {"device": CPU}}
    assert pin(Plain(Moving(x=1), "text")) == Plain({"pinned": True}, "text")
    elsewhere = torch.ones(2, device="meta")
    assert pin((elsewhere, 3))[0] is elsewhere


def test_tensors_on_the_cpu_are_not_touched(points):
    "Where batches lie on the device already, nothing is placed."
    assert BatchReader(CPU)(cut(points)[0]).place is None
    assert BatchReader(CPU)((points[0].numpy(), points[1])).place is not None


@pytest.mark.parametrize(
    ("batch", "reader", "message"),
    [
        (
            {"pixels": torch.ones(2), "class": 1},
            {},
            "which is the input? Say input='pixels', or input='*' for model(**batch)",
        ),
        (
            {"x": torch.ones(2), "class": 1},
            {},
            "a batch is a dict with 'x', 'class'; which is the target? Say target='x'",
        ),
        (
            torch.ones(3, 2),
            {},
            (
                "a batch is a Tensor (3, 2) that has no target; give the data as (input, target),"
                " or say target='batch'"
            ),
        ),
        ([torch.ones(3, 2)], {}, "a batch is a list of (Tensor (3, 2)) that has no target"),
        ([], {}, "a batch is a list of () that has no input"),
        (
            {"pixels": 1},
            {"input": "pixel", "target": "pixels"},
            "'pixel': a dict has no 'pixel'; did you mean 'pixels'",
        ),
        (
            (1, 2),
            {"input": "[2]", "target": "[0]"},
            "'[2]': a tuple has no 2; it has 2 items, counted from 0",
        ),
        (None, {}, "a batch is a NoneType with no parts"),
        ("text", {}, "a batch is a str with no parts"),
    ],
)
def test_a_batch_that_cannot_be_read_says_what_it_has(batch, reader, message):
    "The error lists the batch's parts and what to say."
    with pytest.raises(st.DataError) as caught:
        BatchReader(CPU, **reader)(batch)
    assert message in str(caught.value)


@pytest.mark.parametrize("odd", [None, 3, "ab", (torch.ones(2, 4),), {"x": 1}])
def test_a_batch_unlike_the_first_is_an_error(odd, points):
    "A later batch of another structure names what it is; the batches before it were trained."
    with pytest.raises((st.DataError, TypeError)) as caught:
        st.fit(torch.nn.Linear(4, 3), [*cut(points)[:2], odd], **options())
    run = caught.value.run
    assert run.ctx.step == 2
    assert "epoch 1, batch 3, step 2" in " ".join(caught.value.__notes__)
    if odd != "ab":  # two letters look like input and target until the model has seen them
        assert "cannot be read like the first one" in str(caught.value)


def test_describing_a_batch():
    "Containers with the shapes in them, in one line."
    batch = {"x": (torch.ones(3, 4), [torch.ones(2)]), "name": "a"}
    assert (
        describe_batch(batch)
        == "dict of {x: tuple of (Tensor (3, 4), list of (Tensor (2,))), name: str}"
    )


def test_a_batch_that_is_a_defaultdict_keeps_its_factory():
    """It is made of a factory, not of a mapping, and moves like a dict."""
    batch = defaultdict(list, {"x": torch.ones(2), "more": {"y": torch.zeros(1)}})
    found = map_leaves(batch, lambda leaf: leaf + 1)
    assert type(found) is defaultdict
    assert found.default_factory is list
    assert found["x"].tolist() == [2, 2]
    assert found["more"]["y"].tolist() == [1]


def test_joining_predictions():
    "Tensors along the first dimension, containers part by part; what cannot be joined says so."
    assert join([torch.ones(2, 3), torch.ones(1, 3)]).shape == (3, 3)
    assert join([torch.tensor(1.0), torch.tensor(2.0)]).tolist() == [1.0, 2.0]
    joined = join([{"a": torch.ones(2), "b": (torch.ones(2), torch.ones(2))}] * 2)
    assert joined["b"][1].shape == (4,)
    assert join([Pair(torch.ones(1), torch.ones(1))] * 3).label.shape == (3,)
    with pytest.raises(
        st.DataError,
        match=r"predictions of shapes \(1, 2\), \(1, 3\) cannot be joined .* stack=False",
    ):
        join([torch.ones(1, 2), torch.ones(1, 3)])
    with pytest.raises(st.DataError, match="predictions of type str cannot be joined"):
        join(["a"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            None,
            (
                "train must be a DataLoader, a Dataset, tensors, arrays or an iterable of batches,"
                " got NoneType"
            ),
        ),
        (7, "got int: 7"),
        ("digits.csv", "got str: 'digits.csv'"),
        (torch.tensor(3.0), "got Tensor"),
        ([], "train is empty: its list has no batch"),
        ((torch.ones(0, 4), torch.ones(0)), "train is empty: tuple without a sample"),
        (
            (torch.ones(3, 4), torch.ones(2)),
            "the columns of the data must have the same number of rows, got {'0': 3, '1': 2}",
        ),
        (
            {"x": np.ones(3), "y": np.ones(2)},
            "must have the same number of rows, got {'x': 3, 'y': 2}",
        ),
    ],
)
def test_data_that_is_none(data, message):
    "What cannot be trained on is refused when it is given."
    with pytest.raises(st.ConfigError) as caught:
        as_loader(data, name="train")
    assert message in str(caught.value)


def test_a_loader_that_drops_everything(points):
    "A dataset smaller than one batch, with drop_last, is named as the reason."
    with pytest.raises(
        st.ConfigError,
        match=(
            r"train is empty: its DataLoader has no batch\. The dataset is smaller than one batch,"
            r" and drop_last drops it"
        ),
    ):
        st.fit(
            torch.nn.Linear(4, 3),
            DataLoader(Rows(points), batch_size=64, drop_last=True),
            **options(),
        )


def test_options_for_a_loader_that_is_there(points):
    "dataloader_options are for loaders made here; given for another, or wrong, they are refused."
    model = torch.nn.Linear(4, 3)
    with pytest.raises(
        st.ConfigError, match="dataloader_options would not be used: train is a DataLoader already"
    ):
        st.fit(model, DataLoader(Rows(points)), dataloader_options={"batch_size": 4}, **options())
    with pytest.raises(
        st.ConfigError, match=r"dataloader_options do not make a DataLoader for train: .*batchsize"
    ):
        st.fit(model, points, dataloader_options={"batchsize": 4}, **options())


def test_float64_arrays_become_the_default_type(points):
    "Arrays of doubles, which numpy makes by default, are trained on in torch's default type; tensors stay as they are."
    run = st.fit(
        torch.nn.Linear(4, 3), (points[0].double().numpy(), points[1].numpy()), **options()
    )
    assert run.ctx.samples == 44
    with pytest.raises(RuntimeError, match=r"(?i)dtype|Double"):
        st.fit(torch.nn.Linear(4, 3), (points[0].double(), points[1]), **options())


def test_options_that_a_ready_loader_does_not_use_are_said_to_be_unused(points, caplog):
    "A dataset for training and a loader for validation: the options are the dataset's, and the log says so."
    loader = DataLoader(TensorDataset(*points), batch_size=16)
    st.fit(
        torch.nn.Linear(4, 3),
        points,
        valid=loader,
        loss=torch.nn.functional.cross_entropy,
        optimizer=torch.optim.SGD,
        epochs=1,
        dataloader_options={"batch_size": 8},
    )
    assert "dataloader_options are not used for valid, which is a DataLoader" in caplog.text
