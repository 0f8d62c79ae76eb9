"""How many atoms of a known sparse dictionary each SAE finds, with the same cells and steps.

    python benchmarks/bench_recovery.py [--peers DIR] [--steps N]

Cells are sums of 4 of 128 random atoms in 64 dimensions, with noise. Every SAE has 128 latents,
k = 4 where it has a k, Adam at 3e-3, and the same batches of 512 cells. Printed: the share of the
true atoms that some atom matches with cosine > .9.

The peers' environment is that of bench_sae.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

D, H, K, BATCH, LR = 64, 128, 4, 512, 3e-3


def main() -> None:
    """Train all, each library in its own interpreter, and print what they recover."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=Path(".venv-bench"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", choices=RUNNERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        RUNNERS[arguments.only](arguments.steps)
        return
    from bench_sae import build

    build(arguments.peers)
    for name in RUNNERS:
        python = sys.executable if name == "mammo-sae" else str(arguments.peers / "bin/python")
        command = [python, __file__, "--only", name, "--steps", str(arguments.steps)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                print("{name:40s} {recovered:.3f}".format(**json.loads(line)), flush=True)


def dictionary() -> Tensor:
    """Return the true atoms [H, D], of length 1."""
    atoms = torch.randn(H, D, generator=torch.Generator().manual_seed(0))
    return atoms / atoms.norm(dim=1, keepdim=True)


def batch(number: int) -> Tensor:
    """Return batch `number`, cells [BATCH, D] of mean 0 and mean squared length D."""
    random = torch.Generator().manual_seed(1 + number)
    amount = 0.5 + torch.empty(BATCH, H).exponential_(generator=random)
    which = torch.rand(BATCH, H, generator=random).topk(K, dim=1).indices
    code = torch.zeros(BATCH, H).scatter(1, which, amount.gather(1, which))
    # E amount = 1.5, E amount^2 = 3.25, and atoms are nearly orthogonal.
    mean = 1.5 * K / H * dictionary().sum(dim=0)
    x = code @ dictionary() - mean + 0.02 * torch.randn(BATCH, D, generator=random)
    return x * (D / (3.25 * K)) ** 0.5


def report(name: str, found: Tensor) -> None:
    """Print the share of true atoms that `found` [h, D] holds."""
    unit = found.detach() / found.detach().norm(dim=1, keepdim=True)
    recovered = ((dictionary() @ unit.t()).amax(dim=1) > 0.9).double().mean()
    print(json.dumps({"name": name, "recovered": float(recovered)}), flush=True)


def mammo_sae(steps: int) -> None:
    """Train every variant of this package."""
    from mammo_sae.sae import settings as s
    from mammo_sae.sae.trainer import Training
    from mammo_sae.sae.variants.base import Start
    from mammo_sae.sae.variants.registry import trainee

    aux = {"k": K, "k_aux": D // 2}
    for variant in (
        s.TopKVariant(**aux), s.BatchTopKVariant(**aux), s.MatryoshkaVariant(**aux),
        s.ArchetypalVariant(**aux, relaxation=1.0, candidates=256), s.L1Variant(l1=0.02),
        s.JumpReLUVariant(k=K), s.GatedVariant(l1=0.02),
    ):  # fmt: skip
        values = s.SaeTraining(variant=variant, latents=H, lr=LR, steps=steps, batch=BATCH)
        start = Start(torch.cat([batch(10**6 + number) for number in range(40)]), scale=1.0)
        training = Training(values, trainee(values, start))
        for number in range(steps):
            training.advance(batch(number))
        report(
            f"mammo-sae {variant.name}",
            training.trainee.folded(torch.zeros(D), 1.0).decoder_weight,
        )


def sae_lens(steps: int) -> None:
    """Train SAELens's TopK and BatchTopK, step by step as its `fit` does."""
    import sae_lens as library
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    for kind in ("TopK", "BatchTopK"):
        config = getattr(library, f"{kind}TrainingSAEConfig")(d_in=D, d_sae=H, k=K)
        sae = getattr(library, f"{kind}TrainingSAE")(config)
        trainer = SAETrainer(
            cfg=SAETrainerConfig(
                total_training_samples=steps * BATCH, train_batch_size_samples=BATCH, lr=LR,
                lr_end=0.0, lr_decay_steps=steps // 5, dead_feature_window=max(1, steps // 20),
            ),
            sae=sae, data_provider=iter(()),
        )  # fmt: skip
        for number in range(steps):
            trainer.maybe_reset_sparsity()
            trainer.step(batch(number))
            trainer.n_training_steps += 1
        report(f"sae-lens {kind}", sae.W_dec)


def dictionary_learning(steps: int) -> None:
    """Train dictionary_learning's TopK and BatchTopK."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    for kind in (TopKTrainer, BatchTopKTrainer):
        trainer = kind(
            steps=steps, activation_dim=D, dict_size=H, k=K, layer=0, lm_name="", lr=LR,
            warmup_steps=steps // 20, decay_start=steps - steps // 5, seed=0, device="cpu",
        )  # fmt: skip
        for number in range(steps):
            trainer.update(number, batch(number))
        report(f"dictionary_learning {kind.__name__}", trainer.ae.decoder.weight.t())


RUNNERS = {
    "mammo-sae": mammo_sae,
    "sae-lens": sae_lens,
    "dictionary_learning": dictionary_learning,
}

if __name__ == "__main__":
    main()
