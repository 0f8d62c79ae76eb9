"""Minimise several penalised losses at once, so that they share each pass over the features.

The method is the truncated Newton method with conjugate gradients (Dembo and Steihaug 1983,
https://doi.org/10.1007/BF02592055; for logistic regressions Lin, Weng and Keerthi 2008,
https://jmlr.org/papers/v9/lin08b.html). A pass over the features gives a gradient, or the product
of a Hessian with one direction. In each pass every function that is not minimised yet takes its own
next step, of either kind. Folds, penalties and targets of a probe are such functions.
"""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np

from mammo_sae.regression.features import Features

TOLERANCE = 1e-8
"""A function is minimised when the next step lowers it by at most half of this.

For a log loss with weights of sum 1, this is the weighted mean of s (1 - s) c^2, where s is the
probability of an image and c is the change of its score by the next step. That step is still taken.
"""

BYTES = 64 << 20
"""Bytes of the parameters and directions of all functions that are minimised at once."""

PASSES = 1000
"""Passes over the features after which a function counts as not minimised."""

_VECTORS = 8  # of the length of the parameters, per function
_EXACT = 0.5  # conjugate gradients end when as many more steps would lower a function by this share
_DECREASE = 1e-4  # least share of the decrease that the gradient promises (Armijo)
_ROUNDING = 1e-6  # relative error of a value


class NotMinimised(UserWarning):
    """Functions are not minimised after the largest number of passes.

    Attributes
    ----------
    which : [a]
        The functions.
    """

    def __init__(self, message: str, which: np.ndarray) -> None:
        super().__init__(message)
        self.which = which


