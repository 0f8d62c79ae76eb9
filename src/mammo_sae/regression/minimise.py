"""Minimise several functions with an L1 penalty at once, so that they share passes over the data.

The method is OWL-QN, the orthant-wise form of L-BFGS (Andrew and Gao 2007,
https://doi.org/10.1145/1273496.1273501). Folds, penalties and targets of a probe are such
functions: they read the same features.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Loss = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

PAIRS = 10
"""Number of steps from which the curvature is estimated."""

BYTES = 64 << 20
"""Bytes of those steps for all functions that are minimised at once."""

_DECREASE = 1e-4  # least share of the decrease that the gradient promises (Armijo)
_HALVINGS = 30


def minimise(
    loss: Loss, start: np.ndarray, tolerance: np.ndarray, most: int, l1: np.ndarray
) -> np.ndarray:
    """Return the minima [p, r] of r functions of p parameters.

    Parameters
    ----------
    loss
        ``loss(x [p, a], which [a])`` returns the values [a] and gradients [p, a] of the functions
        `which`, without the L1 penalty.
    start : [p, r]
    tolerance : [r]
        A function is minimised when the length of its smallest subgradient is at most this.
    most
        Largest number of steps.
    l1 : [p, r]
        Weight of the absolute value of each parameter, added to the function.
    """
    result = start.copy()
    step = max(1, BYTES // (2 * PAIRS * 8 * len(start)))
    for begin in range(0, start.shape[1], step):
        search = _Search(loss, result, l1, np.arange(begin, start.shape[1])[:step])
        for _ in range(most):
            open_ = np.linalg.norm(search.slope, axis=0) > tolerance[search.which]
            open_ &= ~search.stuck
            if not open_.all():
                result[:, search.which] = search.x
                search.keep(open_)
            if not len(search.which):
                break
            search.step()
        result[:, search.which] = search.x
    return result


class _Search:
    """The functions that are not minimised yet: their points, slopes and last steps."""

    def __init__(self, loss: Loss, start: np.ndarray, l1: np.ndarray, which: np.ndarray) -> None:
        self._loss, self._l1 = loss, l1[:, which]
        self.which = which
        self.x = start[:, which]
        value, self._gradient = loss(self.x, self.which)
        self._value = value + self._penalty(self.x)
        self.slope = self._subgradient(self.x, self._gradient)
        self._steps: list[np.ndarray] = []
        self._changes: list[np.ndarray] = []
        self._scale = 1 / np.maximum(np.linalg.norm(self.slope, axis=0), 1.0)
        self.stuck = np.zeros(len(self.which), bool)

    def keep(self, kept: np.ndarray) -> None:
        """Drop the functions that are minimised."""
        self.which, self._value, self._scale = (
            self.which[kept],
            self._value[kept],
            self._scale[kept],
        )
        self.x, self._gradient, self.slope = (
            values[:, kept] for values in (self.x, self._gradient, self.slope)
        )
        self._l1, self.stuck = self._l1[:, kept], self.stuck[kept]
        self._steps = [values[:, kept] for values in self._steps]
        self._changes = [values[:, kept] for values in self._changes]

    def step(self) -> None:
        """Move every function to a point of lower value, and mark those that find none."""
        direction = self._direction()
        promised = (self.slope * direction).sum(axis=0)
        orthant = np.where(self.x == 0, -np.sign(self.slope), np.sign(self.x))
        x, value, gradient = self.x.copy(), self._value.copy(), self._gradient.copy()
        length, waiting = np.ones(len(self.which)), np.arange(len(self.which))
        for _ in range(_HALVINGS):
            there = self.x[:, waiting] + length[waiting] * direction[:, waiting]
            there[there * orthant[:, waiting] < 0] = 0.0
            found, steep = self._loss(there, self.which[waiting])
            found = found + self._penalty(there, waiting)
            moved = (self.slope[:, waiting] * (there - self.x[:, waiting])).sum(axis=0)
            good = found <= self._value[waiting] + _DECREASE * np.minimum(moved, 0)
            x[:, waiting[good]], value[waiting[good]] = there[:, good], found[good]
            gradient[:, waiting[good]] = steep[:, good]
            # The minimum of the parabola through both values and the slope.
            rise = found - self._value[waiting] - length[waiting] * promised[waiting]
            best = -promised[waiting] * length[waiting] / np.where(rise > 0, 2 * rise, np.inf)
            length[waiting] *= np.clip(best, 0.1, 0.5)
            waiting = waiting[~good]
            if not len(waiting):
                break
        self.stuck[waiting] = True
        self._remember(x - self.x, gradient - self._gradient)
        self.x, self._value, self._gradient = x, value, gradient
        self.slope = self._subgradient(x, gradient)

    def _penalty(self, x: np.ndarray, which: np.ndarray | slice = slice(None)) -> np.ndarray:
        return np.asarray((self._l1[:, which] * np.abs(x)).sum(axis=0))

    def _subgradient(self, x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Return the smallest subgradient of the function with its L1 penalty."""
        at_zero = np.sign(gradient) * np.maximum(np.abs(gradient) - self._l1, 0.0)
        return np.where(x == 0, at_zero, gradient + self._l1 * np.sign(x))

    def _direction(self) -> np.ndarray:
        """Return the descent directions, by the two loops of L-BFGS."""
        left = self.slope.copy()
        shares = []
        pairs = list(zip(self._steps, self._changes, strict=True))
        for step, change in reversed(pairs):
            share = _ratio((step * left).sum(axis=0), (step * change).sum(axis=0))
            left -= share * change
            shares.append(share)
        left *= self._scale
        for (step, change), share in zip(pairs, reversed(shares), strict=True):
            other = _ratio((change * left).sum(axis=0), (step * change).sum(axis=0))
            left += (share - other) * step
        left[left * self.slope <= 0] = 0.0
        uphill = (left * self.slope).sum(axis=0) <= 0
        left[:, uphill] = self._scale[uphill] * self.slope[:, uphill]
        return -left

    def _remember(self, step: np.ndarray, change: np.ndarray) -> None:
        """Add the last step, unless it says nothing of a function's curvature."""
        curved, size = (step * change).sum(axis=0), (change * change).sum(axis=0)
        useful = curved > 1e-12 * size
        step[:, ~useful], change[:, ~useful] = 0.0, 0.0
        self._scale = np.where(useful, _ratio(curved, size), self._scale)
        self._steps = [*self._steps, step][-PAIRS:]
        self._changes = [*self._changes, change][-PAIRS:]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
