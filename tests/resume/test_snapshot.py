"""What a snapshot holds, and how it is put back."""

from typing import Any

import attrs
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain import jsons
from statetrain.checkpoints import optimizers, plain, restoring, settings, snapshot
from statetrain.context.context import Context
from statetrain.context.fields import Fact, fields_with
from statetrain.errors import CheckpointError


def test_every_field_of_the_context_says_how_it_is_saved() -> None:
    """A field is saved as it is, saved in a form of its own, or made anew: exactly one of these."""
    kinds = (Fact.SAVED, Fact.SAVED_APART, Fact.ANEW)
    named = [name for kind in kinds for name in fields_with(Context, kind)]
    assert sorted(named) == sorted(field.name for field in attrs.fields(Context))


def points() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3


def run(*callbacks: st.Callback, **options: Any) -> st.Run:
    given: dict[str, Any] = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.Adam,
        "epochs": 1,
        "verbose": False,
        "dataloader_options": {"batch_size": 4},
    }
    return st.fit(
        nn.Linear(4, 3), points(), callbacks=list(callbacks), start=False, **{**given, **options}
    )


def taken(of: st.Run, place: str = "next_batch", nth: int = 2) -> dict[str, Any]:
    """A snapshot of a run at the n-th time that it is in a state, written down and read again."""
    steps = of.steps()
    for _ in range(nth):
        steps.until(place)
    structure, tensors = plain.encode(snapshot.snapshot(of.ctx, of.machine))
    text = jsons.to_bytes(structure)
    found = plain.decode(
        jsons.loads(text), {name: tensor.clone() for name, tensor in tensors.items()}
    )
    steps.close()
    assert isinstance(found, dict)
    return found


def test_a_snapshot_is_plain_data_with_the_places_of_its_tensors() -> None:
    """A person finds what there is."""
    data = taken(run())
    assert data["state"] == "next_batch"
    assert data["fields"]["step"] == 1
    assert set(data["model"]["weights"]) == {"weight", "bias"}
    assert set(data["optimizers"]["opt"]["state"]) == {0, 1}
    assert data["lifecycle"]["fingerprint"] == st.supervised(validate=None).fingerprint
    assert {"torch", "numpy", "random"} <= set(data["random"])


def test_a_lifecycle_without_a_stable_name_is_compared_in_words() -> None:
    """A function that is written in place has no name; saving works all the same, and another table is noticed."""

    def compute(ctx: Any) -> Any:
        ctx.loss_grad = F.cross_entropy(ctx.model(ctx.input), ctx.target)
        ctx.loss_grad.backward()
        return ctx.loss_grad

    data = taken(run(compute=compute))
    assert data["lifecycle"]["fingerprint"] == ""
    again = run(compute=compute)
    restoring.restore(again.ctx, again.machine, data)
    other = run(compute=compute, check_gradients=True)
    with pytest.raises(
        CheckpointError,
        match="lifecycle: state grad_norm within batch: compute the norm of the gradients added",
    ):
        restoring.restore(other.ctx, other.machine, taken(run(compute=compute)))


def test_a_parameter_of_the_table_that_shows_in_no_word_is_noticed_too() -> None:
    """By the fingerprint."""
    stop = st.EarlyStopping("train_loss", patience=3)
    data = taken(run(stop=stop))
    other = run(stop=attrs.evolve(stop, min_delta=0.5))
    with pytest.raises(
        CheckpointError, match=r"EarlyStopping\(min_delta\) was 0.0, is 0.5 \(in next_epoch -> end"
    ):
        restoring.restore(other.ctx, other.machine, data)


def test_a_state_that_is_no_anchor_any_more_cannot_be_continued_at() -> None:
    """Though the change is allowed; the anchors are named."""
    data = taken(run())
    life = st.supervised(validate=None).replace("next_batch", anchor=False)
    other = run(lifecycle=life)
    with pytest.raises(
        CheckpointError,
        match=(
            "saved in 'next_batch', which is not an anchor of lifecycle 'supervised'; its anchors are"
            " next_epoch"
        ),
    ):
        restoring.restore(other.ctx, other.machine, data, allow=True)


def test_optimizer_states_keep_their_types_and_layouts() -> None:
    """Where torch would cast them to the parameter's: a momentum in float32 of a weight in bfloat16; and strides."""
    parameter = nn.Parameter(
        torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last).bfloat16()
    )
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    optimizer.state[parameter]["momentum_buffer"] = torch.rand(2, 3, 4, 4).to(
        memory_format=torch.channels_last
    )
    saved = optimizer.state_dict()
    fresh = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    optimizers.restore_optimizer(
        fresh,
        {
            **saved,
            "state": {0: {"momentum_buffer": saved["state"][0]["momentum_buffer"].contiguous()}},
        },
        None,
        None,
    )
    buffer = fresh.state[parameter]["momentum_buffer"]
    assert buffer.dtype is torch.float32
    assert torch.equal(buffer, saved["state"][0]["momentum_buffer"])
    assert buffer.stride() == parameter.stride()


def test_what_the_new_objects_had_is_gone() -> None:
    """Gradients, sums and states of an earlier use do not shine through."""
    data = taken(run(), nth=1)  # before the first batch
    again = run()
    again.walk()
    again.ctx.model.weight.grad = torch.ones(3, 4)
    fresh = st.Run(again.ctx, again.machine)
    restoring.restore(fresh.ctx, fresh.machine, data)
    assert again.ctx.model.weight.grad is None
    assert not again.ctx.opt.state
    assert (
        again.ctx.step,
        len(again.ctx.history),
        again.ctx.tallies["train"].losses["opt"].count,
    ) == (0, 0, 0)


@pytest.mark.parametrize("name", ["buffers", "logged"])
def test_what_callbacks_leave_in_the_context_is_saved(name: str) -> None:
    """Under its path; what is no data is refused with it."""

    class Leaves(st.Callback):
        def __init__(self, value: Any) -> None:
            self.value = value

        def on_enter_step(self, ctx: Any) -> None:
            getattr(ctx, name)["mine"] = self.value

    assert taken(run(Leaves([1, torch.ones(2)])))["fields"][name]["mine"][0] == 1
    with pytest.raises(
        CheckpointError, match=rf"'fields.{name}.mine' is a builtins.object, which cannot be saved"
    ):
        taken(run(Leaves(object())))


def test_hyperparameters_that_are_no_data_are_kept_in_words() -> None:
    """They are compared, and shown; they need not be read back."""
    kept = settings.lenient({"width": 3, "act": nn.ReLU, "rates": [0.1, float("nan")]})
    assert kept["width"] == 3
    assert "ReLU" in kept["act"]["words"]


def test_a_run_that_was_saved_while_another_was_loading_is_refused_midway() -> None:
    """Data that is shorter than it was says so, when its position is looked for."""
    data = taken(run(train_metrics=None), nth=3)
    data["data"] = {}
    short = st.fit(
        nn.Linear(4, 3),
        [(points()[0][:4], points()[1][:4])],
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam,
        epochs=1,
        start=False,
        verbose=False,
    )
    restoring.restore(short.ctx, short.machine, data, allow=True)
    short.at = data["state"]
    with pytest.raises(
        st.DataError,
        match=(
            "the training data ended after 1 batches, but 2 had been drawn when the run was saved"
        ),
    ):
        short.walk()
