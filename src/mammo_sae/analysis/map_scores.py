"""Scores of maps against the masks of lesions, image by image.

The weight of a cell is the cell's area inside the breast. The positive part of this weight is the
area that the mask covers. So every score equals the score over pixels of a map that is constant
inside each cell.

- ``auprc``: average precision over breast pixels, mask against rest.
- ``pooled_iou``: intersection over union, summed over images, of the mask and the cells above a
  threshold (Network Dissection, Bau et al. 2017).
- ``energy_lift``: mean share of an image's activation inside the mask, divided by the mean share of
  the breast that the mask covers, over images in which the map is not 0 (energy-based pointing
  game, Wang et al. 2020).
- ``pointing``: share of images whose highest cell touches the mask (pointing game, Zhang et al.
  2016); ``pointing_near`` also accepts the cell's eight neighbours. An image without activation is
  a miss.

``chance_*`` is the expected score of a map that does not depend on the mask. ``shuffled_*`` is the
mean score after masks are exchanged between patients' images of the same view. These exchanges also
give the p-value of the energy lift.

No array grows with images x cells: maps are added image by image, and masks hold only the cells
that a lesion touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.ndimage import maximum_filter

from mammo_sae import statistics as st
from mammo_sae.analysis.exchange import PatientExchanges
from mammo_sae.analysis.streamed import AveragePrecisions
from mammo_sae.errors import counted

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import ResamplingSettings

MEASURES = ("auprc", "pooled_iou", "energy_lift", "pointing", "pointing_near")
# The first of these columns would always be 1. The other two are not computed.
NO_BASELINE = ("chance_energy_lift", "chance_pooled_iou", "shuffled_auprc")


class Lesions:
    """The masks of images on a layer's grid of `shape`. Only cells that a mask touches are kept.

    Attributes
    ----------
    areas : sparse [n, cells] float32
        Area in pixels of the mask in each cell, including its parts outside the breast.
    near : sparse [n, cells] bool
        Cells that the mask touches, and their eight neighbours.
    """

    def __init__(self, regions: np.ndarray) -> None:
        """Take the areas `regions` [n, R, C] of masks in cells."""
        near = maximum_filter(regions > 0, size=(1, 3, 3))
        shape = len(regions), int(np.prod(regions.shape[1:]))
        self.areas = sp.csr_array(regions.reshape(shape).astype(np.float32))
        self.near = sp.csr_array(near.reshape(shape))

    def __len__(self) -> int:
        return int(self.areas.shape[0])

    @staticmethod
    def joined(parts: list[Lesions]) -> Lesions:
        """Return the images of all `parts`, in order."""
        result = object.__new__(Lesions)
        result.areas = sp.csr_array(sp.vstack([part.areas for part in parts]))
        result.near = sp.csr_array(sp.vstack([part.near for part in parts]))
        return result

    def taken(self, images: np.ndarray) -> Lesions:
        """Return the images at the positions `images`."""
        result = object.__new__(Lesions)
        result.areas, result.near = self.areas[images], self.near[images]
        return result


class MapScores:
    """Scores of `maps` maps on the images of `lesions`. The images are added one by one.

    Parameters
    ----------
    patients, views : [n]
    thresholds : [maps]
        Cells above a map's threshold count for the pooled IoU.
    cell : float
        Area of a whole cell in pixels.
    shuffled
        Whether masks are exchanged, which gives the columns ``shuffled_*`` and the p-value.
    """

    def __init__(
        self,
        settings: ResamplingSettings,
        lesions: Lesions,
        patients: np.ndarray,
        views: np.ndarray,
        thresholds: np.ndarray,
        cell: float,
        *,
        shuffled: bool = True,
    ) -> None:
        self._lesions, self._cell = lesions, cell
        self._thresholds = np.asarray(thresholds, dtype=np.float64)
        self._maps = maps = len(self._thresholds)
        drawn = st.PatientDraws(patients, settings.bootstrap_draws, settings.seed)
        self._patient = drawn.patient
        # The first column counts every patient once.
        once = np.ones((len(drawn.times), 1))
        self._weights = np.concatenate([once, drawn.times], axis=1, dtype=np.float32)
        self._images = np.bincount(self._patient, minlength=len(once)) @ self._weights
        self._curves = AveragePrecisions(maps, self._patient, self._weights)
        names = ("fires", "share", "extent", "inter", "area", "pointing", "pointing_near")
        self._sums = {name: np.zeros((maps, self._weights.shape[1])) for name in names}
        self._fired = np.zeros((maps, len(once)), bool)
        self._breast = self._mask = 0.0
        self._chance = {"pointing": 0.0, "pointing_near": 0.0}
        self._observed = np.zeros((2, maps))  # share and extent with each image's own mask
        self._moves = None
        if shuffled:
            self._moves = PatientExchanges(
                patients, settings.permutation_draws, settings.seed, within=views
            )
            self._unmoved = self._moves.why_too_few
            self._drawn = np.zeros((3, len(self._moves), maps))  # share, extent, intersection
            self._hits = {"pointing": np.zeros(maps), "pointing_near": np.zeros(maps)}

    def add(
        self,
        image: int,
        which: np.ndarray,
        cell: np.ndarray,
        value: np.ndarray,
        breast: np.ndarray,
    ) -> None:
        """Add the maps of one image: the cells with values above 0.

        Parameters
        ----------
        image
            Position in `lesions`.
        which, cell, value : [a]
            Map, cell and value.
        breast : [cells]
            Area of the breast in each cell, in pixels.
        """
        breast = breast.astype(np.float64)
        inside = breast[cell] > 0
        which, cell, value = which[inside], cell[inside], value[inside].astype(np.float64)
        region = self._lesions.areas[[image]].toarray()[0].astype(np.float64)
        mask, area = np.minimum(region, breast), breast[cell]
        whole, covered = breast.sum(), mask.sum()
        self._breast += whole
        self._mask += covered
        energy = self._sum(which, value * area)
        fires = energy > 0
        self._fired[fires, self._patient[image]] = True
        on = value > self._thresholds[which]
        inter = self._sum(which[on], mask[cell[on]])
        scale = np.divide(1.0, energy, out=np.zeros(self._maps), where=fires)
        peak = self._peaks(which, cell, value)
        near = self._lesions.near[[image]].toarray()[0]
        added = {
            "fires": fires,
            "share": self._sum(which, value * mask[cell]) * scale,
            "extent": fires * (covered / whole),
            "inter": inter,
            "area": self._sum(which[on], area[on]) + covered,
            "pointing": (region > 0)[peak] & fires,
            "pointing_near": near[peak] & fires,
        }
        for name, values in added.items():
            self._sums[name] += values[:, None] * self._weights[self._patient[image]]
        for name, touched in (("pointing", region > 0), ("pointing_near", near)):
            self._chance[name] += (touched * breast).sum() / whole
        self._add_to_curves(image, which, cell, value, mask, breast)
        if self._moves is not None:
            moved = region / self._cell
            self._observed[0] += self._sum(which, value * area * moved[cell]) * scale
            self._observed[1] += fires * ((breast * moved).sum() / whole)
            self._shuffle(image, which, cell, value * area * scale[which], on, breast, peak, fires)

    def _sum(self, which: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.bincount(which, weights=values, minlength=self._maps)

    def _peaks(self, which: np.ndarray, cell: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Return each map's cell of highest value, the first of several; 0 without a cell."""
        order = np.lexsort((cell, -value, which))
        maps, first = np.unique(which[order], return_index=True)
        peak = np.zeros(self._maps, np.int64)
        peak[maps] = cell[order[first]]
        return peak

    def _add_to_curves(
        self,
        image: int,
        which: np.ndarray,
        cell: np.ndarray,
        value: np.ndarray,
        mask: np.ndarray,
        breast: np.ndarray,
    ) -> None:
        """Add the cells, and the image's other cells, which have value 0, as one cell per map."""
        every = np.arange(self._maps)
        positive, total = mask[cell], breast[cell]
        self._curves.add(
            np.append(which, every),
            np.full(len(which) + self._maps, image),
            np.append(value, np.zeros(self._maps)),
            np.append(positive, mask.sum() - self._sum(which, positive)),
            np.append(total, breast.sum() - self._sum(which, total)),
        )

    def _shuffle(
        self,
        image: int,
        which: np.ndarray,
        cell: np.ndarray,
        share: np.ndarray,
        on: np.ndarray,
        breast: np.ndarray,
        peak: np.ndarray,
        fires: np.ndarray,
    ) -> None:
        """Add the image with the mask that it gets in each draw."""
        assert self._moves is not None
        others, draw = np.unique(self._moves.of(image), return_inverse=True)
        counts = np.bincount(draw)
        areas = self._lesions.areas[others].astype(np.float64) * (1 / self._cell)
        active, column = np.unique(which, return_inverse=True)
        size = len(active)
        shares = np.zeros((len(breast), 2 * size + 1))
        shares[cell, column] = share
        shares[cell[on], size + column[on]] = breast[cell[on]]
        shares[:, -1] = breast / breast.sum()
        product = (areas @ shares)[draw]
        self._drawn[0][:, active] += product[:, :size]
        self._drawn[1] += product[:, -1:] * fires
        self._drawn[2][:, active] += product[:, size:-1]
        for name, touched in (("pointing", areas), ("pointing_near", self._lesions.near[others])):
            times = np.repeat(counts, np.diff(touched.indptr))
            hits = np.bincount(touched.indices, weights=times, minlength=len(breast))
            self._hits[name] += hits[peak] * fires

    def rows(self) -> list[dict[str, Any]]:
        """Return each map's row: its scores, intervals and baselines, or the reason for none."""
        curves = self._curves.result()
        return [self._row(m, curves[m]) for m in range(self._maps)]

    def _row(self, m: int, curve: np.ndarray) -> dict[str, Any]:
        n = len(self._lesions)
        sums = {name: values[m] for name, values in self._sums.items()}
        row: dict[str, Any] = {
            "images": n,
            "fires": sums["fires"][0] / n if n else np.nan,
            "reason": too_rare(int(self._fired[m].sum())),
        }
        if row["reason"]:
            return row
        union = sums["area"] - sums["inter"]
        drawn = {
            "auprc": curve,
            "pooled_iou": sums["inter"] / union,
            "energy_lift": _ratio(sums["share"], sums["extent"]),
            "pointing": sums["pointing"] / self._images,
            "pointing_near": sums["pointing_near"] / self._images,
        }
        for name, values in drawn.items():
            row[name] = float(values[0])
            row[f"{name}_low"], row[f"{name}_high"] = st.interval(values[1:])
        row["energy_inside"] = sums["share"][0] / sums["fires"][0]
        row["chance_auprc"] = self._mask / self._breast
        for name, total in self._chance.items():
            row[f"chance_{name}"] = total / n
        if self._moves is not None and self._unmoved:
            row["reason"] = f"no p: {self._unmoved}"
        elif self._moves is not None:
            inter = self._drawn[2][:, m]
            row["shuffled_pooled_iou"] = float((inter / (sums["area"][0] - inter)).mean())
            lifts = _ratio(self._drawn[0][:, m], self._drawn[1][:, m])
            observed = _ratio(*self._observed[:, m : m + 1])[0]
            row["shuffled_energy_lift"] = float(np.nanmean(lifts))
            row["p"] = (1 + (lifts >= observed * (1 - 1e-9)).sum()) / (1 + len(lifts))
            for name, hits in self._hits.items():
                row[f"shuffled_{name}"] = hits[m] / (n * len(lifts))
        return row


def score_columns(kinds: Sequence[str]) -> list[str]:
    """Return the columns of scores in a fixed order, with the baselines `kinds`."""
    scored = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    baselines = [f"{kind}_{name}" for kind in kinds for name in MEASURES]
    columns = ["images", "fires", *scored, *baselines, "energy_inside", "p", "q", "reason"]
    return [column for column in columns if column not in NO_BASELINE]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def too_rare(patients: int) -> str:
    """Return why a map that is not 0 in images of so many patients has no scores, or ``""``."""
    if patients < st.MIN_POSITIVES:
        number = counted(patients, "patient")
        return f"fires in positive images of {number}, fewer than {st.MIN_POSITIVES}"
    return ""
