"""Random directions with the distribution of an SAE's atoms."""

from __future__ import annotations

import numpy as np

DRAWN_BYTES = 64 << 20  # bytes of random numbers in memory at a time


def random_directions(atoms: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return float32 [count, d]: Gaussian directions with the mean and covariance of `atoms`.

    A direction is the atoms' mean plus a Gaussian combination of the centred atoms [h, d], divided
    by the square root of h.
    """
    rng = np.random.default_rng(seed)
    mean = atoms.mean(axis=0, dtype=np.float64)
    result = np.empty((count, atoms.shape[1]), np.float32)
    step = max(1, DRAWN_BYTES // (8 * max(1, len(atoms))))
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        mixing = rng.standard_normal((rows.stop - rows.start, len(atoms)))
        mixing /= np.sqrt(len(atoms))
        # The mean is subtracted from the sum, so that no centred copy of the atoms is needed.
        shift = (1 - mixing.sum(axis=1, keepdims=True)) * mean
        result[rows] = mixing.astype(np.float32) @ atoms + shift
    return result
