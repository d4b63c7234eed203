"""`Mixup`: the model sees mixtures, the loss is mixed with them, and nothing else notices."""

from __future__ import annotations

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.callbacks.mixup import Mixed, Mixup, mixup_loss
from statetrain.errors import ConfigError, DataError, LossError


def batches(data, size=8):
    return list(zip(*(column.split(size) for column in data), strict=True))


def net():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def fit(data, callbacks, model=None, **options):
    common = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
    }
    return st.fit(
        net() if model is None else model, data, callbacks=callbacks, **{**common, **options}
    )


def drawn(size, alpha, per):
    """What is drawn for a batch: weights, then partners."""
    weight = torch.distributions.Beta(alpha, alpha).sample((size,) if per == "sample" else ())
    return torch.maximum(weight, 1 - weight), torch.randperm(size)


@pytest.mark.parametrize(("alpha", "per"), [(0.4, "sample"), (2, "sample"), (0.4, "batch")])
def test_the_loop_written_by_hand(alpha, per, points):
    "Weights are those of a loop with the formulas of the paper, drawn with torch's own Beta distribution."
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in batches(points):
            weight, order = drawn(len(x), alpha, per)
            share = weight[:, None] if per == "sample" else weight
            pred = model(torch.lerp(x[order], x, share))
            optimizer.zero_grad()
            if per == "sample":
                torch.lerp(
                    F.cross_entropy(pred, y[order], reduction="none"),
                    F.cross_entropy(pred, y, reduction="none"),
                    weight,
                ).mean().backward()
            else:
                (
                    weight * F.cross_entropy(pred, y)
                    + (1 - weight) * F.cross_entropy(pred, y[order])
                ).backward()
            optimizer.step()

    run = fit(batches(points), Mixup(alpha, per=per))

    assert bits(run.model) == bits(model)


class Inputs(st.Callback):
    """Notes what the model sees, and the targets."""

    def __init__(self) -> None:
        self.train, self.valid, self.targets = [], [], []

    def on_exit_pred(self, ctx):
        self.train.append(ctx.input)
        self.targets.append(ctx.target)

    def on_exit_valid_pred(self, ctx):
        self.valid.append(ctx.input)


def test_each_sample_has_most_of_its_own_mixture():
    "A mixture is of a sample and one partner, at least half of it the sample's own; the batch itself stays as it was."
    X, y = torch.eye(12), torch.arange(12) % 3
    inputs = Inputs()
    fit([(X, y)], [Mixup(), inputs], nn.Linear(12, 3), epochs=20)

    for mixed in inputs.train:
        assert (mixed.diagonal() >= 0.5).all()
        assert torch.allclose(mixed.sum(1), torch.ones(12))
        assert ((mixed != 0).sum(1) <= 2).all()
    assert sum((mixed.diagonal() < 1).sum() for mixed in inputs.train) > 100
    assert torch.equal(X, torch.eye(12))


def test_a_generator_of_its_own(points):
    "The same generator gives the same mixtures whatever else is drawn, and the global one is left alone."

    def inputs(seed):
        seen, before = Inputs(), torch.get_rng_state()
        fit(
            batches(points),
            [Mixup(generator=torch.Generator().manual_seed(seed)), seen],
            nn.Linear(4, 3),
        )
        return seen.train, before

    model = nn.Linear(4, 3)
    first, _ = inputs(7)
    torch.manual_seed(99)
    second, _ = inputs(7)
    other, _ = inputs(8)
    before = torch.get_rng_state()
    fit(batches(points), Mixup(generator=torch.Generator()), model)

    assert all(map(torch.equal, first, second))
    assert not any(map(torch.equal, first, other))
    assert torch.equal(torch.get_rng_state(), before)


def test_metrics_and_hooks_see_the_targets_as_they_are(points):
    "In training and in validation, mixed or not, metrics get the batch's own targets."
    targets = []

    def share(pred, target):
        targets.append(target)
        return (pred.argmax(1) == target).float().mean()

    inputs = Inputs()
    fit(
        batches(points), [Mixup(valid=True), inputs], valid=batches(points), metrics=share, epochs=1
    )

    own = [y for _, y in batches(points)]
    assert all(map(torch.equal, targets, own * 2))
    assert all(map(torch.equal, inputs.targets, own))


def test_validation_is_mixed_only_if_asked(points):
    "Validation sees plain data and has the plain loss by default; with valid=True both are mixed."
    own = [x for x, _ in batches(points)]
    plain, mixed = Inputs(), Inputs()
    options = {"valid": batches(points), "opt_hparams": {"lr": 0.0}, "epochs": 1}
    run = fit(batches(points), [Mixup(), plain], **options)
    losses = [F.cross_entropy(run.model(x), y).item() * len(x) for x, y in batches(points)]
    other = fit(batches(points), [Mixup(valid=True), mixed], **options)

    assert all(map(torch.equal, plain.valid, own))
    assert run.history["valid_loss"] == [sum(losses) / 22]
    assert not any(map(torch.equal, mixed.valid, own))
    assert other.history["valid_loss"] != run.history["valid_loss"]


