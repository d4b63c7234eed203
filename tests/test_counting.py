"""How many samples a batch has, which losses and metrics are weighted by."""

from __future__ import annotations

from typing import Any, NamedTuple

import attrs
import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import statetrain as st
from statetrain.data.counting import count

X = torch.zeros(5, 2)


class Graphs:
    """As a batch of graphs says it."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, number: int) -> None:
        self.x, self.y, self.num_graphs = x, y, number

    def to(self, *_: Any, **__: Any) -> Graphs:
        return self


@attrs.frozen
class Plain:
    x: torch.Tensor
    y: Any = None


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


def images(*heights: int) -> list[torch.Tensor]:
    return [torch.zeros(3, height, 4) for height in heights]


PACKED = pack_sequence([torch.zeros(4, 2), torch.zeros(3, 2), torch.zeros(1, 2)])


@pytest.mark.parametrize(
    ("given", "target", "samples"),
    [
        (X, None, 5),
        (X, torch.zeros(5), 5),
        ({"scale": torch.tensor(2.0), "x": [X]}, None, 5),
        (Plain(X), torch.zeros(5), 5),
        (Pair(X, X), torch.zeros(5), 5),
        ((X, torch.zeros(5, 9)), torch.zeros(5), 5),
        ([X, X], torch.zeros(5), 5),
        (images(2, 5, 4, 4), torch.zeros(4), 4),
        (images(2, 5, 4), torch.zeros(3), 3),
        (images(2, 5), [{"boxes": torch.zeros(7, 4)}, {"boxes": torch.zeros(1, 4)}], 2),
        (images(2, 5), [{"boxes": torch.zeros(3, 4)}, {"boxes": torch.zeros(3, 4)}], 2),
        (images(2, 5), (torch.zeros(3, 4), torch.zeros(1, 4)), 2),
        ([X, X], [torch.zeros(5), torch.zeros(5)], 5),
        ({"neighbours": torch.eye(4), "x": X}, torch.zeros(5), 5),
        ((torch.zeros(7, 5, 2), torch.zeros(5)), torch.zeros(5), 5),
        (({"ids": X}, {"ids": X}), torch.zeros(5), 5),
        (["one", "two", "three"], torch.zeros(3), 3),
        (["one", "two", "three"], None, 3),
        ("text", None, 1),
        ("text", torch.zeros(4), 4),
        (PACKED, torch.zeros(3), 3),
        (PACKED, None, 3),
        (Graphs(torch.zeros(9, 2), torch.zeros(4), 4), torch.zeros(4), 4),
        (Graphs(torch.zeros(9, 2), torch.zeros(4), 4), None, 4),
        (TensorDict({"x": torch.zeros(6, 2)}, batch_size=[6]), torch.zeros(6), 6),
        (
            torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged),
            torch.zeros(2),
            2,
        ),
        (object(), torch.zeros(4), 4),
        (torch.tensor(1.0), None, 1),
    ],
)
def test_what_can_be_known(given: Any, target: Any, samples: int) -> None:
    """Rows of tensors, entries of lists where the target has as many, what objects say themselves."""
    assert count(None, given, target) == samples


class Mean(nn.Module):
    """Of each image; its weight is one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([self.weight * image.mean() for image in images])


