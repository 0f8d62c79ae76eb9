"""Top-k on and off at an inner layer, by running the rest of the network from its embeddings.

The same table as `mammo_sae.analysis.interventions` writes for the head, where the edits are
algebra. Here each edit is a run of the network from the layer on, so a limited number of images is
used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mammo_sae.analysis import cases as case
from mammo_sae.analysis.attribution import whole_patients
from mammo_sae.analysis.interventions import intervention_table
from mammo_sae.analysis.patching import PatchedNetwork
from mammo_sae.analysis.settings import InnerInterventionSettings
from mammo_sae.encoders.heads import load_head
from mammo_sae.encoders.network import load_encoder
from mammo_sae.progress import progress
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.tables import read_table, write_table

# Logits are float32 sums over the whole network: digits beyond these are noise of the batch.
_DIGITS = 4


def run(
    settings: InnerInterventionSettings,
    *,
    identity: case.Identity,
    images: Path,
    encoder: Path,
    head: Path,
    embeddings: Sequence[Path],
    sae: Path,
    codes: Path,
    latents: Path,
    concepts: Sequence[str],
    output: Path,
) -> None:
    """Write one SAE's interventions on the confirmation split; paths as `attribution.run`.

    `latents` is the table that probing wrote for the same SAE.
    """
    reader = CodesReader(codes)
    cases = case.read_cases(images, reader.image_ids)
    network = load_encoder(encoder).eval().requires_grad_(False)
    cut = PatchedNetwork(network, load_head(head), SparseAutoencoder.load(sae), identity.layer)
    table = read_table(latents)
    parts = []
    for concept in concepts:
        known = case.labelled(cases, concept, settings.confirmation)
        chosen = whole_patients(cases["patient_id"].to_numpy(), known, settings.images)
        source = EmbeddingReader(embeddings, identity.layer, [reader.image_ids[i] for i in chosen])
        edits = Reruns(settings, cut, source, reader, cases, concept)
        ranked = table[table["concept"] == concept].sort_values("latent")
        part = intervention_table(settings, edits, ranked)
        part.insert(0, "concept", concept)
        part.insert(1, "split", settings.confirmation)
        parts.append(part)
    write_table(identity.label(pd.concat(parts, ignore_index=True)), output)


class Reruns:
    """Edits of one concept's logits over the images of `source`, each a run of the network.

    Attributes
    ----------
    labels : [n] bool
    patients : [n]
    """

    def __init__(
        self,
        settings: InnerInterventionSettings,
        cut: PatchedNetwork,
        source: EmbeddingReader,
        codes: CodesReader,
        cases: pd.DataFrame,
        concept: str,
    ) -> None:
        self._batch, self._cut, self._source, self._codes = (
            settings.batch_size,
            cut,
            source,
            codes,
        )
        self._positions = np.array([codes.position(image) for image in source.image_ids])
        self._concept = concept
        self.labels = case.labels(cases, concept, self._positions)
        self.patients = cases["patient_id"].to_numpy()[self._positions]

    def logits(self, kept: np.ndarray, splice: str) -> np.ndarray:
        """Return the logits [n, e] of `e` edits, `kept` [h, e] true where a latent stays."""
        edits, which = np.unique(kept, axis=1, return_inverse=True)
        result = np.empty((len(self._source), edits.shape[1]))
        row = self._cut.head.row(self._concept)
        for positions, cells in progress(
            self._source.batches(self._batch),
            label=f"{self._concept}, {splice}",
            total=-(-len(self._source) // self._batch),
        ):
            index, value = map(torch.from_numpy, self._codes.cells(self._positions[positions]))
            here = torch.from_numpy(cells)
            for e, stays in enumerate(edits.T):
                edited = self._cut.edited_logits(
                    here, index.long(), value, torch.from_numpy(stays.copy()), splice
                )
                result[positions, e] = edited[:, row].numpy()
        return np.round(result, _DIGITS)[:, which]
