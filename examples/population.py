"""Population based training: several models, of which the worst learn from the best.

    python examples/population.py

Six models learn to read digits, each with a learning rate of its own. Every second generation, the
worst one takes over the weights and the optimizer of the best one, and tries another rate. Each
member is a value with a model and an optimizer; the context has a list of them, and a checkpoint
has them all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from attrs import Factory, define
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import statetrain as st

RATES = (1e-5, 1e-4, 1e-3, 3e-3, 1e-1, 1.0)
BATCH, STEPS = 64, 10  # steps of each member in a generation


@define(eq=False)
class Member:
    """A model, what trains it, and how well it does."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    accuracy: float = 0.0

    @property
    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])


@define(eq=False)
class Population(st.Position):
    """What the run knows."""

    members: list[Member]
    data: tuple[Tensor, Tensor] = st.not_saved()
    test: tuple[Tensor, Tensor] = st.not_saved()
    generations: int = st.not_saved(12)
    epoch: int = 0  # generations made
    step: int = 0  # steps of all members
    turn: int = 0  # whose it is
    chance: torch.Generator = Factory(lambda: torch.Generator().manual_seed(0))

    @property
    def ranked(self) -> list[Member]:
        """The best first."""
        return sorted(self.members, key=lambda member: -member.accuracy)


# ---------------------------------------------------------------- what is done in the states


def begin_generation(ctx: Population) -> None:
    "count the generation"
    ctx.epoch += 1
    ctx.turn = 0


def train_member(ctx: Population) -> None:
    "train the member whose turn it is"
    member = ctx.members[ctx.turn]
    images, labels = ctx.data
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,), generator=ctx.chance)
        loss = cross_entropy(member.model(images[chosen]), labels[chosen])
        member.optimizer.zero_grad()
        loss.backward()
        member.optimizer.step()
        ctx.step += 1
    ctx.turn += 1


def evaluate(ctx: Population) -> None:
    "test all members"
    images, labels = ctx.test
    for member in ctx.members:
        with torch.no_grad():
            right = member.model(images).argmax(dim=1) == labels
        member.accuracy = right.float().mean().item()


def exploit(ctx: Population) -> None:
    "the worst becomes a copy of the best, with another rate"
    best, worst = ctx.ranked[0], ctx.ranked[-1]
    worst.model.load_state_dict(best.model.state_dict())
    worst.optimizer.load_state_dict(best.optimizer.state_dict())
    factor = 0.5 + torch.rand(1, generator=ctx.chance).item()  # 0.5 to 1.5
    for group in worst.optimizer.param_groups:
        group["lr"] = best.rate * factor


def record(ctx: Population) -> None:
    "record the best and the worst"
    best, worst = ctx.ranked[0], ctx.ranked[-1]
    ctx.add_row({"best": best.accuracy, "worst": worst.accuracy, "rate": best.rate})


# ---------------------------------------------------------------- and how they follow each other


@st.guard(reads={"turn", "members"})
def members_left(ctx: Population) -> bool:
    "members left"
    return ctx.turn < len(ctx.members)


@st.guard(reads={"epoch", "generations"})
def more_generations(ctx: Population) -> bool:
    "more generations"
    return ctx.epoch < ctx.generations


def lifecycle() -> st.Lifecycle:
    return st.Lifecycle(
        "population",
        states=[
            st.State("fit"),
            st.State("next_generation", within="fit", anchor=True, role="next_epoch"),
            st.State("generation", begin_generation, within="fit", role="epoch"),
            st.State("next_member", within="generation", anchor=True),
            st.State("member", train_member, within="generation"),
            st.State("evaluate", evaluate, within="generation"),
            st.State("exploit", exploit, within="generation"),
            st.State("record", record, within="generation"),
            st.State("end", final=True),
        ],
        transitions=[
            st.Transition("fit", "next_generation"),
            st.Transition(
                "next_generation",
                "end",
                st.stop_requested | st.EarlyStopping("best", 8, mode="max"),
            ),
            st.Transition("next_generation", "generation", more_generations),
            st.Transition("next_generation", "end"),
            st.Transition("generation", "next_member"),
            st.Transition("next_member", "member", members_left),
            st.Transition("next_member", "evaluate"),
            st.Transition("member", "next_member"),
            st.Transition("evaluate", "exploit", st.Every(2, "epochs")),
            st.Transition("evaluate", "record"),
            st.Transition("exploit", "record"),
            st.Transition("record", "next_generation"),
            st.Transition("fit", "end", event=KeyboardInterrupt),
        ],
    )


def member(rate: float) -> Member:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return Member(model, torch.optim.Adam(model.parameters(), lr=rate))


def context(generations: int = 12) -> Population:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    return Population(
        [member(rate) for rate in RATES], (x[300:], y[300:]), (x[:300], y[:300]), generations
    )


def main(generations: int = 12, out: str | Path = "runs/population") -> tuple[st.Run, float]:
    Path(out).mkdir(parents=True, exist_ok=True)
    life = lifecycle()
    print(life, "\n")
    life.draw(f"{out}/lifecycle.svg")
    ctx: Any = context(generations)
    run = st.run(life, ctx, [st.Progress()])
    best = ctx.ranked[0]
    print(
        f"the best reads {best.accuracy:.1%} of the digits, with a learning rate of {best.rate:.1e}"
    )
    print(f"how they went about it: {out}/lifecycle.svg")
    return run, best.accuracy


if __name__ == "__main__":
    main()
