"""Exported SAEs read by SAELens itself: are its codes and reconstructions ours?

    python benchmarks/check_saelens.py [--peers DIR]

Writes a TopK and a thresholded SAE with `mammo_sae.sae.formats.write_saelens`, loads them with
SAELens in the peers' environment (that of bench_sae.py), and compares codes and reconstructions of
random cells. Ends with status 1 if a difference exceeds 1e-4 of the largest value.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

D, H, K, CELLS = 48, 160, 8, 500
TOLERANCE = 1e-4


def main() -> None:
    """Write, have them read, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=Path(".venv-bench"))
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.read)
        return
    from bench_sae import build

    build(arguments.peers)
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        for kind in ("topk", "threshold"):
            folder = Path(name) / kind
            folder.mkdir()
            expected = write(folder, kind)
            python = str(arguments.peers / "bin/python")
            subprocess.run([python, __file__, "--read", str(folder)], check=True)
            found = torch.load(folder / "found.pt", weights_only=True)
            for what, value in expected.items():
                difference = float((found[what] - value).abs().max() / value.abs().max())
                worst = max(worst, difference)
                print(f"{kind:10s} {what:15s} largest difference {difference:.1e}")
    sys.exit(worst > TOLERANCE)


def write(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """Export an SAE and cells; return the dense codes [n, h] and reconstructions [n, d]."""
    from mammo_sae.sae.formats import write_saelens
    from mammo_sae.sae.model import Encoder, SparseAutoencoder

    random = torch.Generator().manual_seed(3)
    atoms = torch.nn.functional.normalize(torch.randn(H, D, generator=random))
    sae = SparseAutoencoder(
        encoder_weight=atoms + 0.1 * torch.randn(H, D, generator=random),
        encoder_bias=torch.randn(H, generator=random) / 10,
        decoder_weight=atoms,
        decoder_bias=torch.randn(D, generator=random),
        k=K if kind == "topk" else None,
        threshold=None if kind == "topk" else torch.rand(H, generator=random),
    )
    write_saelens(sae, folder)
    x = torch.randn(CELLS, D, generator=random)
    torch.save(x, folder / "cells.pt")
    index, value = Encoder(sae)(x)
    codes = torch.zeros(CELLS, H).scatter_add(1, index, value)
    return {"codes": codes, "reconstruction": sae.decode(index, value)}


def read(folder: Path) -> None:
    """Encode and decode the cells with SAELens; runs in the peers' environment."""
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder)
    with torch.no_grad():
        codes = sae.encode(torch.load(folder / "cells.pt", weights_only=True))
        found = {"codes": codes.to_dense(), "reconstruction": sae.decode(codes)}
    torch.save(found, folder / "found.pt")


if __name__ == "__main__":
    main()
