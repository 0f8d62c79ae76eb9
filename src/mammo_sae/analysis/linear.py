"""Each latent's contribution to every logit at the head layer, where logits are linear in codes.

The head layer is averaged over its cells and then mapped linearly to a logit. Let z_t be the mean
of latent t's code over an image's cells, d_t its atom, b_dec the SAE's bias, and w, b the weight
and bias of the head for a concept. Then

    spliced logit = b + w.b_dec + sum_t z_t (w.d_t)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.analysis import cases as case
from mammo_sae.analysis.mean_codes import MeanCodes
from mammo_sae.encoders.heads import Head, load_head
from mammo_sae.encoders.plans.plan import HEAD
from mammo_sae.errors import InputError
from mammo_sae.sae.files import read_decoder
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import read_table


@dataclass(frozen=True)
class Inputs:
    """Paths of the files that the analyses of an SAE at the head layer read.

    Attributes
    ----------
    images
        Image table.
    codes, sae
        Manifest of the codes, and `sae.json` of the SAE that computed them.
    head
        Directory of the encoder's head.
    latents
        Latents table of the same SAE, written by the step `latents`.
    """

    images: Path
    codes: Path
    sae: Path
    head: Path
    latents: Path


@dataclass(frozen=True)
class Shares:
    """The n images of one concept and split, and the contributions of h latents to their logits.

    Attributes
    ----------
    concept, split
        The concept of the labels, and the split of the images.
    rows : [n]
        Positions of the images among those of the codes.
    ranked : [h]
        The concept's rows of the latents table, by latent.
    weights : [h] float64
        w.d_t of every latent.
    means : n images, h latents
        The mean codes. A latent's contribution to a logit is its mean code times its weight.
    offset
        Logit with all latents dropped.
    labels : [n] bool
    patients : [n]
    """

    concept: str
    split: str
    rows: np.ndarray
    ranked: pd.DataFrame
    weights: np.ndarray
    means: MeanCodes
    offset: float
    labels: np.ndarray
    patients: np.ndarray


def each_share(
    inputs: Inputs, concepts: Sequence[str], splits: Sequence[str], folder: Path
) -> Iterator[Shares]:
    """Yield the `Shares` of every concept and split; n is 0 if no image has a label.

    Mean codes are copied into temporary files in `folder`, one per split.

    Raises
    ------
    InputError
        If the codes are not of the head layer, or the head lacks a concept.
    """
    reader = CodesReader(inputs.codes)
    if reader.grid.layer != HEAD:
        raise InputError(
            f"{inputs.codes} holds codes of layer {reader.grid.layer}; "
            f"only the logits of layer {HEAD} are linear in its codes"
        )
    atoms, bias = read_decoder(inputs.sae)
    head = load_head(inputs.head)
    each = [latent_weights(head, concept, atoms, bias) for concept in concepts]
    del atoms
    cases = case.read_cases(inputs.images, reader.image_ids)
    table = read_table(inputs.latents)
    place = np.zeros(len(cases), np.int64)
    copies = {}
    for split in dict.fromkeys(splits):
        members = np.flatnonzero((cases["split"] == split).to_numpy(dtype=bool))
        place[members] = np.arange(len(members))
        ids = [reader.image_ids[i] for i in members]
        copies[split] = MeanCodes.of_images(reader, ids, folder)
    for concept, (weights, offset) in zip(concepts, each, strict=True):
        ranked = table[table["concept"] == concept].sort_values("latent")
        for split in splits:
            rows = case.labelled(cases, concept, split)
            yield Shares(
                concept=concept,
                split=split,
                rows=rows,
                ranked=ranked,
                weights=weights,
                means=copies[split].at(place[rows]),
                offset=offset,
                labels=case.labels(cases, concept, rows),
                patients=cases["patient_id"].to_numpy()[rows],
            )


def latent_weights(
    head: Head, concept: str, decoder: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return w.d_t for every latent, [h], and the logit with all latents at 0, b + w.b_dec."""
    row = head.row(concept)
    weight = head.weight[row].astype(np.float64)
    weights = np.empty(len(decoder))
    for start in range(0, len(decoder), 1024):  # no copy of the whole decoder in float64
        weights[start : start + 1024] = decoder[start : start + 1024].astype(np.float64) @ weight
    return weights, float(head.bias[row] + weight @ bias.astype(np.float64))


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
