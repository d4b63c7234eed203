"""The strategies of the testing kit, and the stage that they play on, under the name that these tests know."""

from statetrain.testing.staging import (
    EVENTS,
    Answering,
    Breaking,
    Detour,
    Played,
    Raise,
    Report,
    Scenario,
    Script,
    SharpDetour,
    Stage,
    Switch,
    Watcher,
)
from statetrain.testing.strategies import lifecycles, runs, scenarios, scripts

__all__ = [
    "EVENTS",
    "Answering",
    "Breaking",
    "Detour",
    "Played",
    "Raise",
    "Report",
    "Scenario",
    "Script",
    "SharpDetour",
    "Stage",
    "Switch",
    "Watcher",
    "lifecycles",
    "runs",
    "scenarios",
    "scripts",
]
