"""Which of two values is better."""

from __future__ import annotations

import math
import re
import warnings
from typing import Literal

Direction = Literal["min", "max", "zero"]

# Parts of names of metrics of which higher is better
_HIGHER = re.compile(
    r"(^|_)(acc|accuracy|top\d+|f1|f1score|fbeta|auc|auroc|auprc|ap|map|precision|recall|iou|miou|"
    r"jaccard|dice|r2|r2score|bleu|rouge|psnr|ssim|ndcg|mrr|kappa|mcc|specificity|sensitivity|"
    r"reward|return)(_|\d|$)"
)


def better(
    value: float, best: float | None, mode: Direction = "min", min_delta: float = 0.0
) -> bool:
    """Whether a value improves on the best so far by more than `min_delta`; a NaN never does.

    Args:
        value: the new one.
        best: the one to beat; None means that there is none yet.
        mode: "min", "max" or "zero".
        min_delta: an improvement is larger than this.
    """
    if math.isnan(value):
        return False
    if best is None or math.isnan(best):
        return True
    if mode == "max":
        return value - min_delta > best
    if mode == "zero":
        value, best = abs(value), abs(best)
    return value + min_delta < best


def rank(value: float | None, mode: Direction) -> float:
    """A number to sort values by, the best first; what is not a number comes last."""
    if value is None or math.isnan(value):
        return math.inf
    if mode == "max":
        return -value
    if mode == "zero":
        return abs(value)
    return value


def warn_where_higher_is_better(owner: str, column: str, stacklevel: int) -> None:
    """Warns where a column is minimized by default, and its name says that it should not be.

    Args:
        owner: what minimizes it, for the message.
        column: its name.
        stacklevel: of the warning, from here.
    """
    if _HIGHER.search(column.lower()):
        warnings.warn(
            f"{owner} takes the lowest {column} for the best; if higher is better, write"
            " mode='max', otherwise mode='min'",
            stacklevel=stacklevel,
        )
