"""Runs on disk: snapshots as plain data and tensors.

A file is either whole or does not count; each run has a folder.
"""
