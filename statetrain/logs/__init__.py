"""Output of a run: lines for people, structured events, bars, values for loggers, their sources."""
