"""Losses by keys: what they are computed from, their weights and masks, and what a run makes of them."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as strategies
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.schedules import linear
from statetrain.testing.resuming import assert_resumable


class Net(nn.Module):
    """A hidden layer and logits, returned by name."""

    def __init__(self):
        super().__init__()
        self.enc, self.drop, self.head = nn.Linear(4, 5), nn.Dropout(0.2), nn.Linear(5, 3)

    def forward(self, points):
        hidden = self.drop(self.enc(points).relu())
        return {"logits": self.head(hidden), "hidden": hidden}


def made(kind=Net):
    torch.manual_seed(0)
    return kind()


@pytest.fixture
def data(points):
    "22 points, their classes, and which of them count."
    generator = torch.Generator().manual_seed(2)
    return {
        "point": points[0],
        "label": points[1],
        "counts": torch.rand(22, generator=generator) > 0.4,
        "heavy": torch.rand(22, generator=generator),
    }


def batches(data, sizes=(8, 8, 6)):
    parts = {name: column.split(sizes) for name, column in data.items()}
    return [{name: column[i] for name, column in parts.items()} for i in range(len(sizes))]


def options(**more):
    return {
        "input": "point",
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1, "momentum": 0.9},
        "epochs": 2,
        **more,
    }


LABEL = {"pred": "pred.logits", "target": "batch.label"}


def same(run, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(
            run.model.state_dict().values(), other.model.state_dict().values(), strict=True
        )
    )


def rows(run):
    return [
        {name: value for name, value in row.items() if name != "seconds"} for row in run.history
    ]


@pytest.mark.parametrize(
    "more",
    [{}, {"accumulate": 2}, {"precision": "bf16"}, {"non_finite": "skip", "check_gradients": True}],
    ids=str,
)
def test_a_loss_by_keys_is_the_plain_loss(data, more):
    "Weights and history are those of the plain loss to the last bit, with accumulation, precision and policies too."
    plain = st.fit(
        made(),
        batches(data),
        valid=batches(data),
        loss=F.cross_entropy,
        pred="logits",
        target="label",
        **options(**more),
    )
    keyed = st.fit(
        made(),
        batches(data),
        valid=batches(data),
        loss=st.Loss(F.cross_entropy, **LABEL),
        **options(**more),
    )
    assert same(plain, keyed)
    assert rows(plain) == rows(keyed)


def test_a_plain_loss_is_called_as_before(data):
    "Without losses by keys, the context holds the user's own function, and no column but the loss's is summed up."
    run = st.fit(
        made(), batches(data), loss=F.cross_entropy, pred="logits", target="label", **options()
    )
    assert run.ctx.loss_fn is F.cross_entropy
    assert run.ctx.tallies["train"].metrics == {}
    assert run.ctx.loss_states == {}


def test_closures_replay_it(data):
    "LBFGS computes a loss by keys as often as it likes, and ends where it does with the plain one."
    given = options(optimizer=torch.optim.LBFGS, opt_hparams={"max_iter": 3})
    plain = st.fit(
        made(), batches(data), loss=F.cross_entropy, pred="logits", target="label", **given
    )
    keyed = st.fit(made(), batches(data), loss=st.Loss(F.cross_entropy, **LABEL), **given)
    assert same(plain, keyed)


# ---------------------------------------------------------------- arguments


def by_position(first, second, /, third=3):
    return first + 10 * second + 100 * third


def by_name(first, *, second, **others):
    return first + 10 * second + 100 * sum(others.values())


@pytest.mark.parametrize(
    ("function", "keys", "expected"),
    [
        (by_position, {"first": "epoch", "second": "iter"}, 1 + 20 + 300),
        (by_position, {"a": "epoch", "b": "iter", "third": "step"}, 1 + 20 + 400),
        (by_name, {"second": "iter", "x": "epoch"}, 1 + 20),
        (by_name, {"first": "epoch", "second": "iter", "z": "step"}, 1 + 20 + 400),
        (partial(by_name, second=5), {"first": "epoch"}, 1 + 50),
        (lambda *all: all[0] + 10 * all[1], {"a": "epoch", "b": "iter"}, 1 + 20),
        (math.pow, {"base": "step", "exponent": "iter"}, 16),
    ],
)
def test_keys_go_to_arguments(function, keys, expected):
    "By name where the name fits; others to the first required arguments that are open, in order."
    ctx = st.Context(epoch=1, iter=2, step=4)
    assert st.Loss(function, **keys)(ctx) == expected


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: st.Loss(F.mse_loss, input="pred"),
            "loss 'mse_loss' has no key for target: it is called as mse_loss",
        ),
        (
            lambda: st.Loss(F.mse_loss, input="pred", target="target", weigt="x"),
            "takes no 'weigt'; did you mean 'weight'",
        ),
        (
            lambda: st.Loss(F.mse_loss, input="a..b", target="target"),
            "loss 'mse_loss', input=: 'a..b' is not a path",
        ),
        (
            lambda: st.Loss(F.mse_loss, input=3, target="target"),
            "takes the path of a key, such as 'batch.label', got 3",
        ),
        (lambda: st.Loss(nn.MSELoss), "got <class 'torch.nn.modules.loss.MSELoss'>; write MSELoss"),
        (lambda: st.Loss(None), "must be a function, got None"),
        (lambda: st.Loss(F.mse_loss, weight=float("nan")), "weight must be a finite number"),
        (lambda: st.Loss(F.mse_loss, weight=True), "weight must be a finite number"),
        (lambda: st.Loss(nn.MSELoss(), mask="batch.mask"), r"MSELoss\(reduction='none'\)"),
        (lambda: st.Losses(), "has no loss"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_made(make, words):
    "Missing and unknown arguments, bad paths, classes, weights that are no numbers."
    with pytest.raises(st.ConfigError, match=words):
        make()


def test_a_key_that_leads_nowhere_is_named(data):
    "The error says which loss, which key, what is there, and where the run stood."
    with pytest.raises(
        st.LossError,
        match=(
            r"loss 'cross_entropy' cannot be computed: 'pred\.logit': a dict has no 'logit'; did"
            r" you mean 'logits'"
        ),
    ) as caught:
        st.fit(
            made(),
            batches(data),
            loss=st.Loss(F.cross_entropy, pred="pred.logit", target="batch.label"),
            **options(),
        )
    assert "in state 'loss'" in caught.value.__notes__[0]


def test_a_users_key_error_is_the_users(data):
    "A KeyError inside the loss function passes as it is."

    def broken(pred):
        return pred["nothing"]

    with pytest.raises(KeyError, match=r"^'nothing'\nstatetrain: in state 'loss'"):
        st.fit(made(), batches(data), loss=st.Loss(broken, pred="pred"), **options())


def test_a_loss_without_a_context():
    "It can be called with the arguments themselves."
    loss = st.Loss(F.cross_entropy, **LABEL, weight=3.0)
    logits, label = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert torch.equal(loss(logits, label), F.cross_entropy(logits, label))
    assert torch.equal(loss(input=logits, target=label), F.cross_entropy(logits, label))


# ---------------------------------------------------------------- called with two arguments


def add_mirrored(ctx):
    "add the loss of the mirrored input"
    ctx.loss_grad = ctx.loss_grad + ctx.loss_fn(ctx.model(-ctx.input), ctx.target)


TWICE = st.supervised(validate=None).insert(
    st.State("mirror", add_mirrored), between=("loss", "backward")
)


def trained_on_both(points):
    """A loop by hand with the loss of each batch and that of its mirror image; and the first means."""
    model = made(partial(nn.Linear, 4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    own = []
    for x, y in zip(*(column.split(8) for column in points), strict=True):
        loss = F.cross_entropy(model(x), y)
        own.append(loss.item() * len(x))
        optimizer.zero_grad()
        (loss + F.cross_entropy(model(-x), y)).backward()
        optimizer.step()
    return list(model.parameters()), sum(own) / len(points[0])


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        st.Loss(F.cross_entropy),
        st.Loss(F.cross_entropy, input="pred", target="target"),
        st.Loss(F.cross_entropy, input="pred", target="batch[1]"),
        st.Losses(label=F.cross_entropy),
        st.Losses(label=st.Loss(F.cross_entropy), more=st.Loss(lambda p: 0.0 * p.sum(), p="pred")),
    ],
    ids=["plain", "Loss", "keys", "batch", "Losses", "several"],
)
def test_a_second_forward_pass_has_a_loss_of_its_own(points, loss):
    "ctx.loss_fn(pred, target) computes what it is given, whatever kind of loss it is: as a loop by hand."
    batches = list(zip(*(column.split(8) for column in points), strict=True))
    model = made(partial(nn.Linear, 4, 3))
    run = st.fit(
        model,
        batches,
        loss=loss,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=1,
        lifecycle=TWICE,
    )
    weights, mean = trained_on_both(points)
    for ours, theirs in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    if isinstance(loss, st.Losses):
        assert run.history[-1]["train_loss_label"] == pytest.approx(mean, rel=1e-6)


def test_a_computation_calls_losses_by_keys(points):
    "With compute=, the first call gives the columns of the losses, and what it returns is right."
    batches = list(zip(*(column.split(8) for column in points), strict=True))

    def compute(ctx):
        pred = ctx.model(ctx.input)
        ctx.loss_grad = ctx.loss_fn(pred, ctx.target)
        ctx.pred = pred
        ctx.loss_fn(pred + 1, ctx.target)  # another one, which is no part of the batch's columns
        if ctx.training:
            ctx.loss_grad.backward()
            ctx.opt.step()
            ctx.opt.zero_grad()
        return ctx.loss_grad

    losses = st.Losses(label=st.Loss(F.cross_entropy), size=st.Loss(l1, hidden="pred", weight=0.0))
    model = made(partial(nn.Linear, 4, 3))
    run = st.fit(
        model,
        batches,
        loss=losses,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.0},
        epochs=1,
        compute=compute,
    )
    label = F.cross_entropy(model(points[0]), points[1]).item()
    assert run.history[-1]["train_loss_label"] == pytest.approx(label, rel=1e-5)
    assert run.history[-1]["train_loss_size"] == pytest.approx(
        model(points[0]).abs().mean().item(), rel=1e-5
    )


@pytest.mark.parametrize("pick", ["logits", "logits[:, :3]"])
def test_a_picked_part_is_the_batchs_prediction(data, pick):
    "pred= names a part, by a view too: the losses of a batch still read it, and another part is another's."
    seen = []

    @st.on("exit_loss")
    def look(ctx):
        part = ctx.pred["logits"]
        seen.append((ctx.loss_value, ctx.loss_fn(part + 1.0, ctx.target).item()))
        seen.append((F.mse_loss(part, ctx.target).item(), F.mse_loss(part + 1, ctx.target).item()))

    rows = [
        {**batch, "label": batch["label"][:, None].expand(-1, 3).float()} for batch in batches(data)
    ]
    st.fit(
        made(),
        rows[:1],
        loss=st.Loss(F.mse_loss),
        pred=pick,
        target="label",
        callbacks=look,
        **options(epochs=1),
    )
    assert seen[0] == pytest.approx(seen[1])


def test_a_target_that_no_loss_reads_is_refused(points):
    "Another target than the batch's, for a loss that reads the batch, is an error with its remedy."

    @st.on("exit_loss")
    def turn(ctx):
        ctx.loss_fn(ctx.pred, ctx.target.flip(0))

    with pytest.raises(
        st.LossError, match=r"another target .* reads 'batch\[1\]', 'pred'"
    ) as found:
        st.fit(
            made(partial(nn.Linear, 4, 3)),
            [points],
            loss=st.Loss(F.cross_entropy, input="pred", target="batch[1]"),
            optimizer=torch.optim.SGD,
            epochs=1,
            callbacks=turn,
        )
    assert "target='target'" in str(found.value)


# ---------------------------------------------------------------- several, with weights


def l1(hidden):
    return hidden.abs().mean()


def square(parameters):
    return sum(weight.square().sum() for weight in parameters.values())


def several(**weights):
    return st.Losses(
        label=st.Loss(F.cross_entropy, **LABEL),
        sparse=st.Loss(l1, hidden="pred.hidden", weight=weights.get("sparse", 0.5)),
        decay=st.Loss(square, parameters="params.**.weight", weight=weights.get("decay", 0.01)),
    )


def test_several_losses_are_the_sum_written_by_hand(data):
    "Training on Losses is training on the weighted sum; each has a column without its weight."

    def by_hand(ctx):
        pred = ctx.pred = ctx.model(ctx.input)
        weights = [p for name, p in ctx.model.named_parameters() if name.endswith("weight")]
        loss = (
            F.cross_entropy(pred["logits"], ctx.batch["label"])
            + l1(pred["hidden"]) * 0.5
            + sum(w.square().sum() for w in weights) * 0.01
        )
        loss.backward()
        return loss

    hand = st.fit(made(), batches(data), compute=by_hand, **options())
    run = st.fit(made(), batches(data), loss=several(), **options())
    assert same(hand, run)
    assert run.history["train_loss"] == hand.history["train_loss"]
    row = run.history[-1]
    assert row["train_loss"] == pytest.approx(
        row["train_loss_label"] + 0.5 * row["train_loss_sparse"] + 0.01 * row["train_loss_decay"],
        rel=1e-6,
    )


def test_weights_may_follow_the_run(data):
    "A weight is a number, a key, or a function of the context, asked in each batch; loss_states says what it was."
    seen = []

    class Look(st.Callback):
        reads = ("loss_states", "loss_total", "step")

        def on_exit_loss(self, ctx):
            states = ctx.loss_states
            seen.append((ctx.step, states["sparse"].weight, states["decay"].weight))
            assert not states["label"].value.requires_grad
            total = sum(state.value * state.weight for state in states.values())
            assert torch.allclose(total, ctx.loss_total)
            assert {state.count for state in states.values()} == {ctx.batch_size}

    losses = several(sparse=lambda ctx: min(1.0, ctx.step / 4), decay="opt_hparams.lr")
    st.fit(made(), batches(data), loss=losses, callbacks=Look(), **options())
    assert seen == [(step, min(1.0, step / 4), 0.1) for step in range(6)]


def test_one_that_is_no_scalar_is_named(data):
    "Of several losses, the error names the one."
    losses = st.Losses(
        label=st.Loss(F.cross_entropy, **LABEL), wide=st.Loss(lambda h: h, h="pred.hidden")
    )
    with pytest.raises(
        st.LossError, match=r"loss 'wide' must be a scalar tensor, got shape \(8, 5\)"
    ):
        st.fit(made(), batches(data), loss=losses, **options())


def test_losses_for_each_optimizer(data):
    "With several optimizers, each may have losses by keys; their columns carry both names."
    run = st.fit(
        made(),
        batches(data),
        valid=batches(data),
        loss={"enc": several(), "head": st.Loss(F.cross_entropy, **LABEL)},
        **options(
            optimizer={"enc": torch.optim.SGD, "head": torch.optim.SGD}, opt_hparams={"lr": 0.1}
        ),
    )
    assert {
        "train_loss_enc",
        "train_loss_enc_sparse",
        "train_loss_head",
        "valid_loss_enc_decay",
    } <= set(run.history.columns)
    row = run.history[-1]
    assert row["train_loss_enc"] == pytest.approx(
        row["train_loss_enc_label"]
        + 0.5 * row["train_loss_enc_sparse"]
        + 0.01 * row["train_loss_enc_decay"]
    )


def test_a_metric_may_not_take_a_losss_column(data):
    "Two columns of one name are refused before anything runs."
    with pytest.raises(
        st.ConfigError, match="a metric is called 'loss_label', as the column of a loss is"
    ):
        st.fit(
            made(),
            batches(data),
            loss=several(),
            metrics={"loss_label": st.Metric(l1, hidden="pred.hidden")},
            **options(),
        )


def test_a_skipped_batch_counts_in_no_column(data):
    "A loss that is not finite is in no mean, neither the total's nor the parts'."
    found = batches(data)
    found[1]["point"] = found[1]["point"] * float("nan")
    run = st.fit(made(), found, loss=several(), non_finite="skip", **options())
    assert all(
        math.isfinite(value)
        for name, column in ((n, run.history[n]) for n in run.history.columns)
        if "loss" in name
        for value in column
    )
    assert run.ctx.step == 4


def test_monitors_know_the_columns(data):
    "The column of one loss can be monitored; a misspelt one is an error before training."
    run = st.fit(
        made(),
        batches(data),
        loss=several(),
        stop=st.EarlyStopping("train_loss_sparse", patience=9),
        **options(),
    )
    assert run.outcome.ok
    with pytest.raises(st.ConfigError, match="did you mean 'train_loss_sparse'"):
        st.fit(
            made(),
            batches(data),
            loss=several(),
            stop=st.EarlyStopping("train_loss_spars"),
            **options(),
        )


def test_a_schedule_of_steps_is_no_weight_by_itself(data):
    "A weight is asked with the context; the error of a function of a count says how to write it."
    with pytest.raises(TypeError) as raised:
        st.fit(made(), batches(data), loss=several(sparse=linear(0.0, 1.0, over=9)), **options())
    assert "write weight=lambda ctx: schedule(ctx.step)" in raised.value.__notes__[0]


# ---------------------------------------------------------------- masks and weights of samples


def test_masked_means_are_over_what_counts(data):
    "In a batch, in an epoch and in an evaluation: the mean over the samples that the mask lets through, each by its weight."
    model = made(lambda: nn.Linear(4, 3))
    logits = model(data["point"]).detach()
    values, weights = (
        F.cross_entropy(logits, data["label"], reduction="none"),
        data["counts"] * data["heavy"],
    )
    loss = st.Loss(
        F.cross_entropy,
        pred="pred",
        target="batch.label",
        mask="batch.counts",
        sample_weight="batch.heavy",
    )
    metric = st.Metric(
        lambda p, t: (p.argmax(1) == t).float(), p="pred", t="batch.label", mask="batch.counts"
    )
    still = options(opt_hparams={"lr": 0.0}, epochs=1)
    run = st.fit(
        model,
        batches(data, (15, 4, 3)),
        valid=batches(data),
        loss=loss,
        metrics={"right": metric},
        **still,
    )
    expected = ((values * weights).sum() / weights.sum()).item()
    right = (logits.argmax(1) == data["label"])[data["counts"]].float().mean().item()
    for column in ("train_loss", "valid_loss"):
        assert run.history[-1][column] == pytest.approx(expected, rel=1e-6)
    for column in ("train_right", "valid_right"):
        assert run.history[-1][column] == pytest.approx(right)
    assert st.evaluate(run, data) == pytest.approx({"loss": expected, "right": right})
    assert st.evaluate(run, data)["loss"] != pytest.approx(values.mean().item())


@given(
    strategies.lists(
        strategies.lists(strategies.booleans(), min_size=3, max_size=3), min_size=2, max_size=4
    )
)
def test_a_mask_of_any_kind(rows):
    "The loss is the mean over what the mask lets through, 0 of nothing; what it hides may be NaN, and has no gradient."
    mask = torch.tensor(rows)
    values = torch.arange(mask.numel(), dtype=torch.float32).reshape(mask.shape)
    pred = torch.where(mask, values, torch.nan).requires_grad_()
    loss = st.Loss(lambda pred: pred * 2, pred="pred", mask="batch")
    value, count = loss.values(st.Context(pred=pred, batch=mask))
    assert value.item() == pytest.approx(values[mask].mean().item() * 2 if mask.any() else 0.0)
    assert count.item() == mask.sum().item()
    value.backward()
    assert torch.allclose(pred.grad, mask * 2.0 / max(mask.sum().item(), 1))


def test_a_mask_of_samples_holds_for_all_that_belongs_to_them():
    "Dimensions that a mask lacks are the last ones, also where the sizes are equal; a shape that does not fit is an error."
    pred = torch.arange(9.0).reshape(3, 3)
    loss = st.Loss(lambda pred: pred, pred="pred", mask="batch")
    assert loss(st.Context(pred=pred, batch=torch.tensor([1, 0, 0]))).item() == 1.0
    assert loss(st.Context(pred=pred, batch=torch.tensor([[1], [0], [0]]))).item() == 1.0
    assert loss(st.Context(pred=pred, batch=torch.tensor([[1, 0, 0]]))).item() == 3.0
    with pytest.raises(
        st.LossError, match=r"'batch' of shape \(2,\) does not fit values of shape \(3, 3\)"
    ):
        loss(st.Context(pred=pred, batch=torch.ones(2)))
    with pytest.raises(st.LossError, match="make the function give one value for each"):
        st.Loss(lambda pred: pred.mean(), pred="pred", mask="batch")(
            st.Context(pred=pred, batch=torch.ones(3))
        )


# -------------------- data without a target, modules, resuming


def test_no_target_is_needed(data):
    "Where all losses and metrics name what they take, a batch needs no target."
    run = st.fit(
        made(),
        {"point": data["point"]},
        loss=st.Loss(l1, hidden="pred.hidden"),
        metrics={"spread": st.Metric(torch.std, x="pred.hidden")},
        **options(),
    )
    assert run.outcome.ok
    with pytest.raises(st.DataError, match="which is the target"):
        st.fit(
            made(),
            {"point": data["point"], "other": data["heavy"]},
            loss=st.Loss(F.mse_loss, input="pred.hidden", target="target"),
            **options(),
        )


class Scaled(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, pred, target):
        return F.cross_entropy(pred * self.scale, target) + self.scale.square()


def build(data, **more):
    torch.manual_seed(0)
    model, scaled = Net(), Scaled()
    optimizer = torch.optim.Adam([*model.parameters(), *scaled.parameters()], lr=0.01)
    losses = st.Losses(
        label=st.Loss(scaled, **LABEL, mask=None),
        masked=st.Loss(
            F.cross_entropy, **LABEL, mask="batch.counts", weight=lambda ctx: ctx.step / 10
        ),
    )
    metrics = {
        "spread": st.Metric(torch.std, input="pred.hidden"),
        "right": st.Metric(
            lambda p, t: (p.argmax(1) == t).float(), **LABEL, sample_weight="batch.heavy"
        ),
    }
    given = {"valid": data, "metrics": metrics, "dataloader_options": {"batch_size": 6}, **more}
    return st.fit(
        model, data, loss=losses, input="point", optimizer=optimizer, epochs=2, start=False, **given
    )


@pytest.mark.parametrize(
    "more", [{}, {"accumulate": 3, "validate": st.Every(3, "steps")}], ids=["plain", "windows"]
)
def test_runs_with_losses_by_keys_can_be_resumed(data, more):
    "Cut at its anchors and continued, modules, means of masked losses and metrics by keys are what they were, to the last bit."
    assert assert_resumable(lambda: build(data, **more), anchors=6) == 6


@pytest.mark.parametrize("mask", [(4,), (4, 3)], ids=["samples", "elements"])
def test_a_nan_target_that_does_not_count_leaves_gradients_finite(mask):
    "A target that is not known is NaN and masked: loss and gradients are those of what counts."
    torch.manual_seed(0)
    inputs, target = torch.randn(4, 2), torch.randn(4, 3)
    counts = torch.ones(mask, dtype=torch.bool)
    counts[1] = False
    target[1] = float("nan")
    model, hand = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    hand.load_state_dict(model.state_dict())
    kept = [0, 2, 3]
    F.mse_loss(hand(inputs[kept]), target[kept]).backward()
    loss = st.Loss(F.mse_loss, input="pred", target="batch[1]", mask="batch[2]")
    run = st.fit(
        model,
        [(inputs, target, counts)],
        input="[0]",
        target="[1]",
        loss=loss,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.0},
        epochs=1,
        device="cpu",
        check_gradients=True,
    )
    assert run.outcome == st.Completed(1)
    for own, other in zip(model.parameters(), hand.parameters(), strict=True):
        assert torch.allclose(own.grad, other.grad)
