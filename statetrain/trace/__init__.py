"""Traces: the transitions that a run took, in memory and in files.

`Trace` is the value, and `Tracing` the callback that records it. `writing` describes the one format
of files that everything reads: `Trace.load`, `statetrain watch`, reports.
"""

from statetrain.trace.tape import Moment
from statetrain.trace.tracing import Tracing
from statetrain.trace.value import Trace, shorten

__all__ = ["Moment", "Trace", "Tracing", "shorten"]
