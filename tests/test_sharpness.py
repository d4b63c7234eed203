"""sharpness_aware: the loop by hand, bit for bit, and the weights put back on every path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.testing.resuming import assert_resumable

RADIUS = 0.05


class Net(nn.Module):
    """Has a norm, and fails or gives NaN in a chosen call of its training."""

    def __init__(self, bad: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.head = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.bad, self.calls = bad, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        if self.training and self.calls == self.bad:
            x = x * float("nan")
        return self.head(self.norm(self.body(x)))


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Three batches of eight."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 4, generator=generator), torch.arange(8) % 3) for _ in range(3)]


def fit(model: nn.Module | None = None, **options: Any) -> st.Run:
    """A run with the edit."""
    given = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
        "epochs": 2,
        "verbose": False,
        "edits": st.sharpness_aware(RADIUS),
    }
    return st.fit(model or Net(), data(), **{**given, **options})


def by_hand(skipped: int | None = None) -> tuple[Net, list[float]]:
    """The loop: gradients, uphill, gradients, back, step; and the mean loss of each epoch."""
    model, means = Net(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for epoch in range(2):
        losses = []
        for i, (x, y) in enumerate(data()):
            model.train()
            before = [b.clone() for b in model.buffers()]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            losses.append(loss.item())
            gradients = [p.grad for p in model.parameters()]
            scale = RADIUS / (
                torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])) + 1e-12
            )
            kept = [t.detach().clone() for t in (*model.parameters(), *model.buffers())]
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    p.add_(g * scale)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            with torch.no_grad():
                for t, value in zip((*model.parameters(), *model.buffers()), kept, strict=True):
                    t.copy_(value)
                if 3 * epoch + i == skipped:
                    for buffer, value in zip(model.buffers(), before, strict=True):
                        buffer.copy_(value)
                    continue
            optimizer.step()
        means.append(sum(losses) / len(losses))
    return model, means


def test_it_is_the_loop_by_hand() -> None:
    """Weights and batch norm's statistics bit for bit; the rows have the loss of the first pass."""
    run = fit(valid=data(), debug=True)
    model, means = by_hand()
    assert bits(run.model) == bits(model)
    assert run.history["train_loss"] == pytest.approx(means)
    assert run.model.norm.num_batches_tracked == 6
    assert run.model.calls == 12


def test_hooks_hear_each_pass_under_its_own_name() -> None:
    """What listens to `pred` is called once a batch, as without the edit; the second pass has names of its own."""
    heard: list[str] = []
    listening = [
        st.on(f"enter_{name}")(lambda ctx: heard.append(ctx.state))
        for name in ("pred", "uphill_pred", "step")
    ]
    fit(epochs=1, callbacks=listening)
    assert heard == ["pred", "uphill_pred", "step"] * 3


def test_a_loss_uphill_that_is_not_finite_leaves_no_trace() -> None:
    """The batch is skipped: weights, statistics and momentum are those of a run without its step."""
    run = fit(Net(bad=4), non_finite="skip")
    assert bits(run.model) == bits(by_hand(skipped=1)[0])
    assert run.ctx.step == 5


def test_a_failure_uphill_puts_the_weights_back() -> None:
    """A user's error in the second pass of the first batch leaves the weights that the model came with."""

    def fail(ctx: st.Context) -> None:
        raise OSError("no more")

    model = Net()
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(OSError, match="no more"):
        fit(model, callbacks=st.on("exit_uphill_pred")(fail))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_stepped_run_shows_the_weights_where_they_belong() -> None:
    """In a pause within the scope the model has its own weights; the run ends as if there had been none."""
    run = fit(start=False)
    before = {name: p.clone() for name, p in run.model.named_parameters()}
    steps = run.steps()
    steps.until("uphill_loss")
    assert all(torch.equal(p, before[name]) for name, p in run.model.named_parameters())
    steps.finish()
    assert bits(run.model) == bits(by_hand()[0])


def test_it_is_resumed_exactly() -> None:
    """Cut at any anchor."""
    assert_resumable(lambda: fit(seed=1, start=False), anchors=4)


def test_both_passes_are_in_mixed_precision() -> None:
    """As the table says."""
    life = st.supervised(precision="bf16", edits=st.sharpness_aware())
    labels = [
        life.state(name).action.label for name in ("pred", "uphill_pred", "loss", "uphill_loss")
    ]
    assert all(label.endswith("in bfloat16") for label in labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: st.sharpness_aware(0), "radius must be a number above 0"),
        (lambda: st.supervised(accumulate=2, edits=st.sharpness_aware()), "leave accumulate="),
        (lambda: st.sharpness_aware()(st.supervised(precision="fp16")), "in place of 'fp16'"),
        (lambda: st.sharpness_aware()(st.halving(st.supervised())), "halving out"),
        (lambda: st.supervised(compute=len, edits=st.sharpness_aware()), "no state with the role"),
    ],
)
def test_what_it_does_not_go_with_is_refused(make: Any, message: str) -> None:
    """When the table is made."""
    with pytest.raises(st.ConfigError, match=message):
        make()


# ---------------------------------------------------------------- optimizers that do it themselves


class SAM(torch.optim.Optimizer):
    """As it is often written: the step climbs by the gradients that are there, then asks the closure."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.base = torch.optim.SGD(self.param_groups, lr=lr)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is not None, "SAM requires closure, but it was not provided"
        weights = [p for group in self.param_groups for p in group["params"]]
        kept = [p.clone() for p in weights]
        norm = torch.stack([p.grad.norm() for p in weights]).norm()
        for p in weights:
            p.add_(p.grad * (RADIUS / (norm + 1e-12)))
        self.zero_grad()
        torch.enable_grad()(closure)()
        for p, value in zip(weights, kept, strict=True):
            p.copy_(value)
        self.base.step()


def test_an_optimizer_that_climbs_before_it_asks_is_given_the_gradients_there() -> None:
    """With closure=True: the loss that the step had been given belongs to other weights, and is computed again."""
    torch.manual_seed(0)
    plain, by_edit = nn.Linear(4, 3), nn.Linear(4, 3)
    by_edit.load_state_dict(plain.state_dict())
    own = {"edits": (), "optimizer": SAM, "opt_hparams": {"lr": 0.1}, "closure": True}
    fit(plain, **own)
    fit(by_edit, opt_hparams={"lr": 0.1})
    assert bits(plain) == bits(by_edit)


def test_an_optimizer_that_needs_a_closure_says_so() -> None:
    """Its own error passes, with what to write."""
    with pytest.raises(AssertionError, match="requires closure") as caught:
        fit(nn.Linear(4, 3), edits=(), optimizer=SAM, opt_hparams={"lr": 0.1})
    assert "fit(closure=True)" in "".join(caught.value.__notes__)
