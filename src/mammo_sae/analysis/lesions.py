"""Lesions of a split on a layer's grid, and scores of maps by the size of the lesion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis import cells
from mammo_sae.analysis.map_scores import Lesions, MapScores
from mammo_sae.errors import counted
from mammo_sae.grids import LayerGrid
from mammo_sae.stores.images import ImageReader

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import ResamplingSettings

ALL = "all"
SIZES = ("small", "medium", "large")
MM2, SHARE = "mm2", "share of the breast"
_BLOCK = 256  # images whose masks are on the layer's grid at a time


@dataclass(frozen=True)
class Found:
    """The images of a split that are positive for a concept and have a mask of it.

    Attributes
    ----------
    positions : [n]
        Positions among the cases.
    masks
        The masks on the layer's grid.
    patients, views : [n]
    areas, breasts : [n]
        Areas in pixels of the mask and of the breast.
    spacing : [n]
        Edge of a pixel in mm; NaN: unknown.
    view_breast
        For each view, the sum over its images of the breast's area in each cell, [cells].
    reason
        Why nothing can be scored, or ``""``.
    """

    positions: np.ndarray
    masks: Lesions
    patients: np.ndarray
    views: np.ndarray
    areas: np.ndarray
    breasts: np.ndarray
    spacing: np.ndarray
    view_breast: Mapping[str, np.ndarray]
    reason: str

    def __len__(self) -> int:
        return len(self.positions)

    def taken(self, images: np.ndarray) -> Found:
        """Return the images at the positions `images` of this object, without `view_breast`."""
        return Found(
            positions=self.positions[images],
            masks=self.masks.taken(images),
            patients=self.patients[images],
            views=self.views[images],
            areas=self.areas[images],
            breasts=self.breasts[images],
            spacing=self.spacing[images],
            view_breast={},
            reason=self.reason,
        )


def positives(cases: pd.DataFrame, concept: str, split: str) -> np.ndarray:
    """Return the positions of the images of `split` that are positive for `concept`."""
    every = case.labelled_images(cases, concept, split)
    return every[case.labels(cases, concept, every)]


def find_lesions(
    store: ImageReader, cases: pd.DataFrame, concept: str, split: str, grid: LayerGrid
) -> Found:
    """Return the images of `split` with a mask of `concept` inside the breast.

    The masks are read some images at a time, and only the cells that they touch are kept.
    """
    wanted = positives(cases, concept, split)
    ids, view = cases["image_id"].to_numpy(), cases["view"].to_numpy()
    known = concept in store.regions
    kept: list[np.ndarray] = []
    masks = [Lesions(np.zeros((0, grid.rows, grid.columns), np.float32))]
    areas = [np.zeros((0, 2))]
    total: dict[str, np.ndarray] = {}
    for start in range(0, len(wanted) if known else 0, _BLOCK):
        part = wanted[start : start + _BLOCK]
        breast, region, whole = cells.measured_areas(store, ids[part], [concept], grid)
        has = np.minimum(region[:, 0], breast).sum(axis=(1, 2)) > 0
        kept.append(part[has])
        masks.append(Lesions(region[has, 0]))
        areas.append(whole[has])
        for position, own in zip(part[has], breast[has], strict=True):
            name = view[position]
            total[name] = total.get(name, 0.0) + own.ravel().astype(np.float64)
    positions = np.concatenate([wanted[:0], *kept])
    patients = cases["patient_id"].to_numpy()[positions]
    count = len(np.unique(patients))
    reason = ""
    if not known:
        reason = f"no mask or box of {concept} in the images"
    elif count < st.MIN_POSITIVES:
        reason = (
            f"{counted(count, 'patient')} with a mask of {concept}, fewer than {st.MIN_POSITIVES}"
        )
    sizes = np.concatenate(areas)
    return Found(
        positions=positions,
        masks=Lesions.joined(masks),
        patients=patients,
        views=view[positions],
        areas=sizes[:, 1],
        breasts=sizes[:, 0],
        spacing=store.spacing_mm(ids[positions].tolist()),
        view_breast=total,
        reason=reason,
    )


def mean_masks(
    store: ImageReader, cases: pd.DataFrame, concept: str, split: str, grid: LayerGrid
) -> dict[str, np.ndarray]:
    """Return, for each view, the mean area of masks in each cell [cells], over positive images."""
    wanted = positives(cases, concept, split)
    ids, view = cases["image_id"].to_numpy(), cases["view"].to_numpy()
    total: dict[str, np.ndarray] = {}
    for start in range(0, len(wanted), _BLOCK):
        part = wanted[start : start + _BLOCK]
        _, region = cells.image_areas(store, ids[part], [concept], grid)
        for position, own in zip(part, region[:, 0], strict=True):
            name = view[position]
            total[name] = total.get(name, 0.0) + own.ravel().astype(np.float64)
    return {
        name: (value / (view[wanted] == name).sum()).astype(np.float32)
        for name, value in total.items()
    }


def unit_of_sizes(found: list[Found]) -> str:
    """Return the unit of lesion sizes: mm2 if the spacing of all images is known, else a share."""
    known = all(np.isfinite(one.spacing).all() for one in found)
    return MM2 if known else SHARE


def lesion_sizes(found: Found, unit: str) -> np.ndarray:
    """Return [n]: the area of each image's mask, in mm2 or as a share of the breast."""
    return found.areas * found.spacing**2 if unit == MM2 else found.areas / found.breasts


