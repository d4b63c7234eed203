"""Training is what was asked: against loops by hand, where strangers found it was not."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st


def points(n: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    return x, x.sum(1, keepdim=True)


def batches(size: int = 4, n: int = 24) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x, y = points(n)
    return [(x[i : i + size], y[i : i + size]) for i in range(0, n, size)]


def linear(seed: int = 1) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(4, 1)


SGD: dict[str, Any] = {
    "optimizer": torch.optim.SGD,
    "opt_hparams": {"lr": 0.1},
    "epochs": 2,
    "verbose": False,
}


def by_hand(model: nn.Module, data: Any, epochs: int = 2, window: int = 1) -> nn.Module:
    "The loop in torch: one step for each window of batches, on the mean of their gradients."
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for start in range(0, len(data), window):
            optimizer.zero_grad()
            part = data[start : start + window]
            for x, y in part:
                F.mse_loss(model(x), y).backward()
            for p in model.parameters():
                p.grad.div_(len(part))
            optimizer.step()
    return model


# ---------------------------------------------------------------- a computation of your own


def returns_the_loss(ctx):
    return F.mse_loss(ctx.model(ctx.input), ctx.target)


def calls_backward(ctx):
    loss = F.mse_loss(ctx.model(ctx.input), ctx.target)
    loss.backward()
    return loss


def calls_the_contexts_backward(ctx):
    loss = F.mse_loss(ctx.model(ctx.input), ctx.target)
    ctx.backward(loss)
    return loss


def returns_a_number(ctx):
    return calls_backward(ctx).item()


def writes_the_gradients(ctx):
    loss = F.mse_loss(ctx.model(ctx.input), ctx.target)
    for p, gradient in zip(
        ctx.model.parameters(), torch.autograd.grad(loss, [*ctx.model.parameters()]), strict=True
    ):
        p.grad = gradient if p.grad is None else p.grad + gradient
    return loss.detach()


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize(
    "compute",
    [
        returns_the_loss,
        calls_backward,
        calls_the_contexts_backward,
        returns_a_number,
        writes_the_gradients,
    ],
)
def test_a_computation_trains_whoever_calls_backward(compute, window):
    "A loss that is returned is trained on; a function that computes gradients itself is recognised."
    model = linear()
    st.fit(model, batches(), compute=compute, accumulate=window, **SGD)
    assert bits(model) == bits(by_hand(linear(), batches(), window=window))


def test_a_computation_that_steps_by_itself_is_left_alone():
    "Its weights have changed when it returns, so no second gradient is computed."
    hand = by_hand(linear(), batches())
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train(ctx):
        optimizer.zero_grad()
        loss = F.mse_loss(ctx.model(ctx.input), ctx.target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    still = {**SGD, "opt_hparams": {"lr": 0.0}}
    st.fit(model, batches(), compute=train, **still)
    assert bits(model) == bits(hand)


def test_a_step_of_the_runs_optimizer_within_a_computation_is_refused():
    "The table makes that step; made twice, every batch would count double."
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train(ctx):
        optimizer.zero_grad()
        loss = calls_backward(ctx)
        optimizer.step()
        return loss

    with pytest.raises(st.ConfigError, match=r"train called step\(\) of the run's optimizer SGD"):
        st.fit(
            model, batches(), compute=train, **{**SGD, "optimizer": optimizer, "opt_hparams": None}
        )


def test_a_computation_that_changes_weights_is_still_trained():
    "Weights that are cut off to a range are no step: the loss that is returned has its gradients."

    def cut(model):
        with torch.no_grad():
            for p in model.parameters():
                p.clamp_(-0.3, 0.3)

    def cut_and_train(ctx):
        cut(ctx.model)
        return returns_the_loss(ctx)

    model, hand = linear(), linear()
    st.fit(model, batches(), compute=cut_and_train, **SGD)
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1)
    for x, y in batches() * 2:
        cut(hand)
        optimizer.zero_grad()
        F.mse_loss(hand(x), y).backward()
        optimizer.step()
    assert bits(model) == bits(hand)


def test_losses_beside_a_computation_have_the_columns_that_it_computes():
    "What it did not call `ctx.loss_fn` for has no column; the validation has all of them."

    def second_view(ctx):
        ctx.pred = ctx.model(ctx.input)
        return ctx.loss_fn(ctx.model(ctx.input * 2), ctx.target)

    x, y = points()
    loss = st.Losses(square=st.Loss(F.mse_loss, pred="pred", target="target"))
    still = {**SGD, "opt_hparams": {"lr": 0.0}, "epochs": 1}
    for compute, right in ((returns_the_loss, x), (second_view, x * 2)):
        model = linear()
        run = st.fit(model, batches(), valid=(x, y), loss=loss, compute=compute, **still)
        row = run.history[-1]
        assert row["train_loss"] == pytest.approx(F.mse_loss(model(right), y).item())
        assert row["valid_loss_square"] == pytest.approx(F.mse_loss(model(x), y).item())
        assert ("train_loss_square" in row) == (compute is second_view)


def test_a_computation_that_trains_nothing_says_so_once(caplog):
    "A detached loss without a backward moves no weight, which is told with what to return."
    model = linear()
    with caplog.at_level(logging.WARNING, "statetrain"):
        st.fit(model, batches(), compute=lambda ctx: returns_the_loss(ctx).detach(), **SGD)
    (said,) = [r for r in caplog.records if "trains nothing" in r.getMessage()]
    assert "return the loss as a tensor with its graph" in said.getMessage()


def test_a_computation_with_several_optimizers_fills_the_current_ones_parameters():
    "Each optimizer's turn computes the gradients of its own parameters only."
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    twin = copy.deepcopy(model)
    seen = []

    @st.on("enter_step")
    def look(ctx):
        seen.append([p.grad is not None for p in ctx.model.parameters()])

    def two(net):
        return {
            "a": torch.optim.SGD(net[0].parameters(), lr=0.1),
            "b": torch.optim.SGD(net[1].parameters(), lr=0.1),
        }

    st.fit(
        model,
        batches(),
        compute=returns_the_loss,
        optimizer=two(model),
        epochs=1,
        callbacks=look,
        verbose=False,
    )
    a, b = two(twin).values()
    for x, y in batches():
        for optimizer in (a, b):
            optimizer.zero_grad()
            inputs = optimizer.param_groups[0]["params"]
            F.mse_loss(twin(x), y).backward(inputs=inputs)
            optimizer.step()
    assert bits(model) == bits(twin)
    assert seen[0] == [True, True, False, False]


# ---------------------------------------------------------------- modes


class Smoothed(nn.Module):
    "A loss that smooths labels in train mode only."

    def forward(self, pred, target):
        return F.cross_entropy(pred, target, label_smoothing=0.5 if self.training else 0.0)


def test_a_loss_that_is_a_module_follows_the_scope():
    "It is in train mode in the training, in eval mode in validation and evaluate, and then as before."
    x, y = points()
    labels = (y[:, 0] > 0).long()
    torch.manual_seed(1)
    model, loss = nn.Linear(4, 2), Smoothed()
    still = {**SGD, "opt_hparams": {"lr": 0.0}, "epochs": 1}
    run = st.fit(model, (x, labels), valid=(x, labels), loss=loss, **still)
    right = F.cross_entropy(model(x), labels).item()
    smooth = F.cross_entropy(model(x), labels, label_smoothing=0.5).item()
    assert run.history[-1]["valid_loss"] == pytest.approx(right)
    assert run.history[-1]["train_loss"] == pytest.approx(smooth)
    assert st.evaluate(run, (x, labels))["loss"] == pytest.approx(right)
    assert loss.training


def test_a_metric_that_is_a_module_follows_the_scope():
    "The same for a metric."

    class Mode(nn.Module):
        def forward(self, pred, target):
            return float(self.training)

    x, y = points()
    mode = Mode()
    run = st.fit(linear(), (x, y), valid=(x, y), loss=F.mse_loss, metrics={"mode": mode}, **SGD)
    assert (run.history[-1]["train_mode"], run.history[-1]["valid_mode"]) == (1.0, 0.0)
    assert mode.training


@pytest.mark.parametrize("compiled", [False, True])
def test_a_part_in_eval_mode_stays_so(compiled):
    "Batch norm's statistics of a frozen backbone, and a teacher's dropout, are left alone."
    torch.manual_seed(1)
    body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).requires_grad_(False).eval()
    before = bits(body)
    model = nn.Sequential(body, nn.Linear(4, 1))
    seen = []

    @st.on("enter_pred")
    def look(ctx):
        seen.append((body.training, model[1].training))

    x, y = points()
    options = {"compile": {"backend": "eager"}} if compiled else {}
    st.fit(model, (x + 5, y), valid=(x, y), loss=F.mse_loss, callbacks=look, **options, **SGD)
    assert bits(body) == before
    assert set(seen) == {(False, True)}
    assert not body.training
    assert model.training


def test_a_model_in_eval_mode_is_trained_in_train_mode():
    "As a pretrained model comes: all of it is put into train mode, and back afterwards."
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1)).eval()
    seen = []

    @st.on("enter_pred")
    def look(ctx):
        seen.append([part.training for part in model.modules()])

    st.fit(model, batches(), loss=F.mse_loss, callbacks=look, **SGD)
    assert all(all(modes) for modes in seen)
    assert not any(part.training for part in model.modules())


class Adapted(nn.Linear):
    """Adds an adapter to its weight, merged with it in eval mode, as adapters do."""

    def __init__(self) -> None:
        super().__init__(4, 1)
        self.adapter, self.merged = nn.Parameter(torch.full((1, 4), 0.1)), False

    def train(self, mode: bool = True) -> nn.Module:
        if self.merged is mode:
            self.weight.data += self.adapter.data * (1 - 2 * mode)
            self.merged = not mode
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if not self.merged:
            weight = weight + self.adapter
        return F.linear(x, weight, self.bias)


class Resting(nn.Sequential):
    """Keeps its batch norm in eval mode, whatever it is told."""

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self[0].eval()
        return self


@pytest.mark.parametrize("evaluating", [False, True], ids=["in train mode", "in eval mode"])
def test_a_train_method_of_your_own_is_called(evaluating):
    "By the first train mode, by each validation and after it, by evaluate and predict, as by hand."
    x, y = points()
    torch.manual_seed(1)
    model = nn.Sequential(Resting(nn.BatchNorm1d(4), nn.Linear(4, 4)), Adapted())
    twin = copy.deepcopy(model).train()
    model.train(not evaluating)
    every = st.Every(2, "steps")
    run = st.fit(model, batches(), valid=(x, y), validate=every, loss=F.mse_loss, **SGD)
    assert st.evaluate(run, (x, y))["loss"] == run.history[-1]["valid_loss"]
    st.predict(run, x)
    model.train(), by_hand(twin, batches())
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)
    assert model[0][0].num_batches_tracked == 0


# ---------------------------------------------------------------- accumulation


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).squeeze(-1)


def tokens(counts: list[int]) -> list[dict[str, torch.Tensor]]:
    "Batches of one sequence of nine tokens, of which some count; what does not count is far off."
    generator = torch.Generator().manual_seed(0)
    found = []
    for count in counts:
        x = torch.randn(1, 9, 3, generator=generator)
        mask = (torch.arange(9) < count)[None]
        found.append({"x": x, "y": x.sum(-1).where(mask, 70.0), "mask": mask})
    return found


@pytest.mark.parametrize(
    "counts", [[9, 1], [1, 9, 4], [0, 5], [5, 0], [0, 0, 3, 2], [3, 3, 3], [2, 7, 9, 1, 8]]
)
def test_a_window_of_unequal_counts_is_the_mean_over_what_counts(counts):
    "As one big batch would give: tokens weigh alike, whatever the batch that they came in."
    data, window = tokens(counts), 3
    model = Tokens()
    st.fit(
        model,
        data,
        input="x",
        target="y",
        loss=st.Loss(F.mse_loss, input="pred", target="target", mask="batch.mask"),
        accumulate=window,
        **{**SGD, "epochs": 1},
    )
    hand = Tokens()
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1)
    for start in range(0, len(data), window):
        part = data[start : start + window]
        x, y, mask = (torch.cat([one[name] for one in part]) for name in ("x", "y", "mask"))
        optimizer.zero_grad()
        errors = (hand(x) - y).square()[mask]
        (errors.sum() / max(1, int(mask.sum()))).backward()
        optimizer.step()
    for mine, right in zip(model.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(mine, right)


@pytest.mark.parametrize(
    "how",
    [
        {"loss": F.mse_loss, "accumulate": 2},
        {"compute": returns_the_loss, "accumulate": 2},
        {"compute": writes_the_gradients, "accumulate": 2},
        {"loss": F.mse_loss, "lifecycle": st.supervised(accumulate=2, validate=None)},
    ],
    ids=["a loss", "a computation", "a computation of gradients", "a lifecycle of your own"],
)
def test_a_window_of_batches_whose_size_is_said_is_the_mean_over_samples(how):
    "With size=, a plain loss is weighed by it, as one big batch would give."
    x, y = points(9)
    data = [(x[:6], y[:6]), (x[6:], y[6:])]
    model, hand = linear(), linear()
    st.fit(
        model,
        data,
        size=lambda batch: len(batch[0]),
        **how,
        **{**SGD, "epochs": 1},
    )
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1)
    F.mse_loss(hand(x), y).backward()
    optimizer.step()
    for mine, right in zip(model.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(mine, right)


def test_losses_that_count_differently_have_no_one_window(caplog):
    "One masked loss and one plain one: each batch of a window weighs alike, which is told."
    losses = st.Losses(
        a=st.Loss(F.mse_loss, input="pred", target="target", mask="batch.mask"),
        b=st.Loss(F.mse_loss, input="pred", target="target"),
    )
    given = {"input": "x", "target": "y", "loss": losses, **SGD}
    with caplog.at_level(logging.WARNING, "statetrain"):
        st.fit(Tokens(), tokens([9, 1]), accumulate=2, **given)
        st.fit(Tokens(), tokens([9, 1]), **given)
    (said,) = [r for r in caplog.records if "count differently" in r.getMessage()]
    assert "by samples and by batch.mask" in said.getMessage()


class Guessing:
    "Data that says another length than it has, and gives up some of its batches."

    def __init__(self, said: int | None, skipped: tuple[int, ...] = ()) -> None:
        self.said, self.skipped = said, skipped

    def __iter__(self):
        return Given(self.skipped)


class Saying(Guessing):
    def __len__(self) -> int:
        return self.said


class Given:
    def __init__(self, skipped: tuple[int, ...]) -> None:
        self.skipped, self.at = skipped, -1

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 1
        if self.at == 12:
            raise StopIteration
        if self.at in self.skipped:
            raise st.SkipBatch("a bad file")
        return batches(2)[self.at]


@pytest.mark.parametrize("data", [Guessing(None), Saying(4), Saying(12), Saying(100)])
@pytest.mark.parametrize("skipped", [(), (2,), (11,), (0, 5, 6), (3, 4, 5, 6, 7)])
@pytest.mark.parametrize("prefetch", [False, True])
def test_windows_do_not_depend_on_what_the_data_says_of_its_length(data, skipped, prefetch):
    "A batch that is given up discards the window so far; the last window is the last one's."
    data.skipped = skipped
    model = linear()
    life = st.supervised(accumulate=3, prefetch=prefetch, validate=None)
    st.fit(model, data, loss=F.mse_loss, lifecycle=life, **{**SGD, "epochs": 1})
    hand = linear()
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1)
    window: list[Any] = []
    for n, batch in enumerate(batches(2)):
        if n in skipped:
            window = []
            continue
        window.append(batch)
        if len(window) == 3 or n == 11:
            optimizer.zero_grad()
            for x, y in window:
                F.mse_loss(hand(x), y).backward()
            for p in hand.parameters():
                p.grad.div_(len(window))
            optimizer.step()
            window = []
    assert bits(model) == bits(hand)


# ---------------------------------------------------------------- a lifecycle of your own


def with_norm() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))


def bad_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    "Of six batches, the third has a NaN in it."
    data = batches()
    data[2][0][1] = float("nan")
    return data


@pytest.mark.parametrize("policy", ["skip", "raise", "stop"])
def test_a_lifecycle_of_your_own_puts_buffers_back(policy):
    "A refused batch leaves no NaN in batch norm, as with the lifecycle that fit makes."
    runs = []
    for more in ({"non_finite": policy}, {"lifecycle": None}):
        model = with_norm()
        if "lifecycle" in more:
            more = {"lifecycle": st.supervised(validate=None, non_finite=policy)}
        try:
            st.fit(model, bad_batches(), loss=F.mse_loss, **more, **SGD)
        except st.NonFiniteLoss:
            assert policy == "raise"
        runs.append(bits(model))
        assert torch.isfinite(model[0].running_mean).all()
    assert runs[0] == runs[1]


def test_every_phase_of_your_own_lifecycle_puts_buffers_back():
    "Phases with prefixed names have the roles, so they have the state that copies the buffers."
    one = st.supervised(validate=None, non_finite="skip")
    life = one.prefixed("pre_").then(one)
    model = with_norm()
    run = st.fit(model, bad_batches(), loss=F.mse_loss, lifecycle=life, **SGD)
    assert [state.name for state in run.lifecycle.by_role("hold")] == ["pre_hold", "hold"]
    assert torch.isfinite(model[0].running_mean).all()


def test_a_lifecycle_of_your_own_is_seeded():
    "With a seed, dropout does not depend on what was drawn before, in validation neither."

    def go(before: int) -> dict[str, bytes]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        torch.manual_seed(before)
        st.fit(
            model, batches(), loss=F.mse_loss, seed=3, lifecycle=st.supervised(validate=None), **SGD
        )
        return bits(model)

    assert go(1) == go(2)


def test_a_lifecycle_of_your_own_takes_an_optimizer_with_a_closure():
    "LBFGS computes the loss again, as in the lifecycle that fit makes."
    weights = []
    for more in ({}, {"lifecycle": st.supervised(validate=None)}):
        model = linear()
        st.fit(
            model,
            batches(),
            loss=F.mse_loss,
            optimizer=torch.optim.LBFGS,
            epochs=2,
            verbose=False,
            **more,
        )
        weights.append(bits(model))
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"valid": 0.25}, "valid= would not be used"),
        ({"epochs": (2, 3)}, "least number would not be used"),
        ({"max_steps": 3}, "max_steps would not be used"),
        ({"prefetch": True}, "prefetch would not be used"),
    ],
)
def test_what_a_lifecycle_of_your_own_leaves_out_is_said(more, words):
    "An argument that would do nothing is refused before the first batch."
    given = {**SGD, "lifecycle": st.supervised(validate=None), **more}
    with pytest.raises(st.ConfigError, match=words):
        st.fit(linear(), points(), loss=F.mse_loss, **given)


def test_a_norm_without_a_policy_is_refused():
    "check_gradients does nothing where what is not finite is ignored."
    with pytest.raises(st.ConfigError, match="check_gradients has the policy of non_finite"):
        st.supervised(check_gradients=True, non_finite="ignore")


# ---------------------------------------------------------------- rows and outcomes


class Numbered(nn.Module):
    "Its loss is the number of the batch, from 1."

    def __init__(self) -> None:
        super().__init__()
        self.count, self.weight = 0, nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += self.training
        return self.weight * 0 + float(self.count)


def test_the_row_of_an_epoch_with_validation_inside_has_both_means():
    "Its own part's under the usual name, the whole epoch's under another one."
    run = st.fit(
        Numbered(),
        batches(2, 16),
        valid=batches(2, 4),
        loss=lambda pred, target: pred.mean(),
        validate=st.Every(5, "steps"),
        **{**SGD, "epochs": 1},
    )
    rows = [(row["step"], row["epoch_complete"], row["train_loss"]) for row in run.history]
    assert rows == [(5, False, 3.0), (8, True, 7.0)]
    assert run.history[-1]["epoch_train_loss"] == 4.5
    assert "epoch_train_loss" not in run.history[0]


def test_a_step_is_validated_once():
    "Where an interval falls on the end of an epoch, patience counts one row."
    run = st.fit(
        linear(),
        batches(),
        valid=batches(),
        loss=F.mse_loss,
        validate=st.Every(2, "steps") | st.Every(1, "epochs"),
        **SGD,
    )
    rows = [(row["step"], row["epoch_complete"]) for row in run.history]
    assert rows == [(2, False), (4, False), (6, True), (8, False), (10, False), (12, True)]


@pytest.mark.parametrize(("limit", "kind"), [(12, "Completed"), (11, "Stopped"), (6, "Stopped")])
def test_a_limit_that_all_epochs_reach_is_no_stop(limit, kind):
    "Two epochs of six batches: the twelfth step is the last of all."
    run = st.fit(linear(), batches(), loss=F.mse_loss, max_steps=limit, **SGD)
    assert type(run.outcome).__name__ == kind
    assert run.ctx.step == limit


# ---------------------------------------------------------------- found out late


@pytest.mark.parametrize("cut", [2, 3, 4, 5])
def test_a_run_that_is_cut_within_a_window_puts_its_buffers_back(cut, tmp_path):
    "The copy of the buffers from before the window is part of the checkpoint."

    class PowerFailureError(Exception):
        pass

    def train(folder, cut=None, resume=None):
        model = with_norm()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)

        @st.on("enter_batch")
        def fail(ctx):
            if ctx.iter == cut:
                raise PowerFailureError

        try:
            st.fit(
                model,
                bad_batches(),
                loss=F.mse_loss,
                optimizer=optimizer,
                epochs=1,
                accumulate=2,
                non_finite="skip",
                finite_check="late",
                resume=resume,
                verbose=False,
                callbacks=[fail, st.Checkpoint(folder, every=st.Every(1, "batches"))],
            )
        except PowerFailureError:
            assert cut is not None
        return bits(model)

    whole = train(tmp_path / "whole")
    train(tmp_path / "cut", cut=cut)
    assert train(tmp_path / "cut", resume="last") == whole


@pytest.mark.parametrize("where", ["enter_batch", "enter_step", "enter_valid_pred"])
@pytest.mark.parametrize("check", ["now", "late"])
def test_an_evaluation_at_the_end_is_made_after_stopfit(where, check):
    "Raised in the training or in a validation, it ends the run with its reason, and the test set is looked at."

    @st.on(where)
    def stop(ctx):
        if ctx.epoch == 2 and not ctx.state.startswith("test"):  # a role is heard in it too
            raise st.StopFit("enough")

    run = st.fit(
        linear(),
        batches(),
        valid=batches(),
        loss=F.mse_loss,
        callbacks=stop,
        finite_check=check,
        evaluations=st.Evaluation("test", batches(), "end"),
        **{**SGD, "epochs": 5},
    )
    assert run.outcome == st.Stopped(2, "enough")
    with torch.no_grad():
        right = sum(F.mse_loss(run.model(x), y).item() for x, y in batches()) / 6
    assert run.history[-1]["test_loss"] == pytest.approx(right)
    assert not run.history[-1]["epoch_complete"]
