"""Check that `variant: mammo_sae` trains like Mammo-SAE's own code: 50 steps and the resampling.

    git clone https://github.com/krishnakanthnakka/MammoSAE
    python benchmarks/check_mammo_sae.py MammoSAE [--peers DIR]

Mammo-SAE's autoencoder, losses and optimiser take 50 steps on raw cells from their own initial
weights, in the environment of the other libraries (that of bench_sae.py). Our code takes 50 steps
from the same weights. Then the losses of cells are compared, and the probabilities with which the
resampler of Mammo-SAE draws cells. The script prints the largest differences relative to the
largest value, and ends with status 1 if one exceeds 1e-4.
"""

from __future__ import annotations

import argparse
import enum
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import torch

D, H, N, STEPS, L1, LR = 64, 512, 256, 50, 3e-5, 5e-4
TOLERANCE = 1e-4
NAMES = {
    "encoder_weight": "encoder._weight", "encoder_bias": "encoder._bias",
    "decoder_bias": "tied_bias",
}  # fmt: skip


def main() -> None:
    """Train with Mammo-SAE's code and with ours, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("code", type=Path, help="a clone of their repository")
    parser.add_argument("--peers", type=Path, default=Path(".venv-bench"))
    parser.add_argument("--theirs", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.theirs:
        theirs(arguments.code, arguments.theirs)
        return
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "theirs.pt"
        python = str(arguments.peers / "bin/python")
        code = str(arguments.code)
        subprocess.run([python, __file__, code, "--theirs", str(out)], check=True)
        sys.exit(compare(torch.load(out, weights_only=True)))


def cells(number: int) -> torch.Tensor:
    """Return the raw cells [N, D] of a batch. Their values have the range of a swish's outputs."""
    random = torch.Generator().manual_seed(number)
    return torch.randn(N, D, generator=random).mul(2).add(1.5).clamp(min=-0.28)


def compare(found: dict[str, dict[str, torch.Tensor]]) -> bool:
    """Take the same steps with our code. Return whether something differs."""
    from mammo_sae.sae.settings import MammoSaeVariant, SaeTraining
    from mammo_sae.sae.trainer import Training
    from mammo_sae.sae.variants.base import Start
    from mammo_sae.sae.variants.mammo_sae import MammoSae

    settings = SaeTraining(
        variant=MammoSaeVariant(l1=L1, resample_every=1), latents=H, lr=LR, steps=STEPS,
        warm_up=0, decay=0,
    )  # fmt: skip
    ours = Training(settings, MammoSae(settings, Start(cells(0), 1.0)))
    p = ours.sae.parameters
    print(f"rows of their start {found['start']['encoder._weight'][0].norm(dim=1).mean():.4f} long,"
          f" of ours {p['encoder_weight'].norm(dim=1).mean():.4f}")  # fmt: skip
    for name, theirs in NAMES.items():
        p[name].copy_(found["start"][theirs][0])
    p["decoder_weight"].copy_(found["start"]["decoder._weight"][0].t())
    for number in range(STEPS):
        ours.advance(cells(number))
    end = found["end"]
    pairs = {name: (p[name], end[theirs][0]) for name, theirs in NAMES.items()}
    pairs["decoder_weight"] = (p["decoder_weight"], end["decoder._weight"][0].t())
    losses = ours.sae.losses(cells(99))
    pairs["losses"] = (losses, found["draws"]["losses"].squeeze(1))
    weight = losses.double().square()
    pairs["probabilities"] = (weight / weight.sum(), found["draws"]["probabilities"].squeeze(1))
    worst = 0.0
    for name, (one, other) in pairs.items():
        difference = float((one - other).abs().max() / other.abs().max())
        worst = max(worst, difference)
        print(f"{name:16s} largest difference {difference:.1e}")
    return worst > TOLERANCE


def theirs(code: Path, out: Path) -> None:
    """Train with Mammo-SAE's code. This runs in the environment of the other libraries."""
    # Names of axes, which only annotations in their code use.
    strenum = types.ModuleType("strenum")
    strenum.LowercaseStrEnum = enum.StrEnum  # type: ignore[attr-defined]
    strenum.SnakeCaseStrEnum = enum.StrEnum  # type: ignore[attr-defined]
    sys.modules["strenum"] = strenum
    sys.modules["torchvision"] = None  # type: ignore[assignment]  # breaks transformers' import
    sys.path.insert(0, str(code / "lib" / "sparse_autoencoder"))
    from sparse_autoencoder import (
        ActivationResampler,
        AdamWithReset,
        L2ReconstructionLoss,
        LearnedActivationsL1Loss,
        LossReducer,
        LossReductionType,
        SparseAutoencoder,
    )

    torch.manual_seed(7)
    sae = SparseAutoencoder(n_input_features=D, n_learned_features=H, n_components=1)
    loss = LossReducer(LearnedActivationsL1Loss(l1_coefficient=L1), L2ReconstructionLoss())
    optimiser = AdamWithReset(
        params=sae.parameters(), named_parameters=sae.named_parameters(), lr=LR,
        betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, has_components_dim=True,
    )  # fmt: skip
    start = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    for number in range(STEPS):
        optimiser.zero_grad()
        batch = cells(number).unsqueeze(1)
        learned, decoded = sae(batch)
        total, _ = loss.scalar_loss_with_log(
            batch, learned, decoded, component_reduction=LossReductionType.MEAN
        )
        total.backward()
        optimiser.step()
        sae.post_backwards_hook()
    with torch.no_grad():
        batch = cells(99).unsqueeze(1)
        losses = loss.forward(batch, *sae(batch))
        probabilities = ActivationResampler.assign_sampling_probabilities(losses)
    draws = {"losses": losses, "probabilities": probabilities}
    torch.save({"start": start, "end": sae.state_dict(), "draws": draws}, out)


if __name__ == "__main__":
    main()
