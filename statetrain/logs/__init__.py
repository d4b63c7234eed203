"""What leaves a run while it goes on: lines for people, structured events, bars, values for loggers and their sources."""
