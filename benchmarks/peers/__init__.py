"""The libraries that train PyTorch models, each in a module of its own with its `VARIANTS`: how one uses it, and the hand-written loop that does the same."""

from __future__ import annotations

# The modules here, and the distribution that each needs. `by_hand` is the loop against itself, the
# control.
PEERS = {
    "by_hand": "torch",
    "ours": "statetrain",
    "ignite": "pytorch-ignite",
    "fabric": "lightning",
    "skorch": "skorch",
    "accelerate": "accelerate",
    "pytorch_accelerated": "pytorch-accelerated",
    "fastai": "fastai",
    "lightning": "lightning",
    "transformers": "transformers",
    "keras": "keras",
}
