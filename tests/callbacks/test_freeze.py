"""Freeze: fine-tuning in stages, as loops by hand; decay_groups: which weights decay."""

from __future__ import annotations

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.testing.resuming import assert_resumable


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.0))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.body(x))


def data():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 4, generator=generator), torch.arange(8) % 3) for _ in range(3)]


def fit(*callbacks, model=None, **options):
    given = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.AdamW,
        "opt_hparams": {"lr": 0.05, "weight_decay": 0.1},
        "epochs": 3,
        "callbacks": list(callbacks),
        "verbose": False,
    }
    return st.fit(model or Net(), data(), **{**given, **options})


def by_hand(frozen_epochs, epochs=3):
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    for epoch in range(1, epochs + 1):
        model.train()
        frozen = epoch <= frozen_epochs
        model.body.train(not frozen)
        model.body.requires_grad_(not frozen)
        for x, y in data():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


@pytest.mark.parametrize("until", [1, 2, None])
def test_stages_are_those_of_a_loop_by_hand(until):
    "Weights, decay and statistics of a frozen part stay, and it is trained afterwards, bit for bit."
    run = fit(st.Freeze("body", until=until), valid=data())
    assert bits(run.model) == bits(by_hand(3 if until is None else until))
    assert all(p.requires_grad for p in run.model.parameters())
    if until is None:
        assert bits(run.model.body) == bits(Net().body)


def test_a_parameter_can_be_frozen_alone_and_what_was_frozen_stays_so():
    "By its name; a parameter that the user froze is not thawed."
    model = Net()
    model.head.bias.requires_grad_(False)
    before = {name: p.clone() for name, p in model.named_parameters()}
    fit(st.Freeze("body.0.weight", "head", until=1), model=model, epochs=1)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"body.0.bias", "body.1.weight", "body.1.bias"}
    assert not model.head.bias.requires_grad
    assert model.head.weight.requires_grad


def test_stages_are_resumed_exactly():
    "Cut at any anchor, in a frozen epoch or after it."
    assert_resumable(lambda: fit(st.Freeze("body", until=1), seed=1, start=False), anchors=6)


def test_what_cannot_be_frozen_is_refused():
    "A part that the model has not, before the first batch; no name; no number of epochs."
    with pytest.raises(st.ConfigError, match="the model has no part 'bodi'; did you mean 'body'"):
        fit(st.Freeze("bodi"))
    with pytest.raises(st.ConfigError, match="takes names of modules"):
        st.Freeze()
    with pytest.raises(st.ConfigError, match="at least 1, got 0"):
        st.Freeze("body", until=0)


def test_matrices_decay_and_biases_do_not():
    "Each parameter is in one group, once, though two modules share it; frozen ones are in none."
    model = Net()
    decays, others = st.decay_groups([model, model.head], 0.3)
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in decays["params"]] == ["body.0.weight", "head.weight"]
    assert [names[id(p)] for p in others["params"]] == [
        "body.0.bias",
        "body.1.weight",
        "body.1.bias",
        "head.bias",
    ]
    assert (decays["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    fit(
        optimizer=torch.optim.AdamW(st.decay_groups(model, 0.3), lr=0.1),
        model=model,
        opt_hparams=None,
    )
    model.body.requires_grad_(False)
    assert len(st.decay_groups(model, 0.1)[0]["params"]) == 1
    with pytest.raises(st.ConfigError, match="must be a number of at least 0"):
        st.decay_groups(model, -1.0)


def layered(epochs=3, frozen_epochs=1, gamma=0.5):
    """By hand: the body frozen for some epochs, then trained at a tenth of the rate; both decay."""
    model = Net()
    optimizer = torch.optim.AdamW(
        [{"params": model.head.parameters()}, {"params": model.body.parameters(), "lr": 0.005}],
        lr=0.05,
        weight_decay=0.1,
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)
    for epoch in range(1, epochs + 1):
        frozen = epoch <= frozen_epochs
        model.train()
        model.body.train(not frozen)
        model.body.requires_grad_(not frozen)
        for x, y in data():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        schedule.step()
    return model


def halved():
    return st.LRScheduler(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)


@pytest.mark.parametrize("until", [0, 1, 2])
def test_parts_have_a_rate_of_their_own(until):
    "As two groups by hand, with a schedule that halves both, bit for bit; the order of callbacks is no matter."
    expected = bits(layered(frozen_epochs=until))
    for order in (1, -1):
        callbacks = [st.Freeze("body", until=until, lr=0.005), halved()][::order]
        run = fit(*callbacks)
        assert bits(run.model) == expected
    assert [group["lr"] for group in run.ctx.opt.param_groups] == [0.05 / 8, 0.005 / 8]


def test_rates_by_layer():
    "Each part is a group, of parameters with names, too; an optimizer that is given again is not split again."
    model = Net()
    optimizer = torch.optim.SGD(list(model.named_parameters()), lr=0.1)
    parts = [st.Freeze("body.0", until=0, lr=0.01), st.Freeze("body.1.weight", until=0, lr=0.02)]
    for _ in range(2):
        fit(*parts, model=model, optimizer=optimizer, opt_hparams=None, epochs=1)
        found = [(group["lr"], group["param_names"]) for group in optimizer.param_groups]
        assert found == [
            (0.1, ["body.1.bias", "head.weight", "head.bias"]),
            (0.01, ["body.0.weight", "body.0.bias"]),
            (0.02, ["body.1.weight"]),
        ]


def test_rates_by_layer_are_resumed_exactly():
    "Cut in both stages."
    assert_resumable(
        lambda: fit(st.Freeze("body", until=1, lr=0.005), halved(), seed=0, start=False)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": 0.1}, "would not be used, since the parts are never trained"),
        ({"until": 1, "lr": -0.1}, "lr must be a number of at least 0"),
        ({"until": 0}, "until must be a whole number"),
    ],
)
def test_rates_that_are_none_are_refused(given, message):
    "Before anything runs."
    with pytest.raises(st.ConfigError, match=message):
        st.Freeze("body", **given)


