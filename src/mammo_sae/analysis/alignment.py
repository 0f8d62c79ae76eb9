"""Step: measure whether latents fire on the lesion, from their maps and the lesion masks.

The images are those of a split that are positive for a concept and have a mask of it. The scores
and their baselines are those of `mammo_sae.analysis.map_scores`. The cells above a latent's
threshold hold the share `quantile` of all breast area of the split. ``matched_*`` is the mean score
of random latents with a similar firing rate.

The table `alignment` has the scores on the confirmation split. The matched latents (``selection`` =
matched) and a map of lesion locations in the discovery split (``selection`` = prior) have rows of
their own. The table `alignment_by_size` has the ranked latents on all of `splits`, for all lesions
and for small, medium and large ones. The table `regions` has their activation on regions that are
found in the image (`mammo_sae.analysis.regions`).

Memory does not grow with images x cells: one pass over the labelled images of a split gives the
thresholds, and one over the images with a mask of a concept gives its scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis import cells, lesions
from mammo_sae.analysis.map_scores import MEASURES, score_columns
from mammo_sae.analysis.regions import region_table
from mammo_sae.analysis.streamed import UpperQuantiles, upper_quantile
from mammo_sae.cohorts.regions import concept_regions
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import AlignmentSettings

_MATCHED_AMONG = 4  # number of candidates for each matched latent that is drawn
BY_SIZE = ("concept", "latent", "split", "size", "size_low", "size_high", "size_unit")


def run(
    settings: AlignmentSettings,
    *,
    identity: case.Identity,
    images: Path,
    image_stores: Sequence[Path],
    codes: Path,
    latents: Path,
    concepts: Sequence[str],
    output: Path,
    by_size: Path,
    regions: Path,
) -> list[Path]:
    """Compare latents' maps with the lesions' masks, against chance and random latents.

    Parameters
    ----------
    images
        Image table.
    image_stores
        Manifests of the canonical images, all shards.
    codes
        Manifest of the SAE's codes.
    latents
        Latents table of the same SAE, written by the step `latents`.
    concepts
        Columns of the image table.
    output
        Table to write (.parquet): a row per concept and latent.
    by_size
        Table to write: a row per concept, ranked latent, split and size of the lesion.
    regions
        Table to write: a row per concept, ranked latent and region found in the image.
    """
    reader = CodesReader(codes)
    store = ImageReader(image_stores, concept_regions(images))
    cases = case.read_cases(images, reader.image_ids)
    table = read_table(latents)
    chosen = {
        concept: choose(settings, table[table["concept"] == concept], concept)
        for concept in concepts
    }
    del table
    confirmation = Split(settings, reader, store, cases, settings.confirmation, chosen)
    rows, sized = zip(*(confirmation.rows(concept) for concept in concepts), strict=True)
    parts = [*(sized if settings.confirmation in settings.splits else ())]
    for name in settings.splits:
        if name != settings.confirmation and (cases["split"] == name).any():
            other = Split(settings, reader, store, cases, name, chosen, confirmation)
            parts += [other.rows(concept)[1] for concept in concepts]
    write_table(identity.label(pd.concat(rows, ignore_index=True)), output)
    nothing = pd.DataFrame(columns=[*BY_SIZE, *score_columns(("chance", "shuffled"))])
    write_table(identity.label(pd.concat(parts or [nothing], ignore_index=True)), by_size)
    ranked = {concept: one.ranked for concept, one in chosen.items()}
    found = region_table(settings, reader, store, cases, ranked)
    write_table(identity.label(found), regions)
    return [output, by_size, regions]


@dataclass(frozen=True)
class Chosen:
    """The latents of a concept: `ranked` [k], the latents `matched` [k, c] to each, and all."""

    ranked: np.ndarray
    matched: np.ndarray
    all: np.ndarray


def choose(settings: AlignmentSettings, table: pd.DataFrame, concept: str) -> Chosen:
    """Return the latents to test for `concept`; `table` is its part of the latents table."""
    ranked = case.top_latents(table, concept, settings.rankings, settings.top_latents)
    matched = matched_latents(table, ranked, settings.matched_latents, settings.seed)
    return Chosen(ranked, matched, np.unique(np.concatenate([ranked, matched.ravel()])))


def matched_latents(table: pd.DataFrame, ranked: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return [len(ranked), count] random latents with a similar firing rate, none of them ranked.

    Row i holds the latents drawn for ``ranked[i]``, from those that are nearest to it in the
    logarithm of the firing rate. If fewer than `count` latents can be drawn, there are fewer
    columns.
    """
    rng = np.random.default_rng(seed)
    rate = table.set_index("latent")["firing_rate"]
    free = rate[(rate > 0) & ~rate.index.isin(ranked)]
    count = min(count, len(free))
    result = np.empty((len(ranked), count), dtype=np.int64)
    for row, latent in enumerate(ranked):
        if not count:
            break
        distance = np.abs(np.log(free.to_numpy()) - np.log(max(rate[latent], 1e-12)))
        near = np.argsort(distance, kind="stable")[: _MATCHED_AMONG * count]
        result[row] = free.index.to_numpy()[rng.choice(near, count, replace=False)]
    return result


