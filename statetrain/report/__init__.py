"""A page on a run: one file that needs no network."""

from statetrain.report.page import report

__all__ = ["report"]
