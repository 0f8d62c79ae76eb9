"""The weights that Mammo-SAE publishes: `sparse_autoencoder_final.pt`.

    z = ReLU(W (x - b) + b_e),  x_hat = D z + b

Every tensor in the file has an additional first axis of size 1.
"""

from __future__ import annotations

from mammo_sae.errors import InputError
from mammo_sae.sae.formats.tensors import Tensors
from mammo_sae.sae.formats.units import in_embedding_units
from mammo_sae.sae.model import SparseAutoencoder

MARK = "tied_bias"


def read(tensors: Tensors) -> SparseAutoencoder:
    """Return the SAE of a state dict.

    Raises
    ------
    InputError
        If a tensor is missing or has another shape.
    """
    weight = tensors.take("encoder._weight", None, None, None)
    components, latents, channels = weight.shape
    if components != 1:
        raise InputError(
            f"{tensors.path}: encoder._weight holds {components} components; only one can be read"
        )
    bias = tensors.take(MARK, 1, channels)[0]
    return in_embedding_units(
        tensors.path,
        "Mammo-SAE",
        weight=weight[0],
        bias=tensors.take("encoder._bias", 1, latents)[0],
        atoms=tensors.take("decoder._weight", 1, channels, latents)[0].t(),
        offset=bias,
        centre=bias,
        threshold=weight.new_zeros(latents),
    )
