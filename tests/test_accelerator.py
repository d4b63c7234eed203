"""What an accelerator does in a training step is what torch's own functions do."""

from __future__ import annotations

import pytest
import torch

import statetrain as st


class Noisy(torch.optim.SGD):
    """An optimizer with a `zero_grad` of its own."""

    calls = 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.calls += 1
        super().zero_grad(set_to_none)


def with_gradients(kind):
    """An optimizer of two groups, whose parameters have gradients; and a parameter that it does not have."""
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(4)]
    torch.stack(list(parameters)).sum().backward()
    return (
        kind([{"params": parameters[:2]}, {"params": [parameters[2]], "lr": 0.5}], lr=0.1),
        parameters,
    )


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, Noisy])
def test_clearing_is_zero_grad(kind):
    "The gradients of all groups are gone, and those of parameters that are another's stay."
    optimizer, parameters = with_gradients(kind)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    st.Accelerator("cpu").clear(optimizer)
    assert [parameter.grad is None for parameter in parameters] == [True, True, True, False]


def test_a_zero_grad_of_ones_own_is_called(points, net):
    "An optimizer that overrides `zero_grad` has it called once for each batch."
    run = st.fit(
        net,
        points,
        loss=torch.nn.functional.cross_entropy,
        optimizer=Noisy,
        opt_hparams={"lr": 0.1},
        epochs=1,
    )
    assert run.ctx.opt.calls == run.ctx.step > 0


def test_a_zero_grad_that_was_put_in_its_place_is_called():
    "So has an optimizer whose `zero_grad` somebody has replaced, to look at it or for a scaler's sake."
    optimizer, parameters = with_gradients(torch.optim.SGD)
    called = []
    optimizer.zero_grad = lambda: called.append(True)
    st.Accelerator("cpu").clear(optimizer)
    assert called == [True]
    assert parameters[0].grad is not None
