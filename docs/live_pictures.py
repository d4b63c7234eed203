"""The interactive pictures of the site: pages of their own, embedded where a page says `<!-- live: name -->`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch
from torch.nn import functional as F

import statetrain as st

FOLDER = (
    Path(__file__).parent / "_static" / "live"
)  # written when the site is built, ignored by git
CAPTIONS = {
    "lifecycle": "Explore it: point at a state or an arrow, fold a scope by a click, zoom, drag.",
    "run": "A run with a NaN in each epoch and an early stop: drag along the time line, or press play.",
}
_PLACE = re.compile(r"<!-- live: (\w+) -->")


def write() -> None:
    """Writes all of them."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    st.supervised(non_finite="skip").draw(FOLDER / "lifecycle.html")
    recorded().draw(FOLDER / "run.html")


def recorded() -> st.Run:
    """A small run in which something happens: a loss that is NaN, and an early stop."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 4, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    batches = list(zip(x.split(16), y.split(16), strict=True))
    broken = (torch.full((16, 4), float("nan")), y[:16])
    torch.manual_seed(0)
    return st.fit(
        torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2)),
        [*batches[:3], broken, batches[3]],
        valid=batches[4:],
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam,
        opt_hparams={"lr": 0.03},
        epochs=30,
        stop=st.EarlyStopping("valid_loss", patience=3),
        non_finite="skip",
        callbacks=st.Tracing(times=True),
        verbose=False,
    )


def embed(text: str) -> str:
    """A page with its interactive pictures."""
    return _PLACE.sub(lambda match: frame(match[1]), text)


def frame(name: str) -> str:
    """One of them, and a link to it alone."""
    address = f"_static/live/{name}.html"
    return (
        f'<p class="live">{CAPTIONS[name]} <a href="{address}">Open it on a page of its own.</a></p>\n'
        f'<iframe class="live" src="{address}" title="{CAPTIONS[name]}" loading="lazy"></iframe>'
    )
