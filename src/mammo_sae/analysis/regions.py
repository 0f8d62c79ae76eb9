"""Where latents fire besides the lesion: their activation on regions that are found in the image.

The regions are those of `mammo_sae.images.landmarks`. They are found again in each job, so only a
limited number of images is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis import cells
from mammo_sae.errors import counted
from mammo_sae.grids import LayerGrid, cell_areas
from mammo_sae.images.landmarks import LANDMARKS, landmarks
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.images import IMAGES_PER_SHARD, ImageReader

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import AlignmentSettings

COLUMNS = [
    *("concept", "latent", "split", "region", "images", "fires", "extent", "energy_inside"),
    *("energy_lift", "energy_lift_low", "energy_lift_high", "reason"),
]


def region_table(
    settings: AlignmentSettings,
    reader: CodesReader,
    store: ImageReader,
    cases: pd.DataFrame,
    ranked: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    """Return a row per concept, latent of `ranked` [k] and region.

    ``energy_inside`` is the mean share of a latent's activation inside the region, ``extent`` the
    mean share of the image that the region covers, and ``energy_lift`` their ratio. All three are
    over the images with the region in which the latent fires. The images are those of whole
    patients of the confirmation split, at most `settings.region_images`, with any label.
    """
    every = np.flatnonzero((cases["split"] == settings.confirmation).to_numpy(dtype=bool))
    patients = cases["patient_id"].to_numpy()
    images = case.whole_patients(patients, every, settings.region_images)
    covered, extent = _covered(store, cases.iloc[images], reader.grid)
    latents = np.unique(np.concatenate([np.empty(0, np.int64), *ranked.values()]))
    share = np.zeros((len(LANDMARKS), len(images), len(latents)))
    fires = np.zeros((len(images), len(latents)), bool)
    for rows, active in cells.stream_active(reader, images, latents):
        for image in range(rows.start, rows.stop):
            which, cell, value = active.of(image - rows.start)
            total = np.bincount(which, value, len(latents))
            fires[image] = total > 0
            for r in range(len(LANDMARKS)):
                inside = np.bincount(which, value * covered[r, image, cell], len(latents))
                np.divide(inside, total, out=share[r, image], where=total > 0)
    parts = []
    for r, name in enumerate(LANDMARKS):
        has = extent[r] > 0
        part = _rows(settings, share[r, has], fires[has], extent[r, has], patients[images[has]])
        for concept, own in ranked.items():
            mine = part.iloc[np.searchsorted(latents, own)].assign(region=name, concept=concept)
            parts.append(mine.assign(latent=own))
    table = pd.concat(parts, ignore_index=True).assign(split=settings.confirmation)
    order = table["concept"].map({concept: place for place, concept in enumerate(ranked)})
    table = table.assign(order=order).sort_values(["order", "latent"], kind="stable")
    return table.reindex(columns=COLUMNS).reset_index(drop=True)


def _covered(
    store: ImageReader, cases: pd.DataFrame, grid: LayerGrid
) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of each cell [r, n, cells] and image [r, n] that each landmark covers."""
    covered = np.zeros((len(LANDMARKS), len(cases), grid.rows * grid.columns), np.float32)
    extent = np.zeros((len(LANDMARKS), len(cases)))
    ids, views = cases["image_id"].tolist(), cases["view"].tolist()
    for start in range(0, len(ids), IMAGES_PER_SHARD):
        part = ids[start : start + IMAGES_PER_SHARD]
        both = zip(store.pixels(part), store.breast(part), strict=True)
        for image, (pixels, breast) in enumerate(both, start):
            for name, mask in landmarks(pixels, breast, views[image]).items():
                region = LANDMARKS.index(name)
                covered[region, image] = cell_areas(mask, grid).ravel() / grid.stride**2
                extent[region, image] = mask.mean()
    return covered, extent


def _rows(
    settings: AlignmentSettings,
    share: np.ndarray,
    fires: np.ndarray,
    extent: np.ndarray,
    patients: np.ndarray,
) -> pd.DataFrame:
    """Return the scores of latents from `share` and `fires` [n, m] and `extent` [n]."""
    drawn = st.PatientDraws(patients, settings.bootstrap_draws, settings.seed)
    covered, count = extent[:, None] * fires, fires.sum(axis=0)
    inside, area = (values.sum(axis=0, dtype=np.float64) for values in (share, covered))
    low, high = st.interval(
        drawn.of(lambda weights: _ratio(share.T @ weights, covered.T @ weights))
    )
    number = [len(np.unique(patients[here])) for here in fires.T]
    few = np.array(number, dtype=int) < st.MIN_POSITIVES
    scores = {
        "extent": _ratio(area, count),
        "energy_inside": inside / np.maximum(count, 1),
        "energy_lift": _ratio(inside, area),
        "energy_lift_low": low,
        "energy_lift_high": high,
    }
    reasons = [
        f"fires in images of {counted(n, 'patient')} with the region, fewer than {st.MIN_POSITIVES}"
        for n in number
    ]
    return pd.DataFrame(
        {
            "images": len(share),
            "fires": count / max(len(share), 1),
            **{name: np.where(few, np.nan, values) for name, values in scores.items()},
            "reason": np.where(few, reasons, ""),
        }
    )


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
