"""What a user writes, for type checkers: `# error` stands where they have to complain, and nowhere else may they."""

from typing import assert_type

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import statetrain as st


class Mine(st.Callback):
    """Fields are known with their types; what does not exist, and what has another type, is an error."""

    reads = frozenset({"loss_value"})

    def on_enter_step(self, ctx: st.Context) -> None:
        assert_type(ctx.epoch, int)
        assert_type(ctx.step, int)
        assert_type(ctx.history, st.History)
        assert_type(ctx.model, nn.Module)
        print(ctx.epohc)  # error
        ctx.epoch = "one"  # error
        ctx.request_stop(3)  # error


@st.guard(reads={"epoch", "history"})
def enough(ctx: st.Context) -> bool:
    """it is enough"""
    return ctx.epoch > 3 and ctx.history[-1]["train_loss"] < 0.1


@st.on("exit_epoch")
def tell(ctx: st.Context) -> None:
    print(ctx.epoch)


def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.argmax(1) == target).float().mean()


data = torch.randn(8, 4), torch.randint(0, 3, (8,))
run = st.fit(
    nn.Linear(4, 3),
    data,
    valid=0.25,
    loss=F.cross_entropy,
    optimizer=torch.optim.Adam,
    opt_hparams={"lr": 1e-2},
    metrics=accuracy,
    epochs=3,
    stop=enough | st.EarlyStopping("valid_loss", patience=3),
    non_finite="skip",
    callbacks=[Mine(), tell, st.Progress()],
)
assert_type(run, st.Run)
assert_type(run.lifecycle, st.Lifecycle)
run.ctx.request_stop("enough")
if isinstance(run.outcome, st.Stopped):
    assert_type(run.outcome.reason, str)

st.fit(nn.Linear(4, 3), data, epoch=3)  # error
st.fit(nn.Linear(4, 3), data, non_finite="skipp")  # error
st.EarlyStopping("valid_loss", patience="three")  # error
print(run.historie)  # error
print(st.Eraly)  # error

life = st.supervised(accumulate=2).insert(st.State("mine"), between=("loss", "backward"))
assert_type(life, st.Lifecycle)
st.supervised(acumulate=2)  # error
st.Transition("loss", "step", guard=3)  # error
