"""Devices and number types of computations, and checkpoints of unfinished training."""
