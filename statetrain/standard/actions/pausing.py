"""The action of states that wait."""

from __future__ import annotations

import time

from statetrain.context.context import Context
from statetrain.contracts.declaring import access

_MOMENT = 0.02  # seconds; short, so that a request to stop takes effect at once


@access()
def pause(ctx: Context) -> None:
    "pause for a moment"
    time.sleep(_MOMENT)
