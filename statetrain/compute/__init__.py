"""Devices, randomness, copies, masks, inference, and what a batch leaves behind."""
