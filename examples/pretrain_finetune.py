"""Two phases in one lifecycle: an encoder learns from pictures alone, then, with few labels, to tell what they are.

    python examples/pretrain_finetune.py

Labels are rare: of a thousand digits, forty have one. First the encoder learns to complete pictures
of which a part is missing, which takes no label. Then a head is put on it, and both learn from the
labels. Each phase is a lifecycle of its own; `then` joins them into one table, which is printed,
drawn, saved and continued like any other.

With thirty epochs of each, four out of five digits are told right; without the first phase, three
out of four.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import statetrain as st
from statetrain.standard import actions

LABELLED = 40
NO_LABEL = -100  # what cross_entropy leaves out


class Net(nn.Module):
    """Pictures of shape (batch, 64) to logits of shape (batch, 10)."""

    def __init__(self, hidden: int = 256, code: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, code), nn.ReLU()
        )
        self.decoder = nn.Linear(code, 64)  # for the first phase
        self.head = nn.Linear(code, 10)  # for the second

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(pictures))
        return logits


# ---------------------------------------------------------------- the phases


def complete(ctx: Any) -> Tensor:
    "complete pictures of which half is missing"
    seen = torch.rand_like(ctx.input) < 0.5
    loss = mse_loss(ctx.model.decoder(ctx.model.encoder(ctx.input * seen)), ctx.input)
    loss.backward()
    return loss


def lifecycle(epochs: int) -> st.Lifecycle:
    # The first phase has no labels and so no validation; its epochs are bounded by an arrow of its
    # own.
    pretrain = st.supervised(compute=complete, validate=None).prefixed("pretrain_")
    more = pretrain.between("pretrain_next_epoch", "pretrain_epoch")[0]
    pretrain = pretrain.alter(more, guard=~st.MinEpochs(epochs))
    # The second is the standard one. A batch without any label has no loss, and is skipped.
    finetune = st.supervised(non_finite="skip")
    # Between them, the next optimizer takes over: its name is the phase's, and so are the columns
    # of the history.
    return pretrain.then(finetune, effect=actions.select_next).named("pretrain, then fine-tune")


def fit(life: st.Lifecycle, epochs: int) -> st.Run:
    torch.manual_seed(0)
    pictures, labels = load_digits(return_X_y=True)
    pictures = pictures.astype("float32") / 16
    train, test, train_labels, test_labels = train_test_split(
        pictures, labels, test_size=0.4, stratify=labels, random_state=0
    )
    train_labels[LABELLED:] = NO_LABEL

    model = Net()
    return st.fit(
        model,
        (train, train_labels),
        valid=(test, test_labels),
        loss=cross_entropy,
        optimizer={
            "pretrain": torch.optim.Adam(
                [*model.encoder.parameters(), *model.decoder.parameters()], lr=2e-3
            ),
            "finetune": torch.optim.Adam(
                [*model.encoder.parameters(), *model.head.parameters()], lr=2e-3
            ),
        },
        valid_metrics={
            "accuracy": lambda pred, target: (pred.argmax(dim=1) == target).float().mean()
        },
        dataloader_options={"batch_size": 128},
        epochs=epochs,
        lifecycle=life,
        seed=0,
    )


def main(epochs: int = 30, out: str | Path = "runs/pretrain_finetune") -> tuple[st.Run, float]:
    Path(out).mkdir(parents=True, exist_ok=True)
    life = lifecycle(epochs)
    print(life, "\n")
    run = fit(life, 2 * epochs)  # the second phase takes what the first has left
    run.lifecycle.draw(f"{out}/lifecycle.svg")
    score = run.history["valid_accuracy"][-1]
    print(run.history)
    print(f"accuracy with {LABELLED} labels: {score:.1%}")
    print(f"the two phases: {out}/lifecycle.svg")
    return run, score


if __name__ == "__main__":
    main()
