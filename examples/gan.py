"""Two networks that play against each other, by a lifecycle of their own.

    python examples/gan.py

A generator makes points of the plane out of noise; a discriminator tells them from real ones, which
lie in eight clusters on a circle. There is no prediction, no target and not one loss, so this is no
supervised training. But epochs, batches, stopping and failing are what they always are: the
lifecycle is the standard one, with two moves in its middle.

(Optimizers that only take turns on every batch need no lifecycle of their own: `fit` takes a dict
of them, and of losses.)
"""

from __future__ import annotations

from math import pi
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import statetrain as st
from statetrain.standard import actions

CLUSTERS, SPREAD = 8, 0.1
NOISE = 4  # numbers that a point is made of


def centres() -> Tensor:
    angles = torch.arange(CLUSTERS) * 2 * pi / CLUSTERS
    return 2 * torch.stack([angles.cos(), angles.sin()], dim=1)


def real_points(n: int) -> Tensor:
    return centres()[torch.randint(CLUSTERS, (n,))] + SPREAD * torch.randn(n, 2)


def network(inputs: int, outputs: int, hidden: int = 128) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(inputs, hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), nn.ReLU()),
        nn.Linear(hidden, outputs),
    )


# ---------------------------------------------------------------- the moves

# The action of a state is a function of the context; its docstring is what the table and the
# picture say.


def discriminate(ctx: Any) -> None:
    "tell real from generated points"
    judge = ctx.model["discriminator"]
    improve(
        ctx,
        "discriminator",
        softplus(-judge(ctx.input)).mean() + softplus(judge(generated(ctx).detach())).mean(),
    )


def generate(ctx: Any) -> None:
    "make points that pass for real"
    improve(ctx, "generator", softplus(-ctx.model["discriminator"](generated(ctx))).mean())
    ctx.step += 1  # intervals and limits in steps count the generator's


def generated(ctx: Any) -> Tensor:
    points: Tensor = ctx.model["generator"](torch.randn(len(ctx.input), NOISE, device=ctx.device))
    return points


def improve(ctx: Any, player: str, loss: Tensor) -> None:
    optimizer = ctx.optimizers[player]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    # What the standard states do as well: the mean over the epoch becomes the column
    # train_loss_<player>.
    ctx.opt_name, ctx.loss_value = player, loss.item()
    actions.count_loss(ctx)


# ---------------------------------------------------------------- the game


def lifecycle() -> st.Lifecycle:
    # A lifecycle is a value, and every edit gives a new one that is checked like the first. The
    # discriminator moves in
    # each batch and the generator answers in every second one: not a counter in the code, but an
    # arrow with a guard.
    life = (
        st.supervised(validate=None, non_finite="ignore")
        .insert(st.State("discriminate", discriminate), between=("batch", "pred"))
        .without("pred", "loss", "backward", "step")
        .add(
            st.State("generate", generate, within="batch"),
            st.Transition("discriminate", "generate", st.Every(2, "batches")),
            st.Transition("generate", "next_batch"),
        )
    )
    return life.named("gan")


def main(epochs: int = 20, out: str | Path = "runs/gan") -> tuple[st.Run, float]:
    Path(out).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    life = lifecycle()
    print(life, "\n")
    life.draw(f"{out}/lifecycle.svg")

    players = nn.ModuleDict({"generator": network(NOISE, 2), "discriminator": network(2, 1)})
    run = st.fit(
        players,
        real_points(51_200),
        optimizer={"generator": torch.optim.Adam, "discriminator": torch.optim.Adam},
        opt_hparams={"lr": 1e-3, "betas": (0.5, 0.9)},
        dataloader_options={"batch_size": 256},
        epochs=epochs,
        lifecycle=life,
        callbacks=[st.Progress()],
    )

    points = st.predict(players["generator"], torch.randn(2000, NOISE)).cpu()
    distance, nearest = torch.cdist(points, centres()).min(dim=1)
    hits = distance < 3 * SPREAD
    share = hits.float().mean().item()
    print(sketch(points))
    print(
        f"{share:.0%} of the generated points lie in a cluster, and {len(nearest[hits].unique())}"
        f" of {CLUSTERS} clusters are reached"
    )
    print(f"the game that was played: {out}/lifecycle.svg")
    return run, share


def sketch(points: Tensor, rows: int = 20, columns: int = 44) -> str:
    """The points as seen from far away."""
    counts = torch.histogramdd(
        points.flip(1), [rows, columns], range=[-2.5, 2.5, -2.5, 2.5]
    ).hist.flip(0)
    return "\n".join("".join(" .:*#"[min(int(count), 4)] for count in row) for row in counts)


if __name__ == "__main__":
    main()