class Losses(Protocol):
    """Convex losses of images with r scores each.

    The loss of function j depends on its scores and on `extras` further parameters, for example an
    intercept.
    """

    @property
    def extras(self) -> int:
        """The number of further parameters."""

    def slopes(
        self, images: np.ndarray, which: np.ndarray, scores: np.ndarray, extra: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the loss and its derivatives.

        Parameters
        ----------
        images : [b]
        which : [a]
            The functions.
        scores : [b, a]
        extra : [e, a]

        Returns
        -------
        value : [a]
            Sum of the losses of the images; infinite where the parameters are not allowed.
        by_score : [b, a]
        by_extra : [e, a]
        """

    def curvature(
        self,
        images: np.ndarray,
        which: np.ndarray,
        scores: np.ndarray,
        extra: np.ndarray,
        change: np.ndarray,
        extra_change: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return how the derivatives by score [b, a] and by further parameters [e, a] change.

        The result is the product of the second derivatives with the changes of the scores [b, a]
        and of the further parameters [e, a].
        """


def at_once(parameters: int) -> int:
    """Return how many functions of so many parameters are minimised at once, at most."""
    return max(1, BYTES // (_VECTORS * 8 * parameters))


def minimise_ridge(
    features: Features,
    losses: Losses,
    strength: np.ndarray,
    extra: np.ndarray,
    passes: int = PASSES,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights [f, r] and further parameters [e, r] of r penalised losses.

    A function is the loss of the scores ``features @ weights``, plus half its `strength` times the
    sum of squares of the weights.

    Parameters
    ----------
    features : [n, f]
    losses
    strength : [r]
    extra : [e, r]
        Further parameters to start from. Weights start from 0.
    passes
        Largest number of passes. After it, there is a warning (`NotMinimised`).
    """
    count = features.shape[1]
    weights, found = np.zeros((count, len(strength))), extra.copy()
    step = at_once(count + len(extra))
    for start in range(0, len(strength), step):
        which = np.arange(start, min(start + step, len(strength)))
        search = _Search(features, losses, strength[which], extra[:, which], which)
        for _ in range(passes):
            done = search.advance()
            weights[:, done], found[:, done] = search.solution(done)
            search.drop(done)
            if not len(search.which):
                break
        if len(search.which):
            weights[:, search.which], found[:, search.which] = search.solution(search.which)
            message = (
                f"{len(search.which)} of {len(which)} regressions have not converged after "
                f"{passes} passes over the features; use a stronger penalty"
            )
            warnings.warn(NotMinimised(message, search.which), stacklevel=2)
    return weights, found


class _Search:
    """The functions that are not minimised yet. Parameters are weights and then extras."""

    def __init__(
        self,
        features: Features,
        losses: Losses,
        strength: np.ndarray,
        extra: np.ndarray,
        which: np.ndarray,
    ) -> None:
        self._features, self._losses = features, losses
        images, count = features.shape
        shape = (count + len(extra), len(which))
        self.which = which
        self._strength = strength
        self._x = np.zeros(shape)
        self._x[count:] = extra
        self._value = np.full(len(which), np.inf)
        self._gradient, self._residual, self._towards = (np.zeros(shape) for _ in range(3))
        self._direction = np.zeros(shape)
        self._length = np.zeros(len(which))
        self._trying = np.ones(len(which), bool)
        # Expected decrease along the direction, and number of the steps that found the direction.
        self._decrease = np.zeros(len(which))
        self._turns = np.zeros(len(which))
        # Scores at the parameters, and at those that are tried.
        self._scores = np.zeros((images, len(which)), np.float32)
        self._tried = np.zeros((images, len(which)), np.float32)

    def solution(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights and further parameters of the functions `which`."""
        x = self._x[:, np.isin(self.which, which)]
        return x[: self._features.shape[1]], x[self._features.shape[1] :]

    def drop(self, which: np.ndarray) -> None:
        """Forget the functions `which`."""
        kept = ~np.isin(self.which, which)
        if kept.all():
            return
        for name in ("which", "_strength", "_value", "_length", "_trying", "_decrease", "_turns"):
            setattr(self, name, getattr(self, name)[kept])
        for name in ("_x", "_gradient", "_residual", "_towards", "_direction", "_scores", "_tried"):
            setattr(self, name, getattr(self, name)[:, kept])

    def advance(self) -> np.ndarray:
        """Pass over the features once, and return the functions that are minimised."""
        count = self._features.shape[1]
        trying = self._trying
        asked = np.where(trying, self._x + self._length * self._direction, self._towards)
        tried, moving = np.flatnonzero(trying), np.flatnonzero(~trying)
        value, by_extra = np.zeros(len(trying)), np.zeros((len(asked) - count, len(trying)))

        def between(images: np.ndarray, products: np.ndarray) -> np.ndarray:
            result = np.empty(products.shape)
            if len(tried):
                scores = products[:, tried]
                self._tried[np.ix_(images, tried)] = scores
                found, result[:, tried], extra = self._losses.slopes(
                    images, self.which[tried], scores, asked[count:, tried]
                )
                value[tried] += found
                by_extra[:, tried] += extra
            if len(moving):
                result[:, moving], extra = self._losses.curvature(
                    images,
                    self.which[moving],
                    self._scores[np.ix_(images, moving)],
                    self._x[count:, moving],
                    products[:, moving],
                    asked[count:, moving],
                )
                by_extra[:, moving] += extra
            return result

        products = self._features.there_and_back(asked[:count], between)
        products = np.vstack([products + self._strength * asked[:count], by_extra])
        value += 0.5 * self._strength * np.square(asked[:count]).sum(axis=0)
        done = [self._arrive(tried, asked, value, products), self._turn(moving, products)]
        return self.which[np.concatenate(done)]

    def _arrive(
        self, tried: np.ndarray, asked: np.ndarray, value: np.ndarray, gradient: np.ndarray
    ) -> np.ndarray:
        """Move to the parameters that were tried if they are better, and return what is minimised.

        The step is halved where they are not.
        """
        promised = (self._gradient[:, tried] * self._direction[:, tried]).sum(axis=0)
        least = self._value[tried] + _DECREASE * self._length[tried] * promised
        fresh = np.isinf(self._value[tried])
        slack = np.where(fresh, 0.0, _ROUNDING * np.abs(self._value[tried]))
        good = fresh | (value[tried] <= least + slack)
        self._length[tried[~good]] /= 2
        moved = tried[good]
        self._x[:, moved], self._value[moved] = asked[:, moved], value[moved]
        self._gradient[:, moved] = gradient[:, moved]
        self._scores[:, moved] = self._tried[:, moved]
        # A step that became this short finds no lower value.
        stuck = tried[~good][self._length[tried[~good]] < 1e-9]
        flat = moved[~gradient[:, moved].any(axis=0)]
        self._residual[:, moved] = self._towards[:, moved] = -gradient[:, moved]
        self._direction[:, moved] = 0.0
        self._decrease[moved] = self._turns[moved] = 0.0
        self._trying[moved] = False
        return np.concatenate([flat, stuck])

    def _turn(self, moving: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Take a step of conjugate gradients, given the Hessians' products.

        Return the functions that are minimised by the direction that was found. The criterion for
        its end is that of Nash and Sofer (1990, https://doi.org/10.1016/0167-6377(90)90056-D).
        """
        towards, residual = self._towards[:, moving], self._residual[:, moving]
        squares = np.square(residual).sum(axis=0)
        share = squares / (towards * products[:, moving]).sum(axis=0)
        self._direction[:, moving] += share * towards
        residual -= share * products[:, moving]
        left = np.square(residual).sum(axis=0)
        self._residual[:, moving] = residual
        self._towards[:, moving] = residual + left / squares * towards
        gain = share * squares / 2
        self._decrease[moving] += gain
        self._turns[moving] += 1
        ends = self._turns[moving] * gain <= _EXACT * self._decrease[moving]
        ready = moving[ends]
        self._trying[ready], self._length[ready] = True, 1.0
        minimised = ready[self._decrease[ready] <= TOLERANCE / 2]
        self._x[:, minimised] += self._direction[:, minimised]
        return minimised
