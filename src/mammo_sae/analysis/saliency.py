"""Step: score Grad-CAM and integrated gradients against the lesion masks.

The maps are those of `mammo_sae.analysis.saliency_maps`, for an encoder's own head. They do not
depend on an SAE, so there is one table per encoder and layer. The scores are those of
`mammo_sae.analysis.map_scores`, with the same masks and exchanges as for latents. A map of both
methods exists only for a limited number of images at inner layers, where each needs runs of the
rest of the network. The cells above a map's threshold hold the share `quantile` of the breast area
of the images that are scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae.analysis import cases as case
from mammo_sae.analysis import cells, lesions
from mammo_sae.analysis.map_scores import score_columns
from mammo_sae.analysis.saliency_maps import METHODS, CutNetwork, saliency_maps
from mammo_sae.analysis.streamed import UpperQuantiles
from mammo_sae.cohorts.regions import concept_regions
from mammo_sae.encoders.batches import Batch
from mammo_sae.encoders.heads import load_head
from mammo_sae.encoders.network import load_encoder
from mammo_sae.encoders.plans.plan import HEAD, POOLED
from mammo_sae.grids import LayerGrid
from mammo_sae.progress import progress
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import SaliencySettings

FIRST = ("concept", "method", "split", "size", "size_low", "size_high", "size_unit")
MapBatch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # images, maps, breast, sums


def run(
    settings: SaliencySettings,
    *,
    encoder_name: str,
    layer: str,
    images: Path,
    image_stores: Sequence[Path],
    encoder: Path,
    head: Path,
    embeddings: Sequence[Path],
    concepts: Sequence[str],
    output: Path,
) -> list[Path]:
    """Compare the maps of Grad-CAM and integrated gradients with the lesions' masks.

    Parameters
    ----------
    encoder_name, layer
        Names in the table; the layer is that of the embeddings.
    images
        Image table.
    image_stores
        Manifests of the canonical images, all shards.
    encoder, head
        Directories of the encoder and of its head.
    embeddings
        Manifests of the layer's embeddings, all shards.
    concepts
        Columns of the image table.
    output
        Table to write (.parquet): a row per concept, method, split and size of the lesion.

    Raises
    ------
    InputError
        If the head lacks a concept.
    """
    everything = EmbeddingReader(embeddings, layer)
    cases = case.read_cases(images, everything.image_ids)
    store = ImageReader(image_stores, concept_regions(images))
    network = load_encoder(encoder)
    trained = load_head(head)
    parts = []
    for concept in concepts:
        cut = CutNetwork(network, trained, layer, concept)
        scorer = _Scorer(settings, cut, store, cases, embeddings, everything.grid)
        parts += [
            scorer.rows(split) for split in settings.splits if (cases["split"] == split).any()
        ]
    columns = [*FIRST, *score_columns(("chance", "shuffled")), "integral_error"]
    nothing = pd.DataFrame(columns=columns)
    table = pd.concat(parts or [nothing], ignore_index=True).reindex(columns=columns)
    table.insert(0, "encoder", encoder_name)
    table.insert(1, "layer", layer)
    write_table(table, output)
    return [output]


class _Scorer:
    """One concept's maps and their scores."""

    def __init__(
        self,
        settings: SaliencySettings,
        cut: CutNetwork,
        store: ImageReader,
        cases: pd.DataFrame,
        embeddings: Sequence[Path],
        grid: LayerGrid,
    ) -> None:
        self._settings, self._cut, self._store = settings, cut, store
        self._cases, self._embeddings = cases, embeddings
        # The logit is linear in these maps: one node is exact, and there are no runs to save.
        self._linear = cut.layer == POOLED or (
            cut.layer == HEAD and cut.network.description.pooling == "mean"
        )
        self._grid = grid
        self._limits: dict[str, np.ndarray] = {}

    def rows(self, split: str) -> pd.DataFrame:
        """Return the rows of one split."""
        concept, settings = self._cut.concept, self._settings
        found = lesions.find_lesions(self._store, self._cases, concept, split, self._grid)
        labels = {"concept": concept, "split": split}
        if found.reason:
            return self._without(found.reason).assign(**labels)
        unit = lesions.unit_of_sizes([found])
        # The limits are those of the first split, as long as sizes have the same unit.
        limits = self._limits.setdefault(
            unit, lesions.size_limits(lesions.lesion_sizes(found, unit))
        )
        if not self._linear:
            every = np.arange(len(found))
            found = found.taken(case.whole_patients(found.patients, every, settings.images))
        if not len(found):
            why = (
                f"no patient of split {split} has a mask of {concept} and at most "
                f"{settings.images} images with one (saliency.images)"
            )
            return self._without(why).assign(**labels)
        stream: Sequence[MapBatch] | None = None if self._linear else list(self._batches(found))
        upper, area, sums = UpperQuantiles(len(METHODS)), 0.0, []
        for _, maps, breast, complete in stream or self._batches(found):
            area += float(breast.sum(dtype=np.float64))
            image, which, cell = np.nonzero(maps * (breast > 0)[:, None])
            upper.add(which, maps[image, which, cell], breast[image, cell])
            sums.append(complete)
        scores = lesions.ScoresBySize(
            settings,
            found,
            upper.thresholds(settings.quantile * area),
            self._grid,
            np.arange(len(METHODS)),
            lesions.lesion_sizes(found, unit),
            limits,
        )
        for images, maps, breast, _ in stream or self._batches(found):
            for image, own, inside in zip(images, maps, breast, strict=True):
                which, cell = np.nonzero(own)
                scores.add(int(image), which, cell, own[which, cell], inside)
        _, rows = scores.rows()
        rows.insert(0, "method", np.array(METHODS)[rows.pop("map")])
        integrated, difference = np.concatenate(sums).T
        error = np.abs(integrated - difference).mean() / np.abs(difference).mean()
        rows["integral_error"] = np.where(rows["method"] == METHODS[1], error, np.nan)
        return rows.assign(size_unit=unit, **labels)

    @staticmethod
    def _without(reason: str) -> pd.DataFrame:
        """Return the rows of a split without scores."""
        rows = pd.DataFrame({"method": METHODS, "size": lesions.ALL, "size_unit": ""})
        return rows.assign(reason=reason)

    def _batches(self, found: lesions.Found) -> Iterator[MapBatch]:
        """Yield (positions in `found`, maps [b, 2, cells], breast [b, cells], sums [b, 2])."""
        ids = self._cases["image_id"].to_numpy()[found.positions]
        place = {image: position for position, image in enumerate(ids)}
        source = EmbeddingReader(self._embeddings, self._cut.layer, ids.tolist())
        steps = 1 if self._linear else self._settings.steps
        size = self._settings.batch_size
        label = f"{self._cut.concept}, saliency"
        for positions, data in progress(
            source.batches(size), label=label, total=-(-len(source) // size)
        ):
            named = [source.image_ids[position] for position in positions]
            batch = Batch.of(data, source.prefix(positions))
            maps, sums = saliency_maps(self._cut, batch.values, batch.prefix, steps)
            breast, _ = cells.image_areas(self._store, named, [], self._grid)
            yield (
                np.array([place[name] for name in named]),
                maps.reshape(len(maps), len(METHODS), -1),
                breast.reshape(len(breast), -1),
                sums,
            )
