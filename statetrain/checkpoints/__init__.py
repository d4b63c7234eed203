"""Runs on disk: snapshots as plain data and tensors, files that are whole or do not count, one run a folder."""
