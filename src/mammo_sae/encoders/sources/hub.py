"""A vision transformer of the Hugging Face hub, in the form of `transformers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from mammo_sae.encoders.description import EncoderDescription
from mammo_sae.encoders.hub_models import model_folder
from mammo_sae.encoders.plans.vit import WEIGHTS
from mammo_sae.encoders.sources.transformers import of_folder

if TYPE_CHECKING:
    from mammo_sae.encoders.settings import HubSource


def read(source: HubSource) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights and the description of a source."""
    folder = model_folder(source.repository, source.revision)
    origin = f"{source.repository}/{WEIGHTS} at commit {source.revision}"
    return of_folder(source, folder, origin)
