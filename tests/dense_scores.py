"""Scores of maps from whole arrays, to compare with `mammo_sae.analysis.map_scores`."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter

from mammo_sae import statistics as st
from mammo_sae.analysis.map_scores import too_rare


def score_map(
    here: Any,
    activation: np.ndarray,
    threshold: float,
    weights: np.ndarray,
    moves: np.ndarray,
) -> dict[str, Any]:
    """Return one latent's row, from its maps `activation` [n, R, C] of the images in `here`.

    `weights` [n, draws] belong to the bootstrap, `moves` [draws, n] to the permutations.
    """
    n = len(here.breast)
    z = np.where(here.breast > 0, activation, 0).reshape(n, -1).astype(np.float64)
    breast = here.breast.reshape(n, -1).astype(np.float64)
    mask = here.mask.reshape(n, -1).astype(np.float64)
    moved = here.moved.reshape(n, -1).astype(np.float64)
    energy = (z * breast).sum(1)
    fires = energy > 0
    row: dict[str, Any] = {
        "images": n,
        "fires": float(fires.mean()),
        "reason": too_rare(len(np.unique(here.patients[fires]))),
    }
    if row["reason"]:
        return row
    row["auprc"], row["auprc_low"], row["auprc_high"] = _auprc(z, mask, breast, weights)
    row["chance_auprc"] = mask.sum() / breast.sum()

    on = z > threshold
    inter, area = (on * mask).sum(1), (on * breast).sum(1) + mask.sum(1)
    row["pooled_iou"] = inter.sum() / (area - inter).sum()
    row["pooled_iou_low"], row["pooled_iou_high"] = st.interval(
        (inter @ weights) / ((area - inter) @ weights)
    )
    crossed = (on * breast) @ moved.T
    drawn = _paired(crossed, moves).sum(1)
    row["shuffled_pooled_iou"] = float((drawn / (area.sum() - drawn)).mean())

    share = np.divide((z * mask).sum(1), energy, out=np.zeros(n), where=fires)
    extent = np.where(fires, mask.sum(1) / breast.sum(1), 0.0)
    row["energy_inside"] = share[fires].mean()
    row["energy_lift"] = share.sum() / extent.sum()
    drawn_weights = extent @ weights
    row["energy_lift_low"], row["energy_lift_high"] = st.interval(
        np.divide(
            share @ weights,
            drawn_weights,
            out=np.full(weights.shape[1], np.nan),
            where=drawn_weights > 0,
        )
    )
    scale = np.where(fires, 1 / np.where(fires, energy, 1.0), 0.0)
    inside = ((z * breast) * scale[:, None]) @ moved.T
    spread = (fires / breast.sum(1))[:, None] * (breast @ moved.T)
    lifts = _lift(inside, spread, moves)
    observed = _lift(inside, spread, np.arange(n)[None])[0]
    row["shuffled_energy_lift"] = float(np.nanmean(lifts))
    extreme = (lifts >= observed * (1 - 1e-9)).sum()
    row["p"] = (1 + extreme) / (1 + len(moves))

    peak = z.argmax(1)
    near = maximum_filter(here.moved > 0, size=(1, 3, 3)).reshape(n, -1)
    for name, touched in (("pointing", moved > 0), ("pointing_near", near)):
        hit = touched[np.arange(n), peak] & fires
        row[name] = hit.mean()
        row[f"{name}_low"], row[f"{name}_high"] = st.interval(hit @ weights / weights.sum(0))
        row[f"chance_{name}"] = ((touched * breast).sum(1) / breast.sum(1)).mean()
        crossed = touched[:, peak].T & fires[:, None]
        row[f"shuffled_{name}"] = float(_paired(crossed, moves).mean())
    return row


def _auprc(
    z: np.ndarray, mask: np.ndarray, breast: np.ndarray, weights: np.ndarray
) -> tuple[float, float, float]:
    """Return the AUPRC over all cells, and its interval.

    The inactive cells of an image all have score 0, so they are counted together as one item.
    """
    image, cell = np.nonzero(z)
    score = np.append(z[image, cell], np.zeros(len(z)))
    quiet = z == 0
    positive = np.append(mask[image, cell], (mask * quiet).sum(1))
    total = np.append(breast[image, cell], (breast * quiet).sum(1))
    owner = np.append(image, np.arange(len(z)))
    step = max(1, 2_000_000 // len(owner))
    draws = [
        mass_auprc(
            score,
            positive[:, None] * weights[owner, start : start + step],
            total[:, None] * weights[owner, start : start + step],
        )
        for start in range(0, weights.shape[1], step)
    ]
    low, high = st.interval(np.concatenate(draws))
    return mass_auprc(score, positive, total), low, high


def mass_auprc(scores: np.ndarray, positive: np.ndarray, total: np.ndarray) -> Any:
    """Return the average precision of n items with a weight `total`, of which a part is positive.

    It equals the AUPRC over the pixels of a map with constant values in each cell. Weights [n] give
    a float, weights [n, draws] give [draws].
    """
    single = positive.ndim == 1
    parts = [part[:, None] if single else part for part in (positive, total)]
    result = st._average_precision(scores, *parts)
    return float(result[0]) if single else result


def _paired(crossed: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Return [draws, n]: in each draw, the entry of `crossed` [n, n] for image i and its mask."""
    return crossed[np.arange(len(crossed))[None], moves]


def _lift(inside: np.ndarray, spread: np.ndarray, moves: np.ndarray) -> np.ndarray:
    share, extent = _paired(inside, moves).sum(1), _paired(spread, moves).sum(1)
    return np.divide(share, extent, out=np.full(len(moves), np.nan), where=extent > 0)
