"""Two scores of a latent: the similarity of its images, and the compactness of its maps.

Monosemanticity (Pach et al. 2025, arXiv 2504.02821). Let a_n be the latent's activation on image n,
and E_n the image's features, centred and scaled to length 1:

    sum over n < m of a_n a_m <E_n, E_m> / sum over n < m of a_n a_m

Spatial autocorrelation (Moran 1950). Let z be the latent's codes and m their mean in an image. A
pair is two cells that share an edge, and the means are over all images:

    I = mean over pairs of (z_i - m)(z_j - m) / mean over cells of (z_i - m)^2

I is 1 for smooth maps, and -1 / (cells - 1) on average for codes at random places.
"""

from __future__ import annotations

import numpy as np

from mammo_sae.regression.features import Matrix


def monosemanticity(features: Matrix, activation: np.ndarray) -> np.ndarray:
    """Return float64 [h], from features [n, d] and activations [n, h].

    NaN for a latent that fires in fewer than two images.
    """
    count, channels = features.shape
    latents = activation.shape[1]
    mean = features.transposed_times(np.full((count, 1), 1 / max(1, count)))[:, 0]
    total, same = np.zeros((channels, latents)), np.zeros(latents)
    sums, squares = np.zeros(latents), np.zeros(latents)
    for images, block in features.blocks():
        a = activation[images].astype(np.float64)
        centred = block - mean
        unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
        total += unit.T @ a
        sums += a.sum(axis=0)
        squares += np.square(a).sum(axis=0)
        same += np.square(unit).sum(axis=1) @ np.square(a)
    # A sum over pairs n < m is half of: the sum over all n and m, minus the sum over n = m.
    similar, weight = np.square(total).sum(axis=0) - same, np.square(sums) - squares
    several = (activation > 0).sum(axis=0) >= 2
    return np.where(several, similar / np.where(several, weight, 1), np.nan)


class Autocorrelation:
    """Moran's I of `latents` maps of rows x columns, accumulated batch by batch."""

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
        """Add the codes of n images: `index` and `value` [n, R, C, k], with ascending indices."""
        latents, rows, columns = self._shape
        images, cells, pairs = len(index), rows * columns, self._neighbours.sum() / 2
        on = np.flatnonzero(value > 0)
        z = value.ravel()[on].astype(np.float64)
        cell, latent = on // index.shape[-1], index.ravel()[on].astype(np.int64)
        key = cell * latents + latent  # ascending, so bisection finds a neighbour
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
        """Return float64 [h]; NaN for a latent that is never active, or a grid of one cell."""
        _, rows, columns = self._shape
        pairs = self._neighbours.sum() / 2
        known = (self._squares > 0) & (pairs > 0)
        ratio = self._products / np.where(known, self._squares, 1)
        return np.where(known, ratio * rows * columns / max(pairs, 1), np.nan)
