"""A checkpoint of Mammo-FM: Mammo-CLIP's image encoder and file format, other weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from mammo_sae.encoders.description import EncoderDescription
from mammo_sae.encoders.sources.mammo_clip import Terms, read_published

if TYPE_CHECKING:
    from mammo_sae.encoders.settings import MammoFmSource

# As its publishers state them in November 2026.
TERMS = Terms(
    licence="academic use only",
    forbids="commercial use; redistribution of weights and derivatives; an SAE trained on the "
    "embeddings may be a derivative: ask before you publish one",
    data="821,326 mammograms of 140,677 patients and their reports, of four institutions in the "
    "United States (arXiv 2512.00198)",
)


def read(source: MammoFmSource) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights and the description of a source."""
    return read_published(source, "Mammo-FM", TERMS)
