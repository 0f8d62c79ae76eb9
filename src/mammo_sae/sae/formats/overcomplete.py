"""overcomplete's SAEs, as `torch.save(sae.eval().state_dict(), ...)` writes them.

    z = act(x W^T + b),  x_hat = z D,  D = exp(multiplier) (unit rows, or A C + R: archetypal)

The file does not contain the kind of the SAE. A JumpSAE is recognised by `thresholds`, which are
stored as logarithms. A BatchTopK SAE is recognised by `running_threshold`, which the user adds to
the state dict. For any other file k must be given: that of a TopK SAE, or the number of latents of
a ReLU SAE.
"""

from __future__ import annotations

from torch import Tensor

from mammo_sae.errors import InputError
from mammo_sae.sae.formats.tensors import Tensors
from mammo_sae.sae.formats.units import in_embedding_units
from mammo_sae.sae.model import SparseAutoencoder

MARK = "dictionary."
# Tolerance for norms and sums that should be 1. The library divides by the norm or sum plus 1e-8.
SET = 1e-4
LINEAR = "encoder.final_block.0."
TIED = "encoder.tied_to."
KNOWN = {
    *(f"{LINEAR}{name}" for name in ("weight", "bias")),
    *(f"encoder.{name}" for name in ("weight", "bias")),
    *(f"{at}{name}" for at in (MARK, TIED) for name in
      ("_weights", "multiplier", "W", "C", "Relax")),
    "thresholds", "running_threshold",
}  # fmt: skip


def read(tensors: Tensors, k: int | None) -> SparseAutoencoder:
    """Return the SAE of a state dict.

    Raises
    ------
    InputError
        If a tensor is missing or unknown, if the dictionary's norms are not those with which the
        library uses it, or if neither the file nor `k` says which latents are active.
    """
    unknown = [name for name in tensors.names() if name not in KNOWN]
    if unknown:
        raise InputError(
            f"{tensors.path} has the tensor {unknown[0]!r}: only overcomplete's linear encoders "
            "can be read, no deeper ones and none with a norm"
        )
    atoms = _atoms(tensors, MARK)
    latents, channels = atoms.shape
    if f"{LINEAR}weight" in tensors:
        weight = tensors.take(f"{LINEAR}weight", latents, channels)
        bias = tensors.take(f"{LINEAR}bias", latents)
    else:
        weight = _encoder_weight(tensors, latents, channels)
        has_bias = "encoder.bias" in tensors
        bias = tensors.take("encoder.bias", latents) if has_bias else atoms.new_zeros(latents)
    threshold = None
    if "thresholds" in tensors:
        threshold = tensors.take("thresholds", latents).exp()
    elif "running_threshold" in tensors:
        threshold = tensors.take("running_threshold").expand(latents)
    if threshold is None and k is None:
        raise InputError(
            f"{tensors.path} does not say how many latents are active; set variant.k to top_k for "
            f"a TopK SAE, or to {latents} for a ReLU SAE. For a BatchTopK SAE, save "
            "running_threshold too"
        )
    if threshold is not None and k is not None:
        raise InputError(f"{tensors.path} has thresholds; remove variant.k")
    if threshold is None and k == latents:
        threshold, k = atoms.new_zeros(latents), None
    return in_embedding_units(
        tensors.path,
        "overcomplete",
        weight=weight,
        bias=bias,
        atoms=atoms,
        offset=atoms.new_zeros(channels),
        k=k,
        threshold=threshold,
    )


def _encoder_weight(tensors: Tensors, latents: int, channels: int) -> Tensor:
    """Return the weight [h, d] of an encoder of `sae.untied()` or `sae.tied()`."""
    if "encoder.weight" in tensors:
        return tensors.take("encoder.weight", latents, channels)
    if f"{TIED}multiplier" not in tensors:
        raise InputError(
            f"{tensors.path} has no encoder: it is none of overcomplete's SAEs with a linear or "
            "tied encoder. Matching pursuits, which need none, can't be read"
        )
    return _atoms(tensors, TIED, latents, channels)


def _atoms(
    tensors: Tensors, at: str, latents: int | None = None, channels: int | None = None
) -> Tensor:
    """Return the dictionary [h, d] under the prefix `at`, as the library decodes with it."""
    factor = tensors.take(f"{at}multiplier").exp()
    if f"{at}_weights" in tensors:
        atoms = tensors.take(f"{at}_weights", latents, channels)
        length = atoms.norm(dim=1)
        if ((length - 1).abs() > SET).any():
            raise InputError(
                f"{tensors.path}: rows of {at}_weights have norms from {length.min():.3g} to "
                f"{length.max():.3g}, not 1: call sae.eval() before saving. Only the normalisation "
                "l2 can be read"
            )
        return atoms * factor
    mixture = tensors.take(f"{at}W", latents, None)
    rows, candidates = mixture.shape
    points = tensors.take(f"{at}C", candidates, channels)
    if (mixture < 0).any() or ((mixture.sum(dim=1) - 1).abs() > SET).any():
        raise InputError(
            f"{tensors.path}: rows of {at}W are not weights of at least 0 that sum to 1: call "
            "sae.eval() before saving"
        )
    return (mixture @ points + tensors.take(f"{at}Relax", rows, points.shape[1])) * factor
