"""Options that meet: what the comparison of random combinations with a loop by hand has found.

The combinations themselves are a suite of `benchmarks/reliability.py`; some are run by
`tests/test_reliability.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from suites.by_hand import Combination, Happening
from suites.combinations import compare_by_hand, compare_resumed, reduced
from torch.nn import functional as F

import statetrain as st

MASKED = st.Loss(F.cross_entropy, input="pred", target="batch[1]", mask="batch[2]")


def batches(count: int = 4) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(4, 3, generator=generator),
            torch.randint(3, (4,), generator=generator),
            torch.tensor([True, i > 1, i > 2, False]),
        )
        for i in range(count)
    ]


def train(data: Any, **options: Any) -> st.Run:
    torch.manual_seed(2)
    model = torch.nn.Linear(3, 3)
    given = {"loss": MASKED, "optimizer": torch.optim.SGD(model.parameters(), lr=0.0), "epochs": 1}
    return st.fit(model, data, input="[0]", target="[1]", verbose=False, **(given | options))


def mean_over_what_counts(model: torch.nn.Module, data: Any) -> float:
    total = number = 0.0
    with torch.no_grad():
        for x, y, mask in data:
            total += float(F.cross_entropy(model(x)[mask], y[mask], reduction="sum"))
            number += int(mask.sum())
    return total / number


def test_the_mean_of_a_whole_epoch_is_over_what_a_mask_counts() -> None:
    """With rows inside the epoch, `epoch_train_loss` weighs as `train_loss` does, and not by samples."""
    data = batches()
    run = train(data, valid=data[:1], validate=st.Every(1, "steps"))
    assert run.history[-1]["epoch_train_loss"] == pytest.approx(
        mean_over_what_counts(run.model, data), rel=1e-6
    )


def test_the_terms_of_losses_have_means_of_the_whole_epoch() -> None:
    """Each term of `Losses` is a mean of its own, over what its mask counts; the total is their sum."""
    data = batches()
    loss = st.Losses(masked=MASKED, plain=st.Loss(F.cross_entropy, weight=0.5))
    run = train(data, loss=loss, valid=data[:1], validate=st.Every(1, "steps"))
    row = run.history[-1]
    with torch.no_grad():
        plain = float(
            F.cross_entropy(
                run.model(torch.cat([x for x, _, _ in data])), torch.cat([y for _, y, _ in data])
            )
        )
    masked = mean_over_what_counts(run.model, data)
    assert row["epoch_train_loss_masked"] == pytest.approx(masked, rel=1e-6)
    assert row["epoch_train_loss_plain"] == pytest.approx(plain, rel=1e-6)
    assert row["epoch_train_loss"] == pytest.approx(masked + 0.5 * plain, rel=1e-6)


def absolute(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return pred.abs().mean()


LOSSES: dict[str, Any] = {
    "masked": MASKED,
    "several": st.Losses(one=st.Loss(F.cross_entropy), other=st.Loss(F.cross_entropy, weight=0.5)),
    "plain": F.cross_entropy,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("metric", [absolute, st.Metric(absolute, pred="pred", target="target")])
def test_what_is_refused_late_counts_nowhere(name: str, metric: Any) -> None:
    """A batch with a NaN that is found late is in no column: losses, their terms and metrics are as if checked now."""
    data = batches()
    data[1][0][0, 0] = float("nan")
    options: dict[str, Any] = {"loss": LOSSES[name], "metrics": {"size": metric}}
    late = train(data, non_finite="skip", finite_check="late", **options)
    now = train(data, non_finite="skip", **options)
    for column, value in now.history[-1].items():
        if column.startswith("train_"):
            assert late.history[-1][column] == pytest.approx(value, rel=1e-6), column


LOSS_KINDS: dict[str, Callable[[], Any]] = {
    "one": lambda: st.Loss(F.cross_entropy, input="pred", target="target"),
    "several": lambda: st.Losses(one=st.Loss(F.cross_entropy), other=st.Loss(F.cross_entropy)),
}


@pytest.mark.parametrize("kind", LOSS_KINDS)
def test_a_run_with_losses_by_keys_is_resumed(kind: str, tmp_path: Path) -> None:
    """The same `Loss` or `Losses`, made anew, is the same loss; one with another weight is refused."""
    data = batches()

    def go(epochs: int, loss: Any) -> st.Run:
        saving = st.Checkpoint(tmp_path)
        return train(data, loss=loss, epochs=epochs, callbacks=saving, resume="last")

    go(1, LOSS_KINDS[kind]())
    assert go(2, LOSS_KINDS[kind]()).ctx.epoch == 2
    with pytest.raises(st.CheckpointError, match="loss"):
        go(3, st.Loss(F.cross_entropy, weight=0.5, input="pred", target="target"))


def test_validate_none_never_validates() -> None:
    """`validate=None` is never, also with validation data; left out, it is the end of each epoch."""
    data = batches()
    assert "valid_loss" not in train(data, valid=data, validate=None).history.columns
    assert "valid_loss" in train(data, valid=data).history.columns


def test_a_combination_that_differs_is_reduced_to_what_matters() -> None:
    """What is said of a difference is the smallest combination that shows it."""
    asked = Combination(train_sizes=(3, 2, 4), epochs=3, accumulate=2, clip=0.5, max_steps=4)

    def fails(one: Combination) -> bool:
        return len(one.train_sizes) > 1 and one.accumulate > 1

    smallest = reduced(asked, fails)
    assert smallest == Combination(train_sizes=smallest.train_sizes, accumulate=2)
    assert len(smallest.train_sizes) == 2


HAND_PICKED = (
    Combination(
        train_sizes=(3, 2, 4),
        valid_sizes=(2,),
        ema=(0, 1, True, False),
        happenings=(Happening("SkipEpoch", "valid", 1, 3),),
        cuts=(("step", 2, 2),),
    ),
    Combination(
        train_sizes=(3, 2, 4),
        rate="epoch",
        happenings=(Happening("SkipEpoch", "epoch", 2, 0),),
        epochs=4,
        cuts=(("next_epoch", 2, 0), ("step", 3, 1)),
    ),
    Combination(
        train_sizes=(2, 2, 2, 2, 2, 2),
        accumulate=2,
        late=True,
        non_finite="skip",
        bad_losses=(3,),
        cuts=(("pred", 1, 4),),
    ),
    Combination(
        train_sizes=(2, 2, 2, 2, 2),
        non_finite="roll back",
        rate="curve step",
        bad_losses=(3,),
        cuts=(("pred", 1, 5), ("step", 2, 2)),
    ),
    Combination(
        train_sizes=(2, 3),
        several=True,
        rate="epoch",
        epochs=4,
        happenings=(Happening("SkipEpoch", "batch", 3, 1),),
        cuts=(("next_epoch", 3, 1),),
    ),
    Combination(
        train_sizes=(2,),
        late=True,
        non_finite="skip",
        bad_losses=(0,),
        rate="epoch",
        cuts=(("step", 2, 1),),
    ),
)


@pytest.mark.parametrize("asked", HAND_PICKED, ids=range(len(HAND_PICKED)))
def test_combinations_that_were_wrong_once(asked: Combination) -> None:
    """Averages during skipped validations, schedules over skipped epochs and rows, late checks, rates lowered for good.

    A schedule of one of several optimizers goes on after an epoch in which nothing stepped, as one
    of a single optimizer does; and it writes no row in which nothing else is.
    """
    compare_by_hand(asked)
    assert compare_resumed(asked) == len(asked.cuts)
