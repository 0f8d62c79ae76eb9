"""Batch normalisations with weights and statistics like those of a trained network."""

from __future__ import annotations

from torch import nn


def draw_batch_norms(network: nn.Module) -> None:
    """Draw weights and statistics of all batch normalisations of `network` at random."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
