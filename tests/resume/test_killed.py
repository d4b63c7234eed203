"""Processes that are killed, for real."""

import json
import subprocess
import sys
from pathlib import Path

KILLS = 16


def test_a_killed_process_is_as_if_it_had_not_been() -> None:
    """SIGKILL at transitions and inside saves, over workers, seeds, accumulation and validation: the next process ends with the same bits."""
    script = Path(__file__).parent / "killing.py"
    done = subprocess.run([sys.executable, str(script), str(KILLS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert [result["case"] for result in results if not result["exact"]] == [], done.stderr
    assert [result["case"] for result in results if result["litter"]] == []
    assert sum(result["killed"] for result in results) > KILLS // 2
    assert len({result["case"] for result in results}) == KILLS
