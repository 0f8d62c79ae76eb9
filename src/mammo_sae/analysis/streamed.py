"""Thresholds and average precisions of many maps, from cells that come image by image.

A layer of 20,000 images has tens of millions of cells, so their values are not kept. Both classes
are exact while few values have come. Then they round values, and their memory stays bounded.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

THRESHOLD_VALUES = 4_000_000  # different values of all maps that are kept for thresholds
CURVE_CELLS = 4_000_000  # cells of all maps that are kept for average precisions
LEVELS = 512  # levels of a map's values after its cells are no longer kept
_PENDING = 2_000_000  # values that are collected before they are merged
_TABLE = 2_000_000  # numbers in a table of levels and draws


def upper_quantile(values: np.ndarray, areas: np.ndarray, kept: float) -> float:
    """Return the smallest threshold at which at most the area `kept` has values above it."""
    order = np.argsort(-values, kind="stable")
    above = np.cumsum(areas[order], dtype=np.float64)
    beyond = int(np.searchsorted(above, kept, side="right"))
    return float(values[order][beyond]) if beyond < len(values) else 0.0


class UpperQuantiles:
    """Thresholds of `maps` maps, above which the maps have a given area.

    Equal values of a map are merged. If more than `THRESHOLD_VALUES` different values are left,
    the maps with the most values are rounded up to fewer binary digits. With 240 maps, the relative
    error of a threshold is then below 0.005.
    """

    def __init__(self, maps: int) -> None:
        self._maps = maps
        self._dropped = np.zeros(maps, np.uint64)  # number of binary digits that are not kept
        self._key, self._area = np.empty(0, np.uint64), np.empty(0)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._count = 0

    def add(self, which: np.ndarray, value: np.ndarray, area: np.ndarray) -> None:
        """Add cells: the map, the value (above 0) and the area of each, all [cells]."""
        # The bits of positive floats have the order of the floats.
        bits = value.astype(np.float32).view(np.uint32).astype(np.uint64)
        key = (which.astype(np.uint64) << np.uint64(32)) | bits
        self._pending.append((key, area.astype(np.float64)))
        self._count += len(key)
        if self._count > _PENDING:
            self._merge()

    def thresholds(self, kept: float) -> np.ndarray:
        """Return float32 [maps]: the smallest thresholds with at most the area `kept` above."""
        self._merge()
        ends = np.searchsorted(self._key, np.arange(self._maps + 1, dtype=np.uint64) << 32)
        result = np.zeros(self._maps, np.float32)
        for m in range(self._maps):
            mine = slice(ends[m], ends[m + 1])
            values = self._key[mine].astype(np.uint32).view(np.float32)
            result[m] = upper_quantile(values, self._area[mine], kept)
        return result

    def _merge(self) -> None:
        keys, areas = zip((self._key, self._area), *self._pending, strict=True)
        self._pending, self._count = [], 0
        key, area = np.concatenate(keys), np.concatenate(areas)
        while True:
            lost = (np.uint64(1) << self._dropped[key >> np.uint64(32)]) - np.uint64(1)
            key |= lost
            order = np.argsort(key, kind="stable")
            key, area = key[order], area[order]
            first = np.flatnonzero(np.append(True, np.diff(key) != 0)[: len(key)])
            key, area = key[first], np.add.reduceat(area, first) if len(first) else area
            if len(key) <= THRESHOLD_VALUES:
                break
            sizes = np.bincount((key >> np.uint64(32)).astype(np.int64), minlength=self._maps)
            self._dropped[sizes > THRESHOLD_VALUES / (2 * self._maps)] += np.uint64(1)
        self._key, self._area = key, area


class AveragePrecisions:
    """Average precisions of `maps` maps, for each column of `weights` [patients, draws].

    A cell has a score, an area, and a positive area, and belongs to an image. `patient` [n] is the
    patient of each image. The average precision is that of the pixels of a map with constant scores
    in each cell, with areas that are multiplied by the weight of the patient.

    If more than `CURVE_CELLS` cells have come, maps with many of them keep only the areas at
    `LEVELS` quantiles of the scores of their positive cells. Scores between two quantiles are then
    ties.
    """

    def __init__(self, maps: int, patient: np.ndarray, weights: np.ndarray) -> None:
        self._patient, self._weights = patient, weights
        self._cells: list[tuple[np.ndarray, ...]] = []
        self._count = 0
        self._tables: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._maps = maps

    def add(
        self,
        which: np.ndarray,
        image: np.ndarray,
        score: np.ndarray,
        positive: np.ndarray,
        total: np.ndarray,
    ) -> None:
        """Add cells: their maps, images, scores (0 or more), positive areas and areas."""
        part = (which.astype(np.int32), self._patient[image].astype(np.int32))
        areas = (score.astype(np.float32), positive.astype(np.float32), total.astype(np.float32))
        self._cells.append((*part, *areas))
        self._count += len(which)
        if self._count > CURVE_CELLS:
            self._reduce()

    def result(self) -> np.ndarray:
        """Return [maps, draws]; NaN without positive area."""
        result = np.full((self._maps, self._weights.shape[1]), np.nan)
        for m, cells in self._by_map():
            if m in self._tables:
                self._add_to_table(m, cells)
            else:
                edges = np.unique(cells[1][cells[2] > 0])
                result[m] = self._precision(edges, *cells)
        for m, (_, positive, total) in self._tables.items():
            result[m] = _from_levels(positive, total)
        return result

    def _by_map(self) -> list[tuple[int, tuple[np.ndarray, ...]]]:
        """Return the kept cells of each map: patient, score, positive area, area."""
        if not self._cells:
            return []
        which, *rest = (np.concatenate(part) for part in zip(*self._cells, strict=True))
        order = np.argsort(which, kind="stable")
        rest = [part[order] for part in rest]
        ends = np.searchsorted(which[order], np.arange(self._maps + 1))
        self._cells, self._count = [], 0
        return [
            (m, tuple(part[ends[m] : ends[m + 1]] for part in rest))
            for m in range(self._maps)
            if ends[m + 1] > ends[m]
        ]

    def _reduce(self) -> None:
        """Move the cells of maps with many cells into tables."""
        few = CURVE_CELLS / (2 * self._maps)
        for m, cells in self._by_map():
            if m in self._tables or len(cells[0]) > few:
                self._add_to_table(m, cells)
            else:
                which = np.full(len(cells[0]), m, np.int32)
                self._cells.append((which, *cells))
                self._count += len(which)

    def _add_to_table(self, m: int, cells: tuple[np.ndarray, ...]) -> None:
        if m not in self._tables:
            found = cells[1][cells[2] > 0]
            # Levels are close together at the top, where the precision varies most.
            ranks = 1 - np.geomspace(1 / max(2, len(found)), 1, LEVELS)
            levels = np.quantile(found, ranks) if len(found) else []
            edges = np.unique(np.append(np.float32(0), levels).astype(np.float32))
            nothing = np.zeros((len(edges), self._weights.shape[1]))
            self._tables[m] = edges, nothing, nothing.copy()
        edges, positive, total = self._tables[m]
        patient, score, positives, totals = cells
        level = np.searchsorted(edges, score, side="right") - 1
        positive += self._masses(level, patient, positives, len(edges)) @ self._weights
        total += self._masses(level, patient, totals, len(edges)) @ self._weights

    def _precision(
        self,
        edges: np.ndarray,
        patient: np.ndarray,
        score: np.ndarray,
        positives: np.ndarray,
        totals: np.ndarray,
    ) -> np.ndarray:
        """Return the average precision [draws] with a level for each positive score `edges`.

        Cells without positive area count at the next lower score of a positive cell. Those below
        all positive cells do not change the average precision.
        """
        level = np.searchsorted(edges, score, side="right") - 1
        seen = level >= 0
        level, patient = level[seen], patient[seen]
        positive = self._masses(level, patient, positives[seen], len(edges))
        total = self._masses(level, patient, totals[seen], len(edges))
        step = max(1, _TABLE // max(1, len(edges)))
        parts = [
            _from_levels(positive @ weights, total @ weights)
            for weights in (
                self._weights[:, start : start + step]
                for start in range(0, self._weights.shape[1], step)
            )
        ]
        return np.concatenate(parts)

    def _masses(
        self, level: np.ndarray, patient: np.ndarray, area: np.ndarray, levels: int
    ) -> sp.csr_array:
        """Return the areas [levels, patients] of cells."""
        shape = (levels, len(self._weights))
        return sp.coo_array((area.astype(np.float64), (level, patient)), shape=shape).tocsr()


def _from_levels(positive: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the average precision [draws] from areas [levels, draws], lowest level first."""
    steps = positive[::-1]
    found = np.cumsum(steps, axis=0)
    called = np.cumsum(total[::-1], axis=0)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    everything = found[-1] if len(found) else np.zeros(positive.shape[1])
    return np.divide(
        (steps * precision).sum(axis=0),
        everything,
        out=np.full(len(everything), np.nan),
        where=everything > 0,
    )
