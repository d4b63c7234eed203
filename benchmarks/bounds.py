"""How sure a median is."""

from __future__ import annotations

import random
import statistics


def bootstrap(values: list[float], draws: int = 2000) -> tuple[float, float]:
    """The 95 % bounds of the median."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(draws * 0.025)], medians[int(draws * 0.975)]
