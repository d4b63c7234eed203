"""SIGKILL of any of several ranks, at any transition or inside a save; started again, the run ends bit for bit."""

from __future__ import annotations

import json
import os
import random
from functools import cache, partial

import statetrain as st
from statetrain.checkpoints import checkpoint
from suites.case import Case, scratch
from suites.kills import Counting
from suites.rank_toy import RankResult, on_ranks, rank_digest, rank_train
from suites.saves import Deadly, put_disk

TITLE = "kills of one of several ranks"
GOAL = 200
SECONDS = 30.0  # in which all ranks are over once one is killed, on a busy machine; else 5

KINDS = (("replicas", 2), ("shards", 2), ("replicas", 3), ("shards", 3))


@cache
def whole_run(kind: str, ranks: int) -> tuple[str, int, list[int]]:
    """How it ends that nobody kills: a digest, the transitions, and calls of the disk by rank."""
    with scratch() as folder:

        def work() -> str:
            disk = Deadly()
            put_disk(disk)
            run = rank_train(folder, shards=kind == "shards")
            return json.dumps([rank_digest(run), len(run.trace.transitions), len(disk.calls)])

        found = [json.loads(_good(one)) for one in on_ranks(work, ranks)]
    digests = {digest for digest, _, _ in found}
    assert len(digests) == 1, "the ranks ended with other bits"
    return found[0][0], found[0][1], [calls for _, _, calls in found]


def _good(result: RankResult) -> str:
    assert result.code == 0, (result.said or result.errors)[-1500:]
    return result.said


def cases() -> list[Case]:
    """Two hundred: one in three inside a save."""
    found = []
    for number in range(GOAL):
        kind, ranks = KINDS[number % len(KINDS)]
        victim = random.Random(number).randrange(ranks)
        where = "inside a save" if number % 3 == 0 else "at a transition"
        name = f"{number}: rank {victim} of {ranks} {kind}, {where}"
        found.append(Case(name, partial(_check, number, kind, ranks, victim)))
    return found


def _check(number: int, kind: str, ranks: int, victim: int) -> float:
    digest, transitions, calls = whole_run(kind, ranks)
    chance = random.Random(number + 1000)
    at = chance.randint(1, transitions)
    after = chance.choice([0, chance.randint(1, 40), chance.randint(1, 2000)])
    call = chance.randrange(max(calls[victim], 1))
    late = chance.random() < 0.5
    in_save = number % 3 == 0 and calls[victim] > 0

    with scratch() as folder:

        def work(deadly: bool) -> str:
            mine: list[st.Callback] = []
            if deadly and int(os.environ["RANK"]) == victim:
                if in_save:
                    put_disk(Deadly(call, late))
                else:
                    mine.append(Counting(at, after))
            return rank_digest(rank_train(folder, *mine, shards=kind == "shards"))

        found = on_ranks(partial(work, True), ranks)
        killed = [one for one in found if one.code < 0]
        seconds = max(one.ended for one in found) - min(one.ended for one in found)
        for attempt in range(1, 3):
            if all(one.code == 0 for one in found):
                break
            found = on_ranks(partial(work, False), ranks, attempt)
        for one in found:
            assert _good(one) == digest, "it ended with other bits"
        for path in checkpoint.folders_in(folder):
            checkpoint.verify(path)
    assert seconds < SECONDS or not killed, f"{seconds:.1f} s until all ranks were over"
    return float(len(killed))
