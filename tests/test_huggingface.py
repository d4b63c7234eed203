"""Hugging Face's accelerator in the place of ours, for real."""

import pytest
import torch
import torch.nn.functional as F

import statetrain as st

accelerate = pytest.importorskip("accelerate", reason="the extra `accelerate` is not installed")


@pytest.fixture
def fresh():
    """accelerate keeps its state for the process; each test starts with none."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def data():
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(4, 3, generator=generator), torch.randn(4, 1, generator=generator))
        for _ in range(6)
    ]


def model():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))


OPTIONS = {
    "loss": F.mse_loss,
    "optimizer": torch.optim.Adam,
    "opt_hparams": {"lr": 0.01},
    "epochs": 2,
}


def test_it_trains_to_the_same_bits(fresh):
    """On the CPU the run with accelerate's accelerator ends with the weights of the run with ours."""
    ours, theirs = model(), model()
    st.fit(ours, data(), **OPTIONS)
    run = st.fit(
        theirs, data(), valid=data()[:2], accelerator=accelerate.Accelerator(cpu=True), **OPTIONS
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    )
    assert run.model is theirs
    assert set(run.evaluate(data())) == {"loss"}


def test_its_mixed_precision_is_used(fresh):
    """With accelerate's bf16, the model runs in bfloat16 inside the run."""
    seen = []

    class Watch(st.Callback):
        def on_exit_pred(self, ctx):
            seen.append(ctx.pred.dtype)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model()
            self.seen = []

        def forward(self, x):
            out = self.inner(x)
            self.seen.append(out.dtype)
            return out

    net = Net()
    st.fit(
        net,
        data(),
        accelerator=accelerate.Accelerator(cpu=True, mixed_precision="bf16"),
        callbacks=[Watch()],
        **OPTIONS,
    )
    assert set(net.seen) == {torch.bfloat16}
    assert set(seen) == {torch.float32}


def test_what_cannot_work_is_refused(fresh):
    """Something else as accelerator, a device beside it, or its own accumulation are errors before training."""
    with pytest.raises(
        st.ConfigError,
        match=r"accelerator must be a statetrain.Accelerator or an accelerate.Accelerator, got 3",
    ):
        st.fit(model(), data(), accelerator=3, **OPTIONS)
    with pytest.raises(st.ConfigError, match="the accelerator has its own"):
        st.fit(model(), data(), accelerator=st.Accelerator("cpu"), device="cpu", **OPTIONS)
    with pytest.raises(st.ConfigError, match="accumulates gradients by itself"):
        st.fit(
            model(),
            data(),
            accelerator=accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2),
            **OPTIONS,
        )


def test_our_own_can_be_passed_too():
    """An `Accelerator` of ours is used as it is."""
    accelerator = st.Accelerator("cpu")
    run = st.fit(model(), data(), accelerator=accelerator, **OPTIONS)
    assert run.ctx.accelerator is accelerator
