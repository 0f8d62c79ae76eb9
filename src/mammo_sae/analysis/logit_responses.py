"""Step: measure what an encoder's prediction responds to, by pairs of images.

Responses are computed as in `mammo_sae.analysis.responses`. The score is the logit of a concept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mammo_sae.analysis.responses import responses
from mammo_sae.encoders.heads import load_head
from mammo_sae.encoders.pooled import read_pooled
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import BootstrapSettings


def run(
    settings: BootstrapSettings,
    *,
    encoder_name: str,
    pairs: Path,
    embeddings: Sequence[Path],
    head: Path,
    output: Path,
) -> list[Path]:
    """Measure the responses of an encoder's logits to each finding and artefact of the phantom.

    Parameters
    ----------
    encoder_name
        Name of the encoder, written into the table.
    pairs
        Table of the pairs, written by the step `pairs`.
    embeddings
        Manifests of the encoder's embeddings of the pairs' images, at the layer `pooled`.
    head
        Directory of the encoder's head.
    output
        Table to write (.parquet): a row per concept and component.
    """
    classifier = load_head(head)
    ids, pooled = read_pooled(embeddings)
    logits = pd.DataFrame(
        classifier.logits(pooled), index=ids, columns=pd.Index(classifier.concepts)
    )
    rows = responses(settings, read_table(pairs), logits).rename(columns={"score": "concept"})
    rows.insert(0, "encoder", encoder_name)
    write_table(rows, output)
    return [output]