def difference(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (pred - target).mean()


LISTS = [
    ([torch.full((3, 2, 2), 1.0) for _ in range(4)], torch.zeros(4)),
    ([torch.full((3, 2, 2), 11.0)], torch.zeros(1)),
]


def test_means_over_lists_of_images() -> None:
    """Four images of one and one of eleven have a mean of three, in a run and in an evaluation."""
    metrics = {"largest": lambda pred, target: pred.max()}
    found = st.evaluate(Mean(), LISTS, loss=difference, metrics=metrics)
    assert found == {"loss": pytest.approx(3.0), "largest": pytest.approx((4 * 1 + 11) / 5)}
    run = st.fit(
        Mean(), LISTS, loss=difference, optimizer=torch.optim.SGD, opt_hparams={"lr": 0.0}, epochs=1
    )
    assert run.history[-1]["train_loss"] == pytest.approx(3.0)
    assert run.history[-1]["samples"] == 5


def test_means_over_graphs() -> None:
    """A batch object weighs as many samples as it has graphs."""
    features, labels = torch.randn(60, 2), torch.randint(0, 2, (60,))

    class Net(nn.Module):
        def forward(self, data: Any) -> torch.Tensor:
            return data.x

    batches = [Graphs(features[:50], labels[:50], 50), Graphs(features[50:], labels[50:], 10)]
    found = st.evaluate(Net(), batches, input="batch", target="y", loss=F.cross_entropy)
    assert found["loss"] == pytest.approx(F.cross_entropy(features, labels).item(), rel=1e-6)


TIME_FIRST = [
    {"x": torch.ones(7, 2, 1), "y": torch.ones(2), "n": 2},
    {"x": torch.ones(7, 6, 1) * 3, "y": torch.ones(6), "n": torch.tensor(6)},
]


class Last(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[-1, :, 0]


@pytest.mark.parametrize(
    ("size", "right"),
    [
        (None, (1 + 3) / 2),
        ("n", (2 * 1 + 6 * 3) / 8),
        (lambda batch: batch["x"].shape[1], (2 * 1 + 6 * 3) / 8),
        (4, (1 + 3) / 2),
    ],
    ids=["unknown", "a key", "a function", "a number"],
)
def test_size_says_it(size: Any, right: float, caplog: Any) -> None:
    """Inputs with the time first: a warning where input and target disagree, unless `size` is given."""
    found = st.evaluate(
        Last(), TIME_FIRST, loss=lambda p, _: p.mean(), input="x", target="y", size=size
    )
    assert found["loss"] == pytest.approx(right)
    warned = "an input has 7 samples (Tensor (7, 2, 1)), and its target 2 (Tensor (2,))"
    assert (warned in caplog.text) is (size is None)


def test_an_evaluation_takes_the_size_of_its_run() -> None:
    """Unless another one is given."""
    model = nn.Linear(1, 1)
    run = st.fit(
        model,
        [(torch.ones(4, 1), torch.ones(4, 1))],
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        epochs=1,
        size=lambda batch: int(batch[0][0, 0]),
    )
    data = [(torch.full((4, 1), value), torch.zeros(4, 1)) for value in (1.0, 3.0)]
    with torch.no_grad():
        losses = [F.mse_loss(model(x), y).item() for x, y in data]
    right = (losses[0] + 3 * losses[1]) / 4
    assert run.evaluate(data)["loss"] == pytest.approx(right, rel=1e-6)
    assert run.evaluate(data, size=4)["loss"] == pytest.approx(sum(losses) / 2, rel=1e-6)


@pytest.mark.parametrize("size", [0, -1, True, 2.5, [3]])
def test_what_cannot_say_a_size_is_refused(size: Any) -> None:
    """Before anything runs."""
    with pytest.raises(st.ConfigError, match="size must be a number of samples above 0"):
        st.evaluate(Last(), TIME_FIRST, loss=difference, input="x", target="y", size=size)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (lambda batch: 1.5, "must give a whole number for each batch, got 1.5"),
        (lambda batch: -1, "must give a number of samples, got -1"),
        ("x", "must give a whole number for each batch"),
    ],
)
def test_a_size_that_is_none_is_an_error(size: Any, message: str) -> None:
    """It names what was given."""
    with pytest.raises(st.DataError, match=message):
        st.evaluate(Last(), TIME_FIRST, loss=difference, input="x", target="y", size=size)


def test_a_packed_sequence_is_moved_by_itself() -> None:
    """Its sizes stay on the host, where torch wants them."""
    from statetrain.data.placing import place

    placed = place((PACKED, torch.zeros(3)), torch.device("meta"))[0]
    assert isinstance(placed, PackedSequence)
    assert (placed.data.device.type, placed.batch_sizes.device.type) == ("meta", "cpu")


def test_a_run_is_as_long_as_so_many_tokens() -> None:
    """With `size=` the tokens of a batch, samples are tokens: a guard stops a run after twenty, of 4, 6, 8, 10."""
    mask = [torch.arange(5)[None] < torch.tensor([[n], [n]]) for n in (2, 3, 4, 5)]
    batches = [{"x": one.float(), "y": torch.zeros(2, 1), "mask": one} for one in mask]
    run = st.fit(
        nn.Linear(5, 1),
        batches,
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        input="x",
        target="y",
        size=lambda batch: int(batch["mask"].sum()),
        stop=st.Once(18, "samples"),
        epochs=None,
    )
    assert (run.ctx.batches, run.ctx.samples) == (3, 4 + 6 + 8)
