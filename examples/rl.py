"""Reinforcement learning: a lifecycle of its own, over a context of its own, on a real environment.

    python examples/rl.py        # needs gymnasium

A policy balances a pole on a cart. There is no data to iterate over: the policy plays, learns a few
times from what it saw (PPO), and is watched playing its best. That loop is a table with nothing of
the standard one in it. What a run of `fit` has, this one has too: checkpoints, progress, a history,
early stopping, a limit of time, and it resumes exactly where it was cut.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import gymnasium
import torch
from attrs import Factory, define
from torch import Tensor, nn

import statetrain as st

EPISODES, UPDATES, WATCHED = 8, 4, 5
DISCOUNT, CLIP = 0.98, 0.2


def policy() -> nn.Module:
    """States of shape (batch, 4) to logits of shape (batch, 2)."""
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))


@define(eq=False)
class Playing(st.Position):
    """What the run knows. All of it is saved, but for what is made again."""

    policy: nn.Module
    optimizer: torch.optim.Optimizer
    env: gymnasium.Env = st.not_saved()
    iterations: int = st.not_saved(30)
    epoch: int = 0  # iterations made; the name that intervals and logs know
    step: int = 0  # updates made
    updates: int = 0  # in this iteration
    states: Tensor = Factory(lambda: torch.empty(0, 4))
    actions: Tensor = Factory(lambda: torch.empty(0, dtype=torch.long))
    gains: Tensor = Factory(lambda: torch.empty(0))  # discounted, normalized
    before: Tensor = Factory(lambda: torch.empty(0))  # log probabilities when they were played
    loss: float = 0.0


# ---------------------------------------------------------------- what is done in the states


def play(ctx: Playing, seed: int, greedy: bool) -> tuple[list[Tensor], list[int], list[float]]:
    """One episode, which its seed and torch's generator determine."""
    state, _ = ctx.env.reset(seed=seed)
    states, actions, rewards = [], [], []
    over = False
    while not over:
        states.append(torch.as_tensor(state))
        with torch.no_grad():
            logits = ctx.policy(states[-1])
        if greedy:
            actions.append(int(logits.argmax()))
        else:
            actions.append(int(torch.multinomial(logits.softmax(dim=0), 1)))
        state, reward, ended, cut, _ = ctx.env.step(actions[-1])
        rewards.append(float(reward))
        over = ended or cut
    return states, actions, rewards


def discounted(rewards: list[float]) -> list[float]:
    gains: list[float] = []
    for reward in reversed(rewards):
        gains.append(reward + DISCOUNT * (gains[-1] if gains else 0.0))
    return gains[::-1]


def collect(ctx: Playing) -> None:
    "play some episodes"
    ctx.epoch += 1
    ctx.updates = 0
    states: list[Tensor] = []
    actions: list[int] = []
    gains: list[float] = []
    for i in range(EPISODES):
        seen, done, rewards = play(ctx, seed=1000 * ctx.epoch + i, greedy=False)
        states, actions, gains = states + seen, actions + done, gains + discounted(rewards)
    ctx.states, ctx.actions = torch.stack(states), torch.tensor(actions)
    raw = torch.tensor(gains)
    ctx.gains = (raw - raw.mean()) / (raw.std() + 1e-8)
    with torch.no_grad():
        ctx.before = chosen(ctx)


def chosen(ctx: Playing) -> Tensor:
    """The log probabilities of the actions that were played."""
    logs: Tensor = ctx.policy(ctx.states).log_softmax(dim=1)
    return logs.gather(1, ctx.actions[:, None])[:, 0]


def learn(ctx: Playing) -> None:
    "learn from them"
    ratio = (chosen(ctx) - ctx.before).exp()
    clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
    loss = -torch.minimum(ratio * ctx.gains, clipped * ctx.gains).mean()
    ctx.optimizer.zero_grad()
    loss.backward()
    ctx.optimizer.step()
    ctx.loss = loss.item()
    ctx.updates += 1
    ctx.step += 1


def evaluate(ctx: Playing) -> None:
    "watch it play its best"
    returns = [sum(play(ctx, seed=i, greedy=True)[2]) for i in range(WATCHED)]
    ctx.add_row({"loss": ctx.loss, "return": mean(returns)})


# ---------------------------------------------------------------- and how they follow each other


@st.guard(reads={"updates"})
def updates_left(ctx: Playing) -> bool:
    "updates left"
    return ctx.updates < UPDATES


@st.guard(reads={"epoch", "iterations"})
def more_iterations(ctx: Playing) -> bool:
    "more iterations"
    return ctx.epoch < ctx.iterations


def lifecycle() -> st.Lifecycle:
    solved = st.Threshold("return", 450, mode="max")
    return st.Lifecycle(
        "reinforcement learning",
        states=[
            # A run begins in the state with the role `fit`, and a row is new at `next_epoch`: by
            # that, callbacks know where they are.
            st.State("fit"),
            st.State("next_iteration", within="fit", anchor=True, role="next_epoch"),
            st.State("iteration", within="fit", role="epoch"),
            st.State("collect", collect, within="iteration"),
            st.State("next_update", within="iteration", anchor=True),
            st.State("learn", learn, within="iteration"),
            st.State("evaluate", evaluate, within="iteration"),
            st.State("end", final=True),
            st.State("solved", final=True, outcome=st.Completed),
        ],
        transitions=[
            st.Transition("fit", "next_iteration"),
            st.Transition("next_iteration", "end", st.stop_requested),
            st.Transition("next_iteration", "solved", solved),
            st.Transition("next_iteration", "iteration", more_iterations),
            st.Transition("next_iteration", "end"),
            st.Transition("iteration", "collect"),
            st.Transition("collect", "next_update"),
            st.Transition("next_update", "learn", updates_left),
            st.Transition("next_update", "evaluate"),
            st.Transition("learn", "next_update"),
            st.Transition("evaluate", "next_iteration"),
            st.Transition("fit", "end", event=KeyboardInterrupt),
        ],
    )


def context(iterations: int = 30) -> Playing:
    torch.manual_seed(0)
    player = policy()
    optimizer = torch.optim.Adam(player.parameters(), lr=1e-2)
    return Playing(player, optimizer, gymnasium.make("CartPole-v1"), iterations)


def main(iterations: int = 30, out: str | Path = "runs/rl") -> tuple[st.Run, float]:
    Path(out).mkdir(parents=True, exist_ok=True)
    life = lifecycle()
    print(life, "\n")
    life.draw(f"{out}/lifecycle.svg")
    run = st.run(life, context(iterations), [st.Progress()])
    best = max(run.history["return"])
    print(f"{run.outcome}: at best it kept the pole up for {best:.0f} of 500 steps")
    print(f"how it went about it: {out}/lifecycle.svg")
    return run, best


if __name__ == "__main__":
    main()
