"""Step: what predictions rest on at the head layer, exactly and without running the network.

The head layer is averaged over its cells and then mapped linearly to a logit. With z_t the mean of
latent t's code over an image's cells, d_t its atom, b_dec the SAE's bias, and w, b the head's row
for a concept,

    spliced logit   = b + w.b_dec + sum_t z_t (w.d_t)
    original logit  = spliced logit + w.(mean of the SAE's error)

so every edit of the codes has an exact logit. Three tables follow from the same numbers: groups of
latents at chosen k with intervals and controls (`interventions`), the whole curve over k (`sweep`),
and each latent's own effect (`effects`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.analysis import cases as case
from mammo_sae.analysis.effects import effect_table
from mammo_sae.analysis.interventions import intervention_table
from mammo_sae.analysis.settings import InterventionSettings
from mammo_sae.analysis.sweep import sweep_table
from mammo_sae.encoders.heads import Head, load_head
from mammo_sae.errors import InputError
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import read_table, write_table


def run(
    settings: InterventionSettings,
    *,
    identity: case.Identity,
    images: Path,
    codes: Path,
    sae: Path,
    head: Path,
    predictions: Path,
    latents: Path,
    concepts: Sequence[str],
    interventions: Path,
    sweep: Path,
    effects: Path,
) -> None:
    """Write one SAE's interventions, curves over k, and effects of single latents.

    Parameters
    ----------
    images
        Image table.
    codes, sae
        Manifest of the codes and `sae.json` of the SAE that made them.
    head
        Directory of the encoder's head.
    predictions
        The encoder's logits, one row per image and concept.
    latents
        Table that probing wrote for the same SAE.
    interventions, sweep, effects
        Tables to write: one row per edit, concept and split; per k, mode, ranking, concept and
        split; per latent that fires, concept and split.

    Raises
    ------
    InputError
        If the codes are not of the head layer or the head lacks a concept.
    """
    parts: dict[Path, list[pd.DataFrame]] = {interventions: [], sweep: [], effects: []}
    inputs = Inputs(images, codes, sae, head, predictions, latents)
    for concept, split, data, ranked in each_edit(settings, inputs, concepts):
        for path, part in (
            (interventions, intervention_table(settings, data, ranked)),
            (sweep, sweep_table(settings, data, ranked)),
            (effects, effect_table(settings, data, ranked)),
        ):
            part.insert(0, "concept", concept)
            part.insert(1, "split", split)
            parts[path].append(part)
    for path, tables in parts.items():
        write_table(identity.label(pd.concat(tables, ignore_index=True)), path)


@dataclass(frozen=True)
class Edits:
    """At the head: what every edit of one concept's logits over n images follows from.

    Attributes
    ----------
    contributions : [n, h] float64
        Mean code times effect of every latent.
    offset
        Logit with all latents dropped.
    original : [n]
        Logit of the network without the SAE.
    labels : [n] bool
    patients : [n]
    typical : [h] float64
        Mean contribution of every latent in discovery, what mean ablation puts in its place.
    """

    contributions: np.ndarray
    offset: float
    original: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    typical: np.ndarray

    def logits(self, kept: np.ndarray, splice: str) -> np.ndarray:
        """Return the logits [n, e] of `e` edits, `kept` [h, e] true where a latent stays."""
        on = self.contributions @ kept.astype(np.float64)
        if splice == "spliced":
            return self.offset + on
        on += (self.original - self.contributions.sum(axis=1))[:, None]
        if splice == "error_preserving":
            return on
        return on + self.typical @ (~kept).astype(np.float64)


@dataclass(frozen=True)
class Inputs:
    """Paths that an SAE's head interventions read; meanings as in `run`."""

    images: Path
    codes: Path
    sae: Path
    head: Path
    predictions: Path
    latents: Path


def each_edit(
    settings: InterventionSettings, inputs: Inputs, concepts: Sequence[str]
) -> Iterator[tuple[str, str, Edits, pd.DataFrame]]:
    """Yield (concept, split, edits, the concept's rows of the latents table by latent).

    Raises
    ------
    InputError
        If the codes are not of the head layer, the head lacks a concept, or no split has labels.
    """
    reader = CodesReader(inputs.codes)
    if reader.grid.layer != settings.layer:
        raise InputError(
            f"{inputs.codes} holds codes of layer {reader.grid.layer}; "
            f"interventions are made at layer {settings.layer}"
        )
    autoencoder = SparseAutoencoder.load(inputs.sae)
    atoms, bias = autoencoder.decoder_weight.numpy(), autoencoder.decoder_bias.numpy()
    weights = load_head(inputs.head)
    cases = case.read_cases(inputs.images, reader.image_ids)
    table, logits = read_table(inputs.latents), read_table(inputs.predictions)
    means = reader.mean()
    typical = means[(cases["split"] == settings.discovery).to_numpy()].mean(0, dtype=np.float64)
    found = False
    for concept in concepts:
        effects, offset = latent_effects(weights, concept, atoms, bias)
        ranked = table[table["concept"] == concept].sort_values("latent")
        original = original_logits(logits, concept, reader.image_ids)
        for split in settings.splits:
            rows = case.labelled(cases, concept, split)
            if not len(rows):
                continue
            found = True
            data = Edits(
                contributions=means[rows].astype(np.float64) * effects,
                offset=offset,
                original=original[rows],
                labels=case.labels(cases, concept, rows),
                patients=cases["patient_id"].to_numpy()[rows],
                typical=typical * effects,
            )
            yield concept, split, data, ranked
    if not found:
        raise InputError(
            f"{inputs.images}: no labelled image in splits {', '.join(settings.splits)}; "
            "correct interventions.splits"
        )


def latent_effects(
    head: Head, concept: str, decoder: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return w.d_t for every latent, [h], and the logit without any latent, b + w.b_dec."""
    row = head.row(concept)
    weight = head.weight[row].astype(np.float64)
    effects = decoder.astype(np.float64) @ weight
    return effects, float(head.bias[row] + weight @ bias.astype(np.float64))


def original_logits(
    predictions: pd.DataFrame, concept: str, image_ids: Sequence[str]
) -> np.ndarray:
    """Return the encoder's logits [n] for `concept`, in the order of `image_ids`."""
    rows = predictions[predictions["concept"] == concept].set_index("image_id")["logit"]
    result = rows.reindex(list(image_ids)).to_numpy(dtype=np.float64)
    if np.isnan(result).any():
        missing = image_ids[int(np.flatnonzero(np.isnan(result))[0])]
        raise InputError(
            f"predictions hold no {concept} logit of image {missing}; run the head's step again"
        )
    return result
