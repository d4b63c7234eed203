"""Losses and metrics: functions whose arguments are read by keys, and their means over an epoch."""
