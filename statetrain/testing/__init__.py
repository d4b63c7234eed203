"""The testing kit: walk a lifecycle without a model, and say what a trace must look like.

    def test_a_nan_loss_skips_backward():
        "A non-finite loss goes from loss to the next batch."
        trace = walk(supervised(non_finite="skip"), {"more epochs": [True], "a batch was drawn": [True], "loss not finite": [True]})
        assert_trace(trace, "fit next_epoch epoch train next_batch draw batch pred loss next_batch ...")

It needs no torch.
"""

from statetrain.testing.paths import Path, paths
from statetrain.testing.patterns import assert_trace
from statetrain.testing.properties import (
    Property,
    Verdict,
    always,
    at_most,
    balanced,
    between,
    check,
    ends,
    eventually,
    judge,
    never,
    precedes,
)
from statetrain.testing.resuming import assert_resumable
from statetrain.testing.simulation import Schedule, simulate
from statetrain.testing.walking import walk

__all__ = [
    "Path",
    "Property",
    "Schedule",
    "Verdict",
    "always",
    "assert_resumable",
    "assert_trace",
    "at_most",
    "balanced",
    "between",
    "check",
    "ends",
    "eventually",
    "judge",
    "never",
    "paths",
    "precedes",
    "simulate",
    "walk",
]
