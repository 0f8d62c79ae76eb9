"""Which latents a prediction rests on, at any layer: attribution, checked by ablation.

Attribution patching gives every latent's effect on a logit to first order from one backward pass;
the latents with the largest are then truly ablated, the SAE's error kept, and the rest of the
network run. ``attribution`` and ``ablation`` are what the latent's presence adds to the logit, mean
over the concept's positive images less that over the negative ones; ``agreement`` is the Pearson
correlation of both over the ablated latents' images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mammo_sae.analysis import cases as case
from mammo_sae.analysis import statistics as st
from mammo_sae.analysis.patching import PatchedNetwork
from mammo_sae.analysis.settings import AttributionSettings
from mammo_sae.encoders.heads import load_head
from mammo_sae.encoders.network import load_encoder
from mammo_sae.progress import progress
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.tables import write_table

Batch = tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor]  # positions, cells, codes


def run(
    settings: AttributionSettings,
    *,
    identity: case.Identity,
    images: Path,
    encoder: Path,
    head: Path,
    embeddings: Sequence[Path],
    sae: Path,
    codes: Path,
    concepts: Sequence[str],
    output: Path,
) -> None:
    """Write one SAE's attributions, one row per (concept, latent that fires).

    Parameters
    ----------
    images
        Image table.
    encoder, head
        Directories of the encoder and of its head.
    embeddings
        Manifests of the layer's embeddings, all shards.
    sae, codes
        `sae.json` and the manifest of its codes.
    """
    reader = CodesReader(codes)
    cases = case.read_cases(images, reader.image_ids)
    network = load_encoder(encoder).eval().requires_grad_(False)
    cut = PatchedNetwork(network, load_head(head), SparseAutoencoder.load(sae), identity.layer)
    parts = []
    for concept in concepts:
        known = case.labelled(cases, concept, settings.split)
        chosen = whole_patients(cases["patient_id"].to_numpy(), known, settings.images)
        ids = [reader.image_ids[i] for i in chosen]
        source = EmbeddingReader(embeddings, identity.layer, ids)
        chosen = np.array([reader.position(image) for image in source.image_ids])
        part = concept_rows(settings, cut, source, reader, cases, chosen, concept)
        part.insert(0, "concept", concept)
        parts.append(part)
    write_table(identity.label(pd.concat(parts, ignore_index=True)), output)


def whole_patients(patients: np.ndarray, known: np.ndarray, most: int) -> np.ndarray:
    """Return the positions in `known` of the first patients with at most `most` images."""
    order = pd.unique(patients[known])
    counts = pd.Series(patients[known]).value_counts().reindex(order).cumsum()
    taken = counts.index[counts <= most]
    return known[np.isin(patients[known], taken)]


def concept_rows(
    settings: AttributionSettings,
    cut: PatchedNetwork,
    source: EmbeddingReader,
    codes: CodesReader,
    cases: pd.DataFrame,
    chosen: np.ndarray,
    concept: str,
) -> pd.DataFrame:
    """Return one concept's rows; `chosen` are the positions in `codes` of `source`'s images."""
    truth = case.labels(cases, concept, chosen)
    patients = cases["patient_id"].to_numpy()[chosen]
    reason = st.why_not_estimable(truth)
    attributed = np.zeros((len(chosen), codes.latents), np.float32)

    def batches() -> Iterator[Batch]:
        for positions, cells in source.batches(settings.batch_size):
            index, value = map(torch.from_numpy, codes.cells(chosen[positions]))
            yield positions, torch.from_numpy(cells), index.long(), value

    for positions, cells, index, value in progress(
        batches(), label=f"attribution, {concept}", total=-(-len(chosen) // settings.batch_size)
    ):
        part = cut.attribution(cells, index, value, concept)
        attributed[positions] = part.numpy()
    fires = np.flatnonzero((attributed != 0).any(axis=0))
    difference, low, high = _difference(settings, attributed[:, fires], truth, patients)
    table = pd.DataFrame(
        {
            "latent": fires,
            "images": len(chosen),
            "attribution": difference,
            "attribution_low": low,
            "attribution_high": high,
        }
    )
    tested = table["attribution"].abs().nlargest(settings.ablated).index if not reason else []
    ablated = _ablate(cut, batches, len(chosen), table["latent"].to_numpy()[tested], concept)
    for name, values in zip(
        ("ablation", "ablation_low", "ablation_high"),
        _difference(settings, ablated, truth, patients),
        strict=True,
    ):
        table[name] = np.nan
        table.loc[tested, name] = values
    together = attributed[:, table["latent"].to_numpy()[tested]].ravel(), ablated.ravel()
    varied = all(values.size and np.ptp(values) > 0 for values in together)
    table["agreement"] = np.corrcoef(*together)[0, 1] if varied else np.nan
    table["rank_attribution"] = (
        table["attribution"].abs().rank(ascending=False, method="first").astype("Int32")
    )
    table["reason"] = reason
    if reason:
        table[["attribution", "attribution_low", "attribution_high"]] = np.nan
        table["rank_attribution"] = pd.NA
    return table


def _ablate(
    cut: PatchedNetwork,
    batches: Callable[[], Iterator[Batch]],
    n: int,
    latents: np.ndarray,
    concept: str,
) -> np.ndarray:
    """Return [n, m]: the logit that each image loses when one of `latents` is dropped."""
    lost = np.zeros((n, len(latents)))
    row = cut.head.row(concept)
    if not len(latents):
        return lost
    for positions, cells, index, value in batches():
        with torch.inference_mode():
            before = cut.logits(cells.to(torch.float32))[:, row]
        for column, latent in enumerate(latents):
            kept = torch.ones(cut.sae.latents, dtype=torch.bool)
            kept[int(latent)] = False
            after = cut.edited_logits(cells, index, value, kept, "error_preserving")
            lost[positions, column] = (before - after[:, row]).numpy()
    return lost


def _difference(
    settings: AttributionSettings, values: np.ndarray, truth: np.ndarray, patients: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of `values` [n, m] over positives less that over negatives, and its interval."""
    weights = st.patient_weights(patients, settings.bootstrap_draws, settings.seed)
    result = []
    for drawn in (np.ones((len(truth), 1)), weights):
        means = []
        for rows in (truth, ~truth):
            count = drawn[rows].sum(axis=0, dtype=np.float64)
            total = values[rows].T.astype(np.float64) @ drawn[rows]
            mean = np.full(total.shape, np.nan)
            np.divide(total, count[None], out=mean, where=count[None] > 0)
            means.append(mean)
        result.append(means[0] - means[1])
    low, high = st.interval(result[1])
    return result[0][:, 0], low, high
