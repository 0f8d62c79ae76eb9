"""Compare two ways of head-layer interventions at Mammo-CLIP's size: algebra and rerunning.

The codes are synthetic: 4,000 images, 48 x 29 cells, h = 16,384 latents, a few thousand of which
fire. The algebra scores every k from 0 to h, on and off, for two concepts, from the pooled codes.
The repository of the paper does it in another way: for each k it edits the codes of each cell,
decodes, pools and applies the head. The second way is timed on a few images and values of k, and
its time is extrapolated. The script checks that both ways give the same logits.

    python benchmarks/bench_interventions.py [--images 4000] [--latents 16384]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from mammo_sae.analysis.edits import first
from mammo_sae.analysis.interventions import Edits
from mammo_sae.analysis.mean_codes import MeanCodes
from mammo_sae.analysis.sweep import sweep, working

ROWS, COLUMNS, CHANNELS, SLOTS = 48, 29, 2048, 32
KS = (0, 1, 5, 10, 50, 100, 250, 500, 1000, 5000, 10000, 16384)


def draw_image(rng: np.random.Generator, latents: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image's codes: index and value [cells, SLOTS]. Latents of low index fire more."""
    cells = ROWS * COLUMNS
    index = (latents * rng.random((cells, SLOTS)) ** 4).astype(np.int64)
    return index, rng.random((cells, SLOTS)).astype(np.float32)


def pool(index: np.ndarray, value: np.ndarray, latents: int) -> np.ndarray:
    return np.bincount(index.ravel(), value.ravel(), minlength=latents) / len(index)


def rerun(
    index: torch.Tensor,
    value: torch.Tensor,
    kept: torch.Tensor,
    decoder: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """Return the logit after editing the codes of every cell, decoding, pooling and the head."""
    edited = value * kept[index]
    embedding = torch.nn.functional.embedding_bag(
        index, decoder, per_sample_weights=edited, mode="sum"
    )
    return embedding.mean(0) @ weight


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--latents", type=int, default=16384)
    parser.add_argument("--rerun-images", type=int, default=4)
    arguments = parser.parse_args()
    n, h = arguments.images, arguments.latents
    rng = np.random.default_rng(0)
    decoder = rng.standard_normal((h, CHANNELS), dtype=np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    head = rng.standard_normal((2, CHANNELS), dtype=np.float32)

    means = np.empty((n, h), np.float32)
    kept_images = []
    for i in range(n):
        index, value = draw_image(rng, h)
        means[i] = pool(index, value, h)
        if i < arguments.rerun_images:
            kept_images.append((index, value))
    order = np.argsort(-means.mean(axis=0), kind="stable")
    labels = rng.random(n) < 0.3

    start, start_cpu = time.perf_counter(), time.process_time()
    points = 0
    effects = decoder @ head.T
    copy = MeanCodes.write([means], n, Path(tempfile.gettempdir()))
    for concept in range(2):
        weights = effects[:, concept].astype(np.float64)
        data = Edits(copy, weights, 0.0, labels, labels, labels, np.zeros(h))
        curves = sweep(data, working(data), order)
        points += sum(len(curve) for curve in curves.values())
    algebra = time.perf_counter() - start
    cpu = time.process_time() - start_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2

    tensors = [(torch.from_numpy(i), torch.from_numpy(v)) for i, v in kept_images]
    atoms, weight = torch.from_numpy(decoder), torch.from_numpy(head[0])
    members = first(order, [min(k, h) for k in KS])
    start = time.perf_counter()
    logits = np.array(
        [
            [
                float(rerun(i, v, torch.from_numpy(kept).float(), atoms, weight))
                for kept in members.T
            ]
            for i, v in tensors
        ]
    )
    one = (time.perf_counter() - start) / logits.size
    expected = (means[: len(tensors)] * effects[:, 0].astype(np.float64)) @ members
    print(f"images {n}, latents {h}, firing at all {int((means > 0).any(axis=0).sum())}")
    print(
        f"algebra: {points} points (k, mode, concept) in {algebra:.1f} s "
        f"({cpu:.1f} s of CPU), peak {peak:.2f} GiB"
    )
    print(
        f"rerun:   {one * 1e3:.1f} ms per image and k; largest difference of a logit "
        f"{np.abs(logits - expected).max():.1e}"
    )
    # One rerun gives the logits of both concepts. On and off need two reruns.
    full = one * n * 2 * len(KS)
    print(
        f"the paper's {len(KS)} k, on and off, by rerunning: {full:.0f} s multiplied out, "
        f"{full / algebra:.0f} times the algebra's time for all k"
    )


if __name__ == "__main__":
    main()