def size_limits(sizes: np.ndarray) -> np.ndarray:
    """Return the two limits between small, medium and large lesions: the tertiles of `sizes`."""
    if not len(sizes):
        return np.full(len(SIZES) - 1, np.nan)
    return np.quantile(sizes, np.arange(1, len(SIZES)) / len(SIZES))


class ScoresBySize:
    """Scores of maps on all images of `found`, and of some of them by the size of the lesion.

    Parameters
    ----------
    thresholds : [maps]
        As in `MapScores`.
    sized : [s]
        The maps that are also scored by size.
    sizes : [n]
    limits
        Limits between the groups of `SIZES`.
    """

    def __init__(
        self,
        settings: ResamplingSettings,
        found: Found,
        thresholds: np.ndarray,
        grid: LayerGrid,
        sized: np.ndarray,
        sizes: np.ndarray,
        limits: np.ndarray,
    ) -> None:
        cell = float(grid.stride**2)
        self._all = MapScores(settings, found.masks, found.patients, found.views, thresholds, cell)
        self._sized, self._sizes = sized, sizes
        self._place = np.full(len(thresholds), -1)
        self._place[sized] = np.arange(len(sized))
        self._group = np.searchsorted(limits, sizes, side="right")
        self._within = np.zeros(len(found), np.int64)
        self._groups = []
        for g in range(len(SIZES)):
            images = np.flatnonzero(self._group == g)
            self._within[images] = np.arange(len(images))
            self._groups.append(
                MapScores(
                    settings,
                    found.masks.taken(images),
                    found.patients[images],
                    found.views[images],
                    thresholds[sized],
                    cell,
                    shuffled=False,
                )
            )

    def add(
        self,
        image: int,
        which: np.ndarray,
        cell: np.ndarray,
        value: np.ndarray,
        breast: np.ndarray,
    ) -> None:
        """Add the maps of one image, as in `MapScores.add`."""
        self._all.add(image, which, cell, value, breast)
        place = self._place[which]
        mine = place >= 0
        group = self._groups[self._group[image]]
        group.add(int(self._within[image]), place[mine], cell[mine], value[mine], breast)

    def rows(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the scores on all images, one row per map, and those by size.

        The second table has a row per size and map of `sized`, with the columns `map`, `size`,
        `size_low` and `size_high` (smallest and largest lesion), and `images`.
        """
        everything = pd.DataFrame(self._all.rows())
        parts = [self._labelled(ALL, everything.iloc[self._sized], self._sizes)]
        for g, (name, scores) in enumerate(zip(SIZES, self._groups, strict=True)):
            part = pd.DataFrame(scores.rows())
            parts.append(self._labelled(name, part, self._sizes[self._group == g]))
        return everything, pd.concat(parts, ignore_index=True)

    def _labelled(self, name: str, rows: pd.DataFrame, sizes: np.ndarray) -> pd.DataFrame:
        rows = rows.reset_index(drop=True)
        rows.insert(0, "map", self._sized)
        rows.insert(1, "size", name)
        rows.insert(2, "size_low", sizes.min() if len(sizes) else np.nan)
        rows.insert(3, "size_high", sizes.max() if len(sizes) else np.nan)
        return rows
