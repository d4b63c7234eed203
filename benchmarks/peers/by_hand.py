"""The loop against itself: how much of a difference is chance."""

from __future__ import annotations

import loops

from peers.variant import Variant

VARIANTS = {
    "lean": Variant(loops.lean, loops.lean, "the control"),
    "cleared": Variant(
        loops.cleared,
        loops.lean,
        "it clears the gradients as statetrain does, without the range for a profiler that"
        " `zero_grad` opens",
    ),
    "typical": Variant(loops.typical, loops.typical, "the control"),
    "heavy": Variant(loops.heavy, loops.heavy, "the control"),
}