def test_afterwards_the_loss_is_the_users_own(points):
    "After the fit, and after a failure, nothing of the mixing is left in the run; a fit that goes on mixes again."

    class Fails(st.Callback):
        def on_exit_backward(self, ctx):
            raise RuntimeError("no more")

    inputs = Inputs()
    run = fit(batches(points), [Mixup(), inputs], epochs=1)
    with pytest.raises(RuntimeError, match="no more") as caught:
        fit(batches(points), [Mixup(), Fails()])

    assert run.ctx.loss_fns == caught.value.run.ctx.loss_fns == {"opt": F.cross_entropy}
    assert run.evaluate(batches(points)) == st.evaluate(
        run.model, batches(points), loss=F.cross_entropy
    )
    run.fit(1)
    assert not any(map(torch.equal, inputs.train[3:], [x for x, _ in batches(points)]))


class Two(nn.Module):
    """Two layers, each of which has an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.first(x) + self.second(x)


def test_several_optimizers_share_a_mixture(points):
    "Each optimizer takes its turn on the same mixture, which is made once."
    inputs = Inputs()
    fit(
        batches(points),
        [Mixup(), inputs],
        Two(),
        optimizer={"first": torch.optim.SGD, "second": torch.optim.SGD},
        epochs=1,
    )

    assert len(inputs.train) == 6
    assert all(map(torch.equal, inputs.train[::2], inputs.train[1::2]))
    assert not any(map(torch.equal, inputs.train[::2], [x for x, _ in batches(points)]))


def test_a_step_that_computes_the_loss_again(points):
    "LBFGS sees the same mixed loss each time that it asks."
    losses = []

    def loss(pred, target, reduction="mean"):
        losses.append(reduction)
        return F.cross_entropy(pred, target, reduction=reduction)

    fit(
        batches(points),
        Mixup(),
        loss=loss,
        optimizer=torch.optim.LBFGS,
        opt_hparams={"max_iter": 3},
        epochs=1,
    )

    assert len(losses) > 6
    assert set(losses) == {"none"}


def test_a_computation_of_ones_own(points):
    "A function in place of pred, loss and backward gets the mixed input, and mixes with `ctx.loss_fn`."
    torch.manual_seed(0)
    usual = fit(batches(points), Mixup())
    torch.manual_seed(0)

    def compute(ctx):
        ctx.pred = ctx.model(ctx.input)
        loss = ctx.loss_fn(ctx.pred, ctx.target)
        loss.backward()
        return loss

    own = fit(batches(points), Mixup(), compute=compute)

    assert bits(own.model) == bits(usual.model)


def test_it_is_continued_from_its_saved_state():
    "The generator goes on where it was saved."
    first, second = (Mixup(generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    torch.rand(5, generator=first.generator)
    second.load_state_dict(first.state_dict())

    assert torch.equal(
        torch.rand(5, generator=first.generator), torch.rand(5, generator=second.generator)
    )
    assert Mixup().state_dict() == {}


def test_inputs_of_several_parts(points):
    "Dicts and tuples of tensors are mixed part by part, with the same partners."
    X, y = points
    seen = []

    class Sum(nn.Linear):
        def forward(self, parts):
            seen.append(parts)
            return super().forward(parts["a"][0] + parts["b"])

    fit([({"a": (X,), "b": 2 * X}, y)], Mixup(), Sum(4, 3), epochs=1)

    assert torch.allclose(2 * seen[0]["a"][0], seen[0]["b"])
    assert not torch.equal(seen[0]["b"], 2 * X)


# ---------------------------------------------------------------- the loss

PRED, OWN, PARTNER, WEIGHT = (
    torch.randn(4, 3),
    torch.tensor([0, 1, 2, 0]),
    torch.tensor([1, 1, 0, 2]),
    torch.tensor([0.5, 0.7, 0.9, 1.0]),
)


def each(target):
    return F.cross_entropy(PRED, target, reduction="none")


@pytest.mark.parametrize(
    ("loss", "reduced"),
    [
        (F.cross_entropy, torch.mean),
        (nn.CrossEntropyLoss(), torch.mean),
        (nn.CrossEntropyLoss(reduction="sum"), torch.sum),
        (lambda pred, target: F.cross_entropy(pred, target, reduction="none"), torch.mean),
    ],
    ids=["function", "module", "sum", "unreduced"],
)
def test_the_mixed_loss_is_its_formula(loss, reduced):
    "For each sample, weight times the own loss plus the rest times the partner's, reduced as the loss reduces."
    found = mixup_loss(loss)(PRED, Mixed(OWN, PARTNER, WEIGHT))

    assert torch.allclose(found, reduced(WEIGHT * each(OWN) + (1 - WEIGHT) * each(PARTNER)))
    assert torch.equal(mixup_loss(loss)(PRED, OWN), loss(PRED, OWN))
    assert getattr(loss, "reduction", "none") in ("none", "mean", "sum")


def test_the_users_module_stays_as_it_is():
    "The module's own reduction is not changed, and its weights are shared."
    module = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    mixing = mixup_loss(module)
    mixing(PRED, Mixed(OWN, PARTNER, WEIGHT))
    before = mixing(PRED, Mixed(OWN, PARTNER, WEIGHT))
    module.weight.mul_(2)

    assert module.reduction == "mean"
    assert torch.allclose(mixing(PRED, Mixed(OWN, PARTNER, WEIGHT)), 2 * before)


def test_losses_of_more_dimensions():
    "A loss for each pixel is mixed with its sample's weight."
    pred, own, partner = (
        torch.randn(4, 3, 2, 5),
        torch.randint(3, (4, 2, 5)),
        torch.randint(3, (4, 2, 5)),
    )
    weight = WEIGHT[:, None, None]
    expected = weight * F.cross_entropy(pred, own, reduction="none") + (
        1 - weight
    ) * F.cross_entropy(pred, partner, reduction="none")

    assert torch.allclose(
        mixup_loss(F.cross_entropy)(pred, Mixed(own, partner, WEIGHT)), expected.mean()
    )


def test_any_loss_can_be_mixed_with_one_weight():
    "With one weight for the batch, two calls of a loss that only gives a scalar are enough; with one for each they are not."

    def loss(pred, target):
        return F.cross_entropy(pred, target) ** 2

    mixed = mixup_loss(loss)(PRED, Mixed(OWN, PARTNER, torch.tensor(0.75)))
    assert torch.allclose(mixed, 0.75 * loss(PRED, OWN) + 0.25 * loss(PRED, PARTNER))
    with pytest.raises(
        LossError,
        match=r"need a loss for each of the 4 samples, got shape \(\).*Mixup\(per='batch'\)",
    ):
        mixup_loss(loss)(PRED, Mixed(OWN, PARTNER, WEIGHT))


def test_mixing_twice_is_mixing_once(points):
    "A loss that was made with `mixup_loss` is taken as it is."
    loss = mixup_loss(F.cross_entropy)
    assert mixup_loss(loss) is loss
    usual, again = (
        fit(batches(points), Mixup(generator=torch.Generator()), loss=one)
        for one in (F.cross_entropy, loss)
    )
    assert bits(usual.model) == bits(again.model)


@pytest.mark.parametrize("alpha", [0, -1, float("inf"), True, "0.4"])
def test_alpha_is_checked(alpha):
    "Alpha is a number above 0."
    with pytest.raises(ConfigError, match="alpha must be a number above 0"):
        Mixup(alpha)


def test_what_cannot_be_mixed(points):
    "Whole numbers, things that are no tensors, and a run without a loss are refused with a remedy."
    X, y = points
    with pytest.raises(ConfigError, match="per must be one of 'sample', 'batch', got 'epoch'"):
        Mixup(per="epoch")
    with pytest.raises(DataError, match=r"got torch.int64; convert them"):
        fit([(X.long(), y)], Mixup())
    with pytest.raises(DataError, match="tuples, lists and dicts of them, got int"):
        fit([({"a": X, "b": 3}, y)], Mixup())
    with pytest.raises(ConfigError, match="needs a loss function"):
        fit([(X, y)], Mixup(), loss=None, compute=lambda ctx: None)


def l1(pred):
    return pred.abs().mean()


@pytest.mark.parametrize("per", ["sample", "batch"])
@pytest.mark.parametrize(
    "loss",
    [
        st.Loss(F.cross_entropy),
        st.Loss(F.cross_entropy, input="pred", target="target"),
        st.Loss(nn.CrossEntropyLoss()),
        st.Losses(label=F.cross_entropy),
    ],
    ids=["Loss", "keys", "module", "Losses"],
)
def test_losses_by_keys_are_mixed_as_plain_ones(points, loss, per):
    "A loss by keys gives the weights and the history of the function itself, to the last bit."
    plain, model = net(), net()
    torch.manual_seed(3)
    expected = fit(batches(points), Mixup(per=per), plain)
    torch.manual_seed(3)
    run = fit(batches(points), Mixup(per=per), model, loss=loss)
    assert bits(model) == bits(plain)
    assert run.history["train_loss"] == expected.history["train_loss"]


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_columns_of_several_losses_are_mixtures(points, per):
    "Each column is the mean of that loss's mixtures, and the total has the weights; a penalty is not mixed."
    model = net()
    losses = st.Losses(label=st.Loss(F.cross_entropy, weight=2.0), size=st.Loss(l1, pred="pred"))
    generator = torch.Generator().manual_seed(5)
    run = fit(
        [points],
        Mixup(1.0, per=per, generator=generator),
        model,
        loss=losses,
        opt_hparams={"lr": 0.0},
        epochs=1,
    )
    again = torch.Generator().manual_seed(5)
    shape = (22, 2) if per == "sample" else (2,)
    weight = torch._sample_dirichlet(torch.ones(shape), again)[..., 0]
    weight, order = torch.maximum(weight, 1 - weight), torch.randperm(22, generator=again)
    X, y = points
    pred = model(torch.lerp(X[order], X, weight.reshape(-1, 1) if per == "sample" else weight))
    own = F.cross_entropy(pred, y, reduction="none")
    label = torch.lerp(F.cross_entropy(pred, y[order], reduction="none"), own, weight).mean()
    row = run.history[-1]
    assert row["train_loss_label"] == pytest.approx(label.item(), rel=1e-5)
    assert row["train_loss_size"] == pytest.approx(l1(pred).item(), rel=1e-5)
    assert row["train_loss"] == pytest.approx(2 * label.item() + l1(pred).item(), rel=1e-5)


def test_losses_that_cannot_be_mixed_are_refused_before_training(points):
    "A loss of the batch itself has no partner, and a masked one no loss of each sample."
    with pytest.raises(ConfigError, match=r"reads 'batch\[1\]', and only ctx.target has a partner"):
        fit([points], Mixup(), loss=st.Loss(F.cross_entropy, input="pred", target="batch[1]"))
    masked = st.Loss(F.cross_entropy, mask="target")
    with pytest.raises(ConfigError, match="use Mixup\\(per='batch'\\)"):
        fit([points], Mixup(), loss=masked)


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_a_batch_is_mixed_in_a_loop_of_your_own(per, points):
    "The function gives what the callback would: the same weights, partners and loss; a generator moves alone."
    x, y = (column[:8] for column in points)
    torch.manual_seed(3)
    weight, order = drawn(8, 0.4, per)
    torch.manual_seed(3)
    mixed, target = st.mixup(x, y, 0.4, per=per)
    share = weight[:, None] if per == "sample" else weight
    assert torch.equal(mixed, torch.lerp(x[order], x, share))
    assert torch.equal(target.partner, y[order])
    model = net()
    own = F.cross_entropy(model(mixed), y, reduction="none")
    partner = F.cross_entropy(model(mixed), y[order], reduction="none")
    expected = (weight * own + (1 - weight) * partner).mean()
    assert torch.allclose(mixup_loss(F.cross_entropy)(model(mixed), target), expected)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(1)
    first = st.mixup({"x": x}, y, per=per, generator=generator)
    again = st.mixup({"x": x}, y, per=per, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first[0]["x"], again[0]["x"])
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_mixed_is_refused():
    "Whole numbers, no tensors, and arguments out of range."
    with pytest.raises(DataError, match="floating-point"):
        st.mixup(torch.ones(2, dtype=torch.int64), torch.ones(2))
    with pytest.raises(DataError, match="takes tensors, got str"):
        st.mixup("text", torch.ones(2))
    with pytest.raises(ConfigError, match="mixup: alpha"):
        st.mixup(torch.ones(2), torch.ones(2), 0)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("valid", [False, True])
def test_an_evaluation_with_a_loss_of_its_own(valid, first, points):
    "Training is what it is without, also where the evaluation comes first; its loss is plain, or mixed if asked to."
    losses = []

    def own(pred, target, reduction="mean"):
        losses.append(reduction)
        return 2 * F.cross_entropy(pred, target, reduction=reduction)

    test = st.Evaluation("test", batches(points), loss=own)
    edits = [st.validate_first] * first
    run = fit(batches(points), Mixup(valid=valid), evaluations=test, edits=edits, seed=0)
    plain = fit(batches(points), Mixup(valid=valid), seed=0)
    assert bits(run.model) == bits(plain.model)
    assert run.history["train_loss"] == plain.history["train_loss"]
    assert set(losses) == ({"none"} if valid else {"mean"})
    assert run.ctx.loss_fn is F.cross_entropy
    if not valid:
        x, y = points
        assert run.history[-1]["test_loss"] == pytest.approx(
            2 * F.cross_entropy(run.model(x), y).item(), rel=1e-5
        )
