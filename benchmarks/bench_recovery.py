"""How many atoms of a known sparse dictionary each SAE finds, with the same cells and steps.

    python benchmarks/bench_recovery.py [--peers DIR] [--steps N]

Cells are sums of 4 of 128 random atoms in 64 dimensions, with noise. Every SAE has 128 latents,
k = 4 where it has a k, Adam at 3e-3, and the same batches of 512 cells. Printed: the share of the
true atoms that some atom matches with cosine > .9. Of the peers' variants with a penalty, whose
scales differ, the best of several penalties counts; ours run with one.

The peers' environment is that of bench_sae.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

D, H, K, BATCH, LR = 64, 128, 4, 512, 3e-3
GROUPS = (1 / 16, 1 / 8, 1 / 4, 9 / 16)  # shares of the latents in a Matryoshka's groups
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


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
                print("{name:46s} {recovered:.3f}".format(**json.loads(line)), flush=True)


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


def recovered(found: Tensor) -> float:
    """Return the share of true atoms that `found` [h, D] holds."""
    unit = found.detach() / found.detach().norm(dim=1, keepdim=True)
    return float(((dictionary() @ unit.t()).amax(dim=1) > 0.9).double().mean())


def report(name: str, found: Tensor) -> None:
    """Print what `found` [h, D] holds."""
    print(json.dumps({"name": name, "recovered": recovered(found)}), flush=True)


def best(name: str, train: Callable[[float], Tensor], penalties: Sequence[float]) -> None:
    """Print what the best of several penalties finds."""
    scores = {penalty: recovered(train(penalty)) for penalty in penalties}
    penalty = max(scores, key=scores.__getitem__)
    row = {"name": f"{name} (best of {len(scores)}: {penalty:g})", "recovered": scores[penalty]}
    print(json.dumps(row), flush=True)


def mammo_sae(steps: int) -> None:
    """Train every variant of this package."""
    from mammo_sae.sae import settings as s
    from mammo_sae.sae.trainer import Training
    from mammo_sae.sae.variants.base import Start
    from mammo_sae.sae.variants.registry import trainee

    aux = {"k": K, "k_aux": D // 2}
    nested = s.MatryoshkaVariant(**aux, groups=list(GROUPS))
    for variant in (
        s.TopKVariant(**aux), s.BatchTopKVariant(**aux), nested,
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
    """Train SAELens's variants, step by step as its `fit` does."""
    import sae_lens as library
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    def trained(kind: str, **values: object) -> Tensor:
        config = getattr(library, f"{kind}TrainingSAEConfig")(d_in=D, d_sae=H, **values)
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
        return sae.W_dec

    report("sae-lens TopK", trained("TopK", k=K))
    report("sae-lens BatchTopK", trained("BatchTopK", k=K))
    widths = [round(H * sum(GROUPS[: n + 1])) for n in range(len(GROUPS))]
    report(
        "sae-lens MatryoshkaBatchTopK",
        trained("MatryoshkaBatchTopK", k=K, matryoshka_widths=widths),
    )
    best("sae-lens Standard", lambda p: trained("Standard", l1_coefficient=p), PENALTIES)
    best("sae-lens Gated", lambda p: trained("Gated", l1_coefficient=p), PENALTIES)
    best(
        "sae-lens JumpReLU",
        lambda p: trained("JumpReLU", l0_coefficient=p, jumprelu_sparsity_loss_mode="tanh"),
        PENALTIES,
    )


def dictionary_learning(steps: int) -> None:
    """Train dictionary_learning's variants."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.gdm import GatedSAETrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    def trained(kind: type, **values: object) -> Tensor:
        trainer = kind(
            steps=steps, activation_dim=D, dict_size=H, layer=0, lm_name="", lr=LR,
            warmup_steps=steps // 20, decay_start=steps - steps // 5, seed=0, device="cpu",
            **values,
        )  # fmt: skip
        for number in range(steps):
            trainer.update(number, batch(number))
        decoder = getattr(trainer.ae, "decoder", None)
        return trainer.ae.W_dec if decoder is None else decoder.weight.t()

    report("dictionary_learning TopK", trained(TopKTrainer, k=K))
    report("dictionary_learning BatchTopK", trained(BatchTopKTrainer, k=K))
    report(
        "dictionary_learning Matryoshka",
        trained(MatryoshkaBatchTopKTrainer, k=K, group_fractions=list(GROUPS)),
    )
    warm = {"sparsity_warmup_steps": steps // 20}
    best(
        "dictionary_learning Standard",
        lambda p: trained(StandardTrainer, l1_penalty=p, **warm),
        PENALTIES,
    )
    best(
        "dictionary_learning Gated",
        lambda p: trained(GatedSAETrainer, l1_penalty=p, **warm),
        PENALTIES,
    )
    best(
        "dictionary_learning JumpReLU",
        lambda p: trained(JumpReluTrainer, target_l0=K, bandwidth=p, **warm),
        (0.001, 0.03, 0.3),
    )


def overcomplete(steps: int) -> None:
    """Train overcomplete's TopK, free and relaxed archetypal, with its squared error."""
    from overcomplete.sae import RATopKSAE, TopKSAE

    points = torch.cat([batch(10**6 + number) for number in range(40)])
    points = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:256]]
    for name, kind, values in (
        ("TopK", TopKSAE, {}),
        ("RATopK", RATopKSAE, {"points": points, "delta": 1.0}),
    ):
        torch.manual_seed(0)
        sae = kind(D, nb_concepts=H, top_k=K, device="cpu", **values)
        optimiser = torch.optim.Adam(sae.parameters(), lr=LR)
        for number in range(steps):
            x = batch(number)
            _, _, rebuilt = sae(x)
            optimiser.zero_grad()
            (rebuilt - x).square().mean().backward()
            optimiser.step()
        report(f"overcomplete {name}", sae.get_dictionary())


RUNNERS = {
    "mammo-sae": mammo_sae,
    "sae-lens": sae_lens,
    "dictionary_learning": dictionary_learning,
    "overcomplete": overcomplete,
}

if __name__ == "__main__":
    main()
