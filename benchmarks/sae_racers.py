"""The implementations that bench_sae.py compares: one process each, driven by lines on stdin.

`ready` returns when the setup is finished. `train N` takes N steps and returns their wall time and
processor time in seconds (user and system, all threads). `score` returns the explained variance on
held-out cells and the share of true atoms that were recovered. Each class below uses its library in
the same way as the library's own training loop. Cells are already centred and scaled, and are on
the device for training. On a GPU the time ends when all its work is finished.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from stubs import without_torchvision
from torch import Tensor

LR = 1e-3
AUX_WEIGHT = 1 / 32
# The penalty of the L1 variants, per unit of a code, with the squared error summed over channels.
PENALTY = 2.0


class Plain:
    """TopK with AuxK in plain torch: dense decoding, automatic differentiation, fused Adam."""

    def __init__(self, d: int, h: int, k: int, steps: int, device: str) -> None:
        self.k, self.patience = k, max(1, steps // 20)
        self.silent = torch.zeros(h, device=device)
        generator = torch.Generator().manual_seed(0)
        atoms = torch.randn(h, d, generator=generator).to(device)
        self.atoms = (atoms / atoms.norm(dim=1, keepdim=True)).requires_grad_()
        self.weight = self.atoms.detach().clone().requires_grad_()
        self.bias = torch.zeros(h, device=device, requires_grad=True)
        self.offset = torch.zeros(d, device=device, requires_grad=True)
        parameters = [self.atoms, self.weight, self.bias, self.offset]
        self.optimiser = torch.optim.Adam(parameters, lr=LR, fused=True)

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return pre-activations and codes."""
        pre = x @ self.weight.t() + self.bias
        top = pre.topk(self.k, sorted=False)
        return pre, torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())

    def step(self, x: Tensor) -> None:
        """Take one training step on cells [n, d]."""
        pre, z = self.codes(x)
        error = x - z @ self.atoms - self.offset
        loss = error.square().mean()
        dead = self.silent >= self.patience
        if dead.any():
            of_dead = pre[:, dead]
            top = of_dead.topk(min(x.shape[1] // 2, of_dead.shape[1]), sorted=False)
            aux = torch.zeros_like(of_dead).scatter(1, top.indices, top.values.relu())
            loss = loss + AUX_WEIGHT * (aux @ self.atoms[dead] - error.detach()).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            self.atoms /= self.atoms.norm(dim=1, keepdim=True)
            self.silent += 1
            self.silent[(z > 0).any(dim=0)] = 0

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return reconstructions of cells [n, d]."""
        return self.codes(x)[1] @ self.atoms + self.offset

    def dictionary(self) -> Tensor:
        """Return the atoms [h, d]."""
        return self.atoms


class Products:
    """The three dense products that every training step needs, in bfloat16.

    They are the pre-activations and the gradients of both weight matrices, 6 d h operations per
    cell. The rates of trainers are given as shares of the rate of these products.
    """

    def __init__(self, d: int, h: int, batch: int, device: str) -> None:
        self.weight = torch.randn(h, d, device=device, dtype=torch.bfloat16)
        self.cells = torch.randn(batch, d, device=device, dtype=torch.bfloat16)

    def step(self, x: Tensor) -> None:
        """Compute the products of a training step on a batch. The conversion of x is not timed."""
        z = torch.mm(self.cells, self.weight.t())
        torch.mm(z.t(), self.cells)
        torch.mm(z.t(), self.cells)


class MammoSae:
    """This package's trainer, with a given number type of products."""

    def __init__(
        self,
        d: int,
        h: int,
        k: int,
        steps: int,
        device: str,
        dtype: torch.dtype | None = None,
        *,
        l1: bool = False,
    ) -> None:
        from mammo_sae.sae.settings import L1Variant, SaeTraining, TopKVariant
        from mammo_sae.sae.trainer import Training
        from mammo_sae.sae.variants.base import Start
        from mammo_sae.sae.variants.choice import training_sae

        variant = TopKVariant(k=k, k_aux=d // 2, aux_weight=AUX_WEIGHT)
        if l1:  # without resampling, because the other library has none
            variant = L1Variant(l1=PENALTY / d, resample_every=1.0)
        settings = SaeTraining(
            variant=variant, latents=h, lr=LR, steps=steps, warm_up=0.0, decay=0.0, dead_after=0.05,
        )  # fmt: skip
        start = Start(torch.zeros(1, d, device=device), scale=1.0, dtype=dtype)
        self.training = Training(settings, training_sae(settings, start))
        self.mean = torch.zeros(d, device=device)

    def step(self, x: Tensor) -> None:
        """Take one training step on cells [n, d]."""
        self.training.advance(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return reconstructions of cells [n, d]."""
        sae = self.training.sae.folded(self.mean, 1.0)
        return sae.decode(*sae.encoder()(x))

    def dictionary(self) -> Tensor:
        """Return the atoms [h, d]."""
        return self.training.sae.parameters["decoder_weight"]


class SaeLens:
    """SAELens's trainer, with the same steps as its `fit`."""

    def __init__(
        self,
        d: int,
        h: int,
        k: int,
        steps: int,
        device: str,
        batch: int,
        *,
        autocast: bool,
        l1: bool = False,
    ) -> None:
        import sae_lens as library
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        common = {"d_in": d, "d_sae": h, "device": device}
        if l1:
            sae = library.StandardTrainingSAE(
                library.StandardTrainingSAEConfig(**common, l1_coefficient=PENALTY)
            )
        else:
            sae = library.TopKTrainingSAE(
                library.TopKTrainingSAEConfig(**common, k=k, aux_loss_coefficient=AUX_WEIGHT)
            )
        config = SAETrainerConfig(
            total_training_samples=steps * batch,
            train_batch_size_samples=batch,
            lr=LR,
            lr_end=LR,
            device=device,
            autocast=autocast,
            dead_feature_window=max(1, steps // 20),
        )
        self.trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))

    def step(self, x: Tensor) -> None:
        """Take one training step on cells [n, d]."""
        self.trainer.maybe_reset_sparsity()
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return reconstructions of cells [n, d]."""
        return self.trainer.sae(x)

    def dictionary(self) -> Tensor:
        """Return the atoms [h, d]."""
        return self.trainer.sae.W_dec


class Sparsify:
    """Sparsify's SparseCoder, trained in the same way as by its Trainer."""

    def __init__(self, d: int, h: int, k: int, steps: int, device: str) -> None:
        from sparsify import SparseCoder, SparseCoderConfig

        if device == "cuda":  # as in its Trainer; its `forward` runs in bfloat16 by default
            torch.set_float32_matmul_precision("high")
        config = SparseCoderConfig(num_latents=h, k=k, normalize_decoder=True)
        self.sae = SparseCoder(d, config, device=device, dtype=torch.float32)
        self.optimiser = torch.optim.Adam(self.sae.parameters(), lr=LR, fused=True)
        self.silent, self.patience = torch.zeros(h, device=device), max(1, steps // 20)

    def step(self, x: Tensor) -> None:
        """Take one training step on cells [n, d]."""
        sae = self.sae
        sae.set_decoder_norm_to_unit_norm()
        dead = self.silent >= self.patience
        out = sae(x, dead_mask=dead if dead.any() else None)
        (out.fvu + AUX_WEIGHT * out.auxk_loss).backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.silent += 1
        self.silent[out.latent_indices.flatten()] = 0

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return reconstructions of cells [n, d]."""
        return self.sae(x).sae_out

    def dictionary(self) -> Tensor:
        """Return the atoms [h, d]."""
        return self.sae.W_dec


class DictionaryLearning:
    """dictionary_learning's TopKTrainer."""

    def __init__(self, d: int, h: int, k: int, steps: int, device: str) -> None:
        from dictionary_learning.trainers.top_k import TopKTrainer

        self.trainer = TopKTrainer(
            steps=steps, activation_dim=d, dict_size=h, k=k, layer=0, lm_name="", lr=LR,
            auxk_alpha=AUX_WEIGHT, warmup_steps=0, decay_start=None, seed=0, device=device,
        )  # fmt: skip
        self.done = 0

    def step(self, x: Tensor) -> None:
        """Take one training step on cells [n, d]."""
        self.trainer.update(self.done, x)
        self.done += 1

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return reconstructions of cells [n, d]."""
        return self.trainer.ae(x)

    def dictionary(self) -> Tensor:
        """Return the atoms [h, d]."""
        return self.trainer.ae.decoder.weight.t()


class Overcomplete:
    """overcomplete's TopKSAE in its training loop, with its AuxK-like loss off."""

    def __init__(self, d: int, h: int, k: int, device: str) -> None:
        without_torchvision()
        from overcomplete.sae import TopKSAE

        self.sae = TopKSAE(d, nb_concepts=h, top_k=k, device=device)
        self.optimiser = torch.optim.Adam(self.sae.parameters(), lr=LR, fused=True)

    def step(self, x: Tensor) -> None:
        """Take one training step on cells [n, d]."""
        _, _, rebuilt = self.sae(x)
        self.optimiser.zero_grad()
        (rebuilt - x).square().mean().backward()
        self.optimiser.step()

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return reconstructions of cells [n, d]."""
        self.sae.eval()
        return self.sae(x)[2]

    def dictionary(self) -> Tensor:
        """Return the atoms [h, d]."""
        return self.sae.get_dictionary()


def stored(train: np.ndarray, batch: int, folder: Path) -> Iterator[Tensor]:
    """Yield cells that the package's loader reads from an embedding store."""
    from mammo_sae.grids import LayerGrid
    from mammo_sae.sae.loader import Cells
    from mammo_sae.stores.embeddings import EmbeddingReader, create_embedding_store

    side = 16
    maps = train[: len(train) // side**2 * side**2].reshape(-1, side, side, train.shape[1])
    ids = [str(number) for number in range(len(maps))]
    grid = LayerGrid("layer", train.shape[1], side, side, 16, 0.0, 0.0, 16)
    path = folder / "cells"
    manifest = folder / "cells.json"
    with create_embedding_store(path, manifest, image_ids=ids, grids=[grid]) as writer:
        for start in range(0, len(maps), 16):
            writer.write({"layer": maps[start : start + 16]})
    # A quarter of the cells fits into memory, so the mixing buffer reads while training runs.
    budget = train.nbytes // 8
    reader = EmbeddingReader([manifest], "layer")
    return Cells(reader, budget, torch.device("cpu")).batches(batch, seed=0)


def main() -> None:
    """Run one implementation and answer commands."""
    name, data, sizes = sys.argv[1], np.load(sys.argv[2]), json.loads(sys.argv[3])
    answers, sys.stdout = sys.stdout, sys.stderr
    h, k, batch, steps, device = (sizes[n] for n in ("h", "k", "batch", "steps", "device"))
    held_out, train = torch.from_numpy(data["held_out"]).to(device), data["train"]
    common = (train.shape[1], h, k, steps, device)
    torch.manual_seed(0)
    make = {
        "products": lambda: Products(train.shape[1], h, batch, device),
        "plain": lambda: Plain(*common),
        "mammo-sae": lambda: MammoSae(*common),
        "mammo-sae fp32": lambda: MammoSae(*common, torch.float32),
        "mammo-sae store": lambda: MammoSae(*common),
        "mammo-sae l1": lambda: MammoSae(*common, l1=True),
        "sae-lens fp32": lambda: SaeLens(*common, batch, autocast=False),
        "sae-lens bf16": lambda: SaeLens(*common, batch, autocast=True),
        "sae-lens l1 bf16": lambda: SaeLens(*common, batch, autocast=True, l1=True),
        "sparsify": lambda: Sparsify(*common),
        "dictionary_learning": lambda: DictionaryLearning(*common),
        "overcomplete": lambda: Overcomplete(train.shape[1], h, k, device),
    }
    with tempfile.TemporaryDirectory() as folder:
        racer = make[name]()
        if name == "mammo-sae store":
            batches = stored(train, batch, Path(folder))
        else:
            cells = torch.from_numpy(train).to(device).split(batch)
            batches = (cells[number % len(cells)].clone() for number in range(10**9))
        for line in sys.stdin:
            answer: dict[str, float] = {}
            if line.startswith("train"):
                start, processor = time.perf_counter(), time.process_time()
                for _ in range(int(line.split()[1])):
                    racer.step(next(batches))
                if device == "cuda":
                    torch.cuda.synchronize()
                answer["seconds"] = time.perf_counter() - start
                answer["processor_seconds"] = time.process_time() - processor
            elif line.startswith("score"):
                with torch.no_grad():
                    rebuilt = torch.cat([racer.reconstruct(x) for x in held_out.split(batch)])
                    found = racer.dictionary()
                missed = (held_out - rebuilt).square().sum()
                spread = (held_out - held_out.mean(dim=0)).square().sum()
                answer["explained_variance"] = 1 - float(missed / spread)
                unit = found / found.norm(dim=1, keepdim=True)
                cosine = torch.from_numpy(data["atoms"]).to(device) @ unit.t()
                answer["recovered"] = float((cosine.amax(dim=1) > 0.9).double().mean())
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