class Split:
    """The lesions of one split, and the scores of latents on them.

    With `confirmation`, which is the confirmation split, only ranked latents are scored, without
    the map of lesion locations. The limits between sizes are those of the confirmation split.
    """

    def __init__(
        self,
        settings: AlignmentSettings,
        reader: CodesReader,
        store: ImageReader,
        cases: pd.DataFrame,
        name: str,
        chosen: Mapping[str, Chosen],
        confirmation: Split | None = None,
    ) -> None:
        self._settings, self._reader, self._store, self._cases = settings, reader, store, cases
        self._name, self._chosen, self._confirmation = name, chosen, confirmation
        self.found = {
            concept: lesions.find_lesions(store, cases, concept, name, reader.grid)
            for concept in chosen
        }
        wanted = {
            concept: one.all if confirmation is None else one.ranked
            for concept, one in chosen.items()
            if not self.found[concept].reason
        }
        self._thresholds = latent_thresholds(settings, reader, store, cases, name, wanted)

    def rows(self, concept: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return a concept's rows of `alignment`, and those of `alignment_by_size`."""
        chosen, found, first = self._chosen[concept], self.found[concept], self._confirmation
        latents = chosen.all if first is None else chosen.ranked
        rows = pd.DataFrame({"concept": concept, "latent": pd.array(latents, "Int32")})
        ranked = np.flatnonzero(np.isin(latents, chosen.ranked))
        rows["selection"] = np.where(np.isin(latents, chosen.ranked), "ranked", "matched")
        if found.reason:
            sized = rows.iloc[ranked].assign(
                split=self._name, size=lesions.ALL, size_unit="", reason=found.reason
            )
            return _complete(rows.assign(reason=found.reason)), _by_size(sized)
        both = [found, *([first.found[concept]] if first is not None else [])]
        unit = lesions.unit_of_sizes(both)
        limits = lesions.size_limits(lesions.lesion_sizes(both[-1], unit))
        prior = self._prior(concept) if first is None else _Prior({}, 0.0)
        scores = lesions.ScoresBySize(
            self._settings,
            found,
            np.append(self._thresholds[concept], prior.threshold),
            self._reader.grid,
            ranked,
            lesions.lesion_sizes(found, unit),
            limits,
        )
        self._score(scores, found, latents, prior)
        everything, sized = scores.rows()
        sized.insert(0, "concept", concept)
        sized.insert(1, "latent", pd.array(latents[sized.pop("map")], "Int32"))
        sized = sized.assign(split=self._name, size_unit=unit)
        rows.loc[len(rows)] = [concept, pd.NA, "prior"]
        rows = pd.concat([rows, everything], axis=1)
        # If no latent fires in enough images, no measure exists and its columns are added here.
        rows = rows.reindex(columns=list(dict.fromkeys([*rows, *MEASURES, "p"])))
        if first is None:
            _add_matched(rows, chosen.ranked, chosen.matched)
        for table, tested in (
            (rows, rows["selection"] == "ranked"),
            (sized, sized["size"] == "all"),
        ):
            if "p" in table:
                table.loc[tested, "q"] = st.benjamini_hochberg(table.loc[tested, "p"])
        return _complete(rows), _by_size(sized)

    def _prior(self, concept: str) -> _Prior:
        """Return the map of lesion locations in the discovery split."""
        grid, found = self._reader.grid, self.found[concept]
        discovery, quantile = self._settings.discovery, self._settings.quantile
        maps = lesions.mean_masks(self._store, self._cases, concept, discovery, grid)
        views = list(found.view_breast)
        areas = np.concatenate([found.view_breast[view] for view in views])
        nothing = np.zeros(grid.rows * grid.columns, np.float32)
        values = np.concatenate([maps.get(view, nothing) for view in views])
        return _Prior(maps, upper_quantile(values, areas, quantile * areas.sum()))

    def _score(
        self,
        scores: lesions.ScoresBySize,
        found: lesions.Found,
        latents: np.ndarray,
        prior: _Prior,
    ) -> None:
        """Add the maps of `latents` and the map of lesion locations, image by image."""
        ids = self._cases["image_id"].to_numpy()
        for rows, active in cells.stream_active(self._reader, found.positions, latents):
            part = found.positions[rows]
            breast, _ = cells.image_areas(self._store, ids[part], [], self._reader.grid)
            for local in range(len(part)):
                image = rows.start + local
                which, cell, value = active.of(local)
                places, values = prior.cells(found.views[image])
                scores.add(
                    image,
                    np.append(which, np.full(len(places), len(latents))),
                    np.append(cell, places),
                    np.append(value, values),
                    breast[local].ravel(),
                )


def latent_thresholds(
    settings: AlignmentSettings,
    reader: CodesReader,
    store: ImageReader,
    cases: pd.DataFrame,
    split: str,
    wanted: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Return the thresholds [m] of each concept's latents `wanted`, over its labelled images.

    The cells above the threshold hold the share `settings.quantile` of the breast area. All
    concepts share one pass over the images.
    """
    if not wanted:
        return {}
    every = {concept: case.labelled_images(cases, concept, split) for concept in wanted}
    union = np.unique(np.concatenate(list(every.values())))
    latents = np.unique(np.concatenate(list(wanted.values())))
    upper = {concept: UpperQuantiles(len(own)) for concept, own in wanted.items()}
    total = dict.fromkeys(wanted, 0.0)
    ids = cases["image_id"].to_numpy()
    for rows, active in cells.stream_active(reader, union, latents):
        part = union[rows]
        breast, _ = cells.image_areas(store, ids[part], [], reader.grid)
        areas = breast.reshape(len(part), -1)
        area = areas[active.image, active.cell]
        for concept, own in wanted.items():
            known = np.isin(part, every[concept])
            total[concept] += float(areas[known].sum(dtype=np.float64))
            place = np.full(len(latents), -1)
            place[np.searchsorted(latents, own)] = np.arange(len(own))
            which = place[active.which]
            kept = (which >= 0) & (area > 0) & known[active.image]
            upper[concept].add(which[kept], active.value[kept], area[kept])
    return {
        concept: one.thresholds(settings.quantile * total[concept])
        for concept, one in upper.items()
    }


@dataclass(frozen=True)
class _Prior:
    """A map of lesion locations for each view, and its threshold.

    The value of a cell is its mean area inside the masks of the discovery split's positive images
    of the same view.
    """

    maps: Mapping[str, np.ndarray]
    threshold: float

    def cells(self, view: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells with a value above 0, and the values."""
        values = self.maps.get(view, np.zeros(0, np.float32))
        cell = np.flatnonzero(values)
        return cell, values[cell]


def _add_matched(rows: pd.DataFrame, ranked: np.ndarray, matched: np.ndarray) -> None:
    """Add to every ranked latent the mean scores of its matched latents."""
    place = {int(latent): i for i, latent in enumerate(rows["latent"][:-1])}
    for name in MEASURES:
        values = rows[name].to_numpy(dtype=np.float64)
        column = np.full(len(rows), np.nan)
        for latent, partners in zip(ranked, matched, strict=True):
            scores = values[[place[int(partner)] for partner in partners]]
            if not np.isnan(scores).all():
                column[place[int(latent)]] = np.nanmean(scores)
        rows[f"matched_{name}"] = column


def _complete(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `rows` with every column of `alignment`, NaN where nothing was measured."""
    kinds = ("chance", "shuffled", "matched")
    return rows.reindex(columns=["concept", "latent", "selection", *score_columns(kinds)])


def _by_size(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `rows` with every column of `alignment_by_size`, NaN where nothing was measured."""
    return rows.reindex(columns=[*BY_SIZE, *score_columns(("chance", "shuffled"))])
