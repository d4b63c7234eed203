"""The testing kit: walk a lifecycle without a model, and say what a trace must look like.

    def test_a_nan_loss_skips_backward():
        "A non-finite loss goes from loss to the next batch."
        answers = {"more epochs": [True], "a batch was drawn": [True], "loss not finite": [True]}
        trace = walk(supervised(non_finite="skip"), answers)
        assert_trace(trace, "... draw batch pred loss next_batch ...")

It needs no torch.
"""

from statetrain.testing.callback_tests import CallbackCase, callback_cases, check_callback
from statetrain.testing.coverage import Coverage
from statetrain.testing.fake_clock import FakeClock
from statetrain.testing.guard_tests import GuardCase, check_guard, guard_cases
from statetrain.testing.hall import RankRuns, RanksApart, simulate_ranks
from statetrain.testing.judging import Verdict, check, judge
from statetrain.testing.moments import Taken
from statetrain.testing.mutating import Mutant, mutants, survivors
from statetrain.testing.paths import Path, paths
from statetrain.testing.patterns import assert_trace
from statetrain.testing.properties import (
    Property,
    always,
    at_most,
    balanced,
    between,
    counters_agree,
    ends,
    eventually,
    followed_by,
    never,
    of_taken,
    precedes,
    same_route,
)
from statetrain.testing.recording import Heard, Recording
from statetrain.testing.resuming import assert_resumable
from statetrain.testing.simulation import SimulatedRun, simulate
from statetrain.testing.together import walk_ranks
from statetrain.testing.toy import Toy, toy_problem
from statetrain.testing.walking import walk
from statetrain.trace.conformance import Conformance, conforms

__all__ = [
    "CallbackCase",
    "Conformance",
    "Coverage",
    "FakeClock",
    "GuardCase",
    "Heard",
    "Mutant",
    "Path",
    "Property",
    "RankRuns",
    "RanksApart",
    "Recording",
    "SimulatedRun",
    "Taken",
    "Toy",
    "Verdict",
    "always",
    "assert_resumable",
    "assert_trace",
    "at_most",
    "balanced",
    "between",
    "callback_cases",
    "check",
    "check_callback",
    "check_guard",
    "conforms",
    "counters_agree",
    "ends",
    "eventually",
    "followed_by",
    "guard_cases",
    "judge",
    "mutants",
    "never",
    "of_taken",
    "paths",
    "precedes",
    "same_route",
    "simulate",
    "simulate_ranks",
    "survivors",
    "toy_problem",
    "walk",
    "walk_ranks",
]
