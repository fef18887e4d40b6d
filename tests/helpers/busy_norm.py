"""Batch norms whose every tensor matters."""

from torch import nn


def busy_norm(norm):
    """Fill a batch norm with random statistics, weight and bias, and return it."""
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return norm
