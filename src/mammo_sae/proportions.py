"""Intervals of proportions, and of differences of two values with intervals of their own."""

from __future__ import annotations

import math

from scipy.special import betaincinv

LEVEL = 0.95


def clopper_pearson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of `hits` of `count` >= 1 by Clopper and Pearson (1934)."""
    tail = (1 - LEVEL) / 2
    low = float(betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high


def interval_of_difference(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> tuple[float, float]:
    """Return the interval of the difference of two values, from each value and its interval.

    `first` and `second` are (value, low, high). This is the method of variance estimates recovery
    (Zou and Donner 2008, doi 10.1002/sim.3095): with l, u the bounds of a and b,

        a - b - sqrt((a - l_a)^2 + (u_b - b)^2)   to   a - b + sqrt((u_a - a)^2 + (b - l_b)^2)

    It holds for independent values. For values with a positive correlation, such as two scores of
    the same images, the interval is too wide.
    """
    (a, low_a, high_a), (b, low_b, high_b) = first, second
    below = math.hypot(a - low_a, high_b - b)
    above = math.hypot(high_a - a, b - low_b)
    return a - b - below, a - b + above
