"""Count the atoms of a known sparse dictionary that each SAE finds, with the same cells and steps.

    python benchmarks/bench_recovery.py [--peers DIR] [--steps N]

Cells are sums of 4 of 128 random atoms in 64 dimensions, with noise. Every SAE has 128 latents, k =
4 if it has a k, Adam at 3e-3, and the same batches of 512 cells. The script prints the share of
true atoms that an atom of the SAE matches with cosine > 0.9, as mean, minimum and maximum over
several seeds. The scales of penalties differ between libraries. For variants with a penalty, each
library tries the same number of penalties, and the one that is best on average counts.

The environment of the other libraries is that of bench_sae.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from stubs import without_torchvision
from torch import Tensor

D, H, K, BATCH, LR = 64, 128, 4, 512, 3e-3
GROUPS = (1 / 16, 1 / 8, 1 / 4, 9 / 16)  # shares of the latents in a Matryoshka's groups
PENALTIES = (
    0.1,
    0.3,
    1.0,
    3.0,
    10.0,
    30.0,
)  # penalties of the L1, gated and JumpReLU SAEs of other libraries
BANDWIDTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # penalties of dictionary_learning's JumpReLU
OWN_PENALTIES = {
    "l1": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "gated": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "jumprelu": (0.05, 0.1, 0.25, 0.5, 1.0, 2.0),
}
SEEDS = (0, 1, 2)


def main() -> None:
    """Train all SAEs, each library in its own interpreter, and print their recovered shares."""
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
                row = json.loads(line)
                found = row["recovered"]
                mean = sum(found) / len(found)
                print(
                    f"{row['name']:46s} {mean:.3f}  {min(found):.3f}-{max(found):.3f}", flush=True
                )


def dictionary() -> Tensor:
    """Return the true atoms [H, D], of length 1.

    They are drawn with a seed that no SAE uses. An SAE that draws its initial atoms in the same way
    with the same seed would start from the true atoms.
    """
    atoms = torch.randn(H, D, generator=torch.Generator().manual_seed(20_000_003))
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
    """Return the share of true atoms that `found` [h, D] contains."""
    unit = found.detach() / found.detach().norm(dim=1, keepdim=True)
    return float(((dictionary() @ unit.t()).amax(dim=1) > 0.9).double().mean())


def report(name: str, train: Callable[..., Tensor], penalties: Sequence[float] = ()) -> None:
    """Print the share that `train(seed)` finds, or `train(seed, penalty)` with the best penalty."""
    scores = {
        penalty: [recovered(train(seed, *penalty)) for seed in SEEDS]
        for penalty in ([(penalty,) for penalty in penalties] or [()])
    }
    best = max(scores, key=lambda penalty: sum(scores[penalty]))
    if best:
        name = f"{name} (best of {len(scores)}: {best[0]:g})"
    print(json.dumps({"name": name, "recovered": scores[best]}), flush=True)


def mammo_sae(steps: int) -> None:
    """Train every variant of this package."""
    from mammo_sae.sae import settings as s
    from mammo_sae.sae.trainer import Training
    from mammo_sae.sae.variants.base import Start
    from mammo_sae.sae.variants.choice import training_sae

    start = Start(torch.cat([batch(10**6 + number) for number in range(40)]), scale=1.0)

    def trained(variant: s.Variant, seed: int) -> Tensor:
        # These are the defaults of the other libraries: no warm-up, AuxK with the weight of the
        # reconstruction.
        values = s.SaeTraining(
            variant=variant, latents=H, lr=LR, steps=steps, batch=BATCH, seed=seed,
            init="cells", warm_up=0.0, dead_after=0.02,
        )  # fmt: skip
        training = Training(values, training_sae(values, start))
        for number in range(steps):
            training.advance(batch(number))
        return training.sae.folded(torch.zeros(D), 1.0).decoder_weight

    aux = {"k": K, "k_aux": D // 2, "aux_weight": 1.0}
    for variant in (
        s.TopKVariant(**aux), s.BatchTopKVariant(**aux),
        s.MatryoshkaVariant(**aux, groups=list(GROUPS)),
        s.ArchetypalVariant(**aux, relaxation=1.0, candidates=256),
    ):  # fmt: skip
        report(f"mammo-sae {variant.name}", lambda seed, v=variant: trained(v, seed))
    for name, make in (
        ("l1", lambda p: s.L1Variant(l1=p)),
        ("gated", lambda p: s.GatedVariant(l1=p)),
        ("jumprelu", lambda p: s.JumpReLUVariant(k=K, bandwidth=p)),
    ):
        report(
            f"mammo-sae {name}",
            lambda seed, p, make=make: trained(make(p), seed),
            OWN_PENALTIES[name],
        )


def sae_lens(steps: int) -> None:
    """Train SAELens's variants with the same steps as its `fit`."""
    import sae_lens as library
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    def trained(kind: str, seed: int, **values: object) -> Tensor:
        torch.manual_seed(seed)
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

    report("sae-lens TopK", lambda seed: trained("TopK", seed, k=K))
    report("sae-lens BatchTopK", lambda seed: trained("BatchTopK", seed, k=K))
    widths = [round(H * sum(GROUPS[: n + 1])) for n in range(len(GROUPS))]
    report(
        "sae-lens MatryoshkaBatchTopK",
        lambda seed: trained("MatryoshkaBatchTopK", seed, k=K, matryoshka_widths=widths),
    )
    for kind in ("Standard", "Gated"):
        report(
            f"sae-lens {kind}",
            lambda seed, p, kind=kind: trained(kind, seed, l1_coefficient=p),
            PENALTIES,
        )
    report(
        "sae-lens JumpReLU",
        lambda seed, p: trained(
            "JumpReLU", seed, l0_coefficient=p, jumprelu_sparsity_loss_mode="tanh"
        ),
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

    def trained(kind: type, seed: int, **values: object) -> Tensor:
        trainer = kind(
            steps=steps, activation_dim=D, dict_size=H, layer=0, lm_name="", lr=LR,
            warmup_steps=steps // 20, decay_start=steps - steps // 5, seed=seed, device="cpu",
            **values,
        )  # fmt: skip
        for number in range(steps):
            trainer.update(number, batch(number))
        decoder = getattr(trainer.ae, "decoder", None)
        return trainer.ae.W_dec if decoder is None else decoder.weight.t()

    for name, kind, values in (
        ("TopK", TopKTrainer, {}),
        ("BatchTopK", BatchTopKTrainer, {}),
        ("Matryoshka", MatryoshkaBatchTopKTrainer, {"group_fractions": list(GROUPS)}),
    ):
        report(
            f"dictionary_learning {name}",
            lambda seed, kind=kind, values=values: trained(kind, seed, k=K, **values),
        )
    for name, kind in (("Standard", StandardTrainer), ("Gated", GatedSAETrainer)):
        report(
            f"dictionary_learning {name}",
            lambda seed, p, kind=kind: trained(
                kind, seed, l1_penalty=p, sparsity_warmup_steps=steps // 20
            ),
            PENALTIES,
        )
    report(
        "dictionary_learning JumpReLU",
        lambda seed, p: trained(
            JumpReluTrainer, seed, target_l0=K, bandwidth=p, sparsity_warmup_steps=steps // 20
        ),
        BANDWIDTHS,
    )


def overcomplete(steps: int) -> None:
    """Train overcomplete's TopK, free and relaxed archetypal, with its squared error."""
    without_torchvision()
    from overcomplete.sae import RATopKSAE, TopKSAE

    points = torch.cat([batch(10**6 + number) for number in range(40)])
    points = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:256]]

    def trained(kind: type, seed: int, **values: object) -> Tensor:
        torch.manual_seed(seed)
        sae = kind(D, nb_concepts=H, top_k=K, device="cpu", **values)
        optimiser = torch.optim.Adam(sae.parameters(), lr=LR)
        for number in range(steps):
            x = batch(number)
            _, _, rebuilt = sae(x)
            optimiser.zero_grad()
            (rebuilt - x).square().mean().backward()
            optimiser.step()
        return sae.get_dictionary()

    report("overcomplete TopK", lambda seed: trained(TopKSAE, seed))
    report("overcomplete RATopK", lambda seed: trained(RATopKSAE, seed, points=points, delta=1.0))


RUNNERS = {
    "mammo-sae": mammo_sae,
    "sae-lens": sae_lens,
    "dictionary_learning": dictionary_learning,
    "overcomplete": overcomplete,
}

if __name__ == "__main__":
    main()