def test_a_rate_of_what_no_optimizer_has_is_refused():
    "Its parameters would never get it."
    model = Net()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    with pytest.raises(st.ConfigError, match="no optimizer has parameters of these parts"):
        fit(st.Freeze("body", until=1, lr=0.1), model=model, optimizer=optimizer, opt_hparams=None)


def finetuned(epochs=4):
    """By hand: the head for two epochs, then all by layer; batch norm never leaves eval mode."""
    model = Net()
    first, head = model.body[0], model.head
    matrices, others = {"weight_decay": 0.1}, {"weight_decay": 0.0}
    optimizer = torch.optim.AdamW(
        [
            {"params": [head.weight], "lr": 0.05, **matrices},
            {"params": [*model.body[1].parameters(), head.bias], "lr": 0.05, **others},
            {"params": [first.weight], "lr": 0.005, **matrices},
            {"params": [first.bias], "lr": 0.005, **others},
        ]
    )
    for epoch in range(1, epochs + 1):
        model.train()
        model.body[1].eval()
        first.requires_grad_(epoch > 2)
        for x, y in data():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


def finetune(**options):
    model = Net()
    model.body[1].eval()
    return fit(
        st.Freeze("body.0", until=2, lr=0.005),
        model=model,
        optimizer=torch.optim.AdamW(st.decay_groups(model, 0.1), lr=0.05),
        opt_hparams=None,
        epochs=4,
        valid=data(),
        **options,
    )


def test_a_head_first_and_then_all_by_layer_is_the_loop_by_hand():
    "Rates by layer, decay of matrices alone, norms in eval mode throughout: bit for bit."
    run = finetune()
    assert bits(run.model) == bits(finetuned())
    assert not run.model.body[1].training
    assert run.model.body[1].num_batches_tracked == 0


def test_a_head_first_and_then_all_by_layer_is_resumed_exactly():
    "Cut before and after the body is trained."
    assert_resumable(lambda: finetune(seed=1, start=False), anchors=6)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda: st.Schedule("opt.lr", st.schedules.cosine(0.1)),
        lambda: st.LRScheduler(torch.optim.lr_scheduler.OneCycleLR, per="step", max_lr=0.1),
        lambda: st.LRScheduler(
            torch.optim.lr_scheduler.CyclicLR, base_lr=0.1, max_lr=0.2, cycle_momentum=False
        ),
    ],
)
def test_a_schedule_that_would_level_rates_by_layer_is_refused(schedule):
    "In either order of the callbacks; one for each group is taken."
    for order in (1, -1):
        with pytest.raises(st.ConfigError, match="would give all groups of parameters one"):
            fit(*[st.Freeze("body", until=1, lr=0.005), schedule()][::order])


def test_decays_of_their_own_are_not_levelled():
    "A schedule of one group's weight decay leaves the biases without; one of all is refused."
    for target in ("opt.weight_decay", "opt[0].weight_decay"):
        model = Net()
        given = {
            "model": model,
            "optimizer": torch.optim.AdamW(st.decay_groups(model, 0.1), lr=0.05),
            "opt_hparams": None,
        }
        decay = st.Schedule(target, {0: 0.2}, per="epoch")
        if target == "opt.weight_decay":
            with pytest.raises(st.ConfigError, match=r"theirs differ: 0.1, 0.0; schedule each"):
                fit(decay, **given)
        else:
            run = fit(decay, **given)
            assert [group["weight_decay"] for group in run.ctx.opt.param_groups] == [0.2, 0.0]


def test_one_cycle_takes_a_rate_for_each_group():
    "As torch's does."
    rates = [0.1, 0.01]
    run = fit(
        st.Freeze("body", until=1, lr=0.005),
        st.LRScheduler(torch.optim.lr_scheduler.OneCycleLR, per="step", max_lr=rates),
    )
    groups = run.ctx.opt.param_groups
    assert [group["max_lr"] for group in groups] == rates
    assert groups[0]["lr"] == pytest.approx(10 * groups[1]["lr"])
