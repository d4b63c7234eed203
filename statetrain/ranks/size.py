"""How many processes there are."""

from __future__ import annotations

import os

import torch.distributed as dist

from statetrain.errors import ConfigError


def world_size() -> int:
    """How many processes there are, of a group that exists or that the environment names."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    try:
        return int(os.environ.get("WORLD_SIZE", "1") or 1)
    except ValueError:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']!r}; a launcher sets it to a whole number"
        ) from None
