"""Two scores of what latents respond to: one kind of image, and one part of it.

Monosemanticity (Pach et al. 2025, arXiv 2504.02821) of a latent with activations a_n on images n
of features E_n, centred and scaled to length 1:

    sum over n < m of a_n a_m <E_n, E_m> / sum over n < m of a_n a_m

Spatial autocorrelation (Moran 1950) of a latent's maps, with z its codes, m an image's mean code,
and pairs of cells that share an edge, sums running over all images:

    I = mean over pairs of (z_i - m)(z_j - m) / mean over cells of (z_i - m)^2

It is 1 for smooth maps and -1 / (cells - 1) on average for codes laid out at random.
"""

from __future__ import annotations

import numpy as np


def monosemanticity(features: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """Return float64 [h] from features [n, d] and activations [n, h]; NaN below two images."""
    centred = features - features.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.maximum(length, 1e-12)
    a = activation.astype(np.float64)
    squares = np.square(a)
    # Each sum over pairs is half of (all products less an image's with itself).
    similar = np.square(unit.T @ a).sum(axis=0) - np.square(unit).sum(axis=1) @ squares
    weight = np.square(a.sum(axis=0)) - squares.sum(axis=0)
    several = (a > 0).sum(axis=0) >= 2
    return np.where(several, similar / np.where(several, weight, 1), np.nan)


class Autocorrelation:
    """Moran's I of `latents` maps of rows x columns, summed up batch by batch."""

    def __init__(self, latents: int, rows: int, columns: int) -> None:
        self._shape = (latents, rows, columns)
        self._products, self._squares = np.zeros(latents), np.zeros(latents)
        neighbours = np.zeros((rows, columns))
        neighbours[1:] += 1
        neighbours[:-1] += 1
        neighbours[:, 1:] += 1
        neighbours[:, :-1] += 1
        self._neighbours = neighbours.ravel()

    def add(self, index: np.ndarray, value: np.ndarray) -> None:
        """Take the codes index, value [n, R, C, k] of n images; latents ascend in a cell."""
        latents, rows, columns = self._shape
        images, cells, pairs = len(index), rows * columns, self._neighbours.sum() / 2
        on = np.flatnonzero(value > 0)
        z = value.ravel()[on].astype(np.float64)
        cell, latent = on // index.shape[-1], index.ravel()[on].astype(np.int64)
        key = cell * latents + latent  # ascends: a neighbour is found by bisection
        products = np.zeros(latents)
        for step, has in (
            (1, cell % columns < columns - 1),
            (columns, cell % cells < cells - columns),
        ):
            wanted = key[has] + step * latents
            place = np.minimum(np.searchsorted(key, wanted), max(len(key) - 1, 0))
            both = key[place] == wanted if len(key) else np.zeros(0, bool)
            products += np.bincount(
                latent[has][both], z[has][both] * z[place[both]], minlength=latents
            )
        target = cell // cells * latents + latent

        def per_image(weight: np.ndarray) -> np.ndarray:
            return np.bincount(target, weight, images * latents).reshape(images, latents)

        mean = per_image(z) / cells
        edges = per_image(z * self._neighbours[cell % cells])
        self._products += products + (pairs * mean**2 - mean * edges).sum(axis=0)
        self._squares += (per_image(z**2) - cells * mean**2).sum(axis=0)

    def result(self) -> np.ndarray:
        """Return float64 [h]; NaN for a latent that is nowhere active, or a grid of one cell."""
        _, rows, columns = self._shape
        pairs = self._neighbours.sum() / 2
        known = (self._squares > 0) & (pairs > 0)
        ratio = self._products / np.where(known, self._squares, 1)
        return np.where(known, ratio * rows * columns / max(pairs, 1), np.nan)
