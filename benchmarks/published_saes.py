"""Check that codes stay the same when SAE files are exchanged with other libraries.

    python benchmarks/published_saes.py [--peers DIR]

In the environment of the other libraries (that of bench_sae.py), SAELens, dictionary_learning and
overcomplete write SAEs of every kind with their own classes, with random parameters and atoms of
any length, and encode random cells. `mammo_sae.sae.formats` reads these files. SAELens also reads
our files, one of every variant. Folders of older versions of SAELens are its current folders with a
`cfg.json` in the old keys, which SAELens reads itself.

The script prints the largest difference of codes and reconstructions, relative to the largest
value, and the number of codes that are 0 in only one of the two libraries. It ends with status 1 if
there is such a code, or if a difference exceeds 1e-6, or 1e-4 for files that SAELens reads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

D, H, K, CELLS = 48, 160, 8, 500
TOLERANCE = {"theirs": 1e-6, "ours": 1e-4}


def main() -> None:
    """Read files of the other libraries, and let SAELens read our files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=Path(".venv-bench"))
    parser.add_argument("--peer", nargs=2, metavar=("TASK", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        task, folder = arguments.peer
        {"write": peers_write, "read": peers_read}[task](Path(folder))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sys.exit(any([theirs(arguments.peers, folder), ours(arguments.peers, folder)]))


def _ask(peers: Path, task: str, folder: Path) -> None:
    python = str(peers / "bin/python")
    subprocess.run([python, __file__, "--peer", task, str(folder)], check=True)


def _dense(index: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(index), H).scatter_add(1, index, value)


def theirs(peers: Path, folder: Path) -> bool:
    """Read the files of the other libraries. Return whether something differs."""
    from mammo_sae.sae.formats.published import read_published
    from mammo_sae.sae.model import Encoder
    from mammo_sae.sae.settings import PublishedVariant

    _ask(peers, "write", folder)
    wrong = False
    for case in sorted(path.parent for path in folder.glob("*/judged.pt")):
        judged = torch.load(case / "judged.pt", weights_only=True)
        given = json.loads((case / "given.json").read_text())
        weights = case / given["weights"]
        path = case if given["folder"] else weights
        files = [*case.glob("c*.json"), weights] if given["folder"] else [weights]
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        sae = read_published(PublishedVariant(path=str(path), sha256=digest, k=given["k"]))
        index, value = Encoder(sae)(judged["cells"])
        found = {"codes": _dense(index, value), "reconstruction": sae.decode(index, value)}
        # In our files a code is the length of its atom's part of the embedding.
        judged["codes"] = judged["codes"] * judged["atoms"].norm(dim=1)
        wrong |= _compared(case.name, found, judged, TOLERANCE["theirs"])
    return wrong


def ours(peers: Path, folder: Path) -> bool:
    """Let SAELens read our files of every variant. Return whether something differs."""
    from mammo_sae.sae.formats.saelens import write
    from mammo_sae.sae.model import Encoder

    cells = torch.randn(CELLS, D, generator=torch.Generator().manual_seed(3)) + 2
    made = {folder / f"ours {name}": sae for name, sae in _our_saes()}
    for at, sae in made.items():
        write(sae, at)
    torch.save(cells, folder / "cells.pt")
    _ask(peers, "read", folder)
    wrong = False
    for at, sae in made.items():
        index, value = Encoder(sae)(cells)
        codes = torch.zeros(CELLS, sae.latents).scatter_add(1, index, value)
        found = {"codes": codes, "reconstruction": sae.decode(index, value)}
        judged = torch.load(at / "found.pt", weights_only=True)
        wrong |= _compared(at.name, found, judged, TOLERANCE["ours"])
    return wrong


def _our_saes() -> Iterator[tuple[str, Any]]:
    """Yield an SAE of every variant, trained a little on random cells, with the variant's name."""
    from mammo_sae.sae.settings import SaeTraining
    from mammo_sae.sae.trainer import Training
    from mammo_sae.sae.variants.base import Start
    from mammo_sae.sae.variants.choice import computed_sae, takes_steps, training_sae
    from mammo_sae.steps import VARIANT

    random = torch.Generator().manual_seed(4)
    cells = torch.randn(2000, D, generator=random)
    mean = torch.full((D,), 2.0)
    for name in sorted(VARIANT.names):
        if name == "published":  # weights of other libraries, see `theirs`
            continue
        content = {"variant": {"name": name}, "latents": 2 * D, "steps": 30, "batch": 256}
        settings = SaeTraining.model_validate(content)
        start = Start(cells, scale=1.0, dtype=torch.float32)
        if not takes_steps(settings):
            yield name, computed_sae(settings, start).folded(mean, 1.0)
            continue
        training = Training(settings, training_sae(settings, start))
        for _ in range(settings.steps):
            training.advance(torch.randn(256, D, generator=random))
        raw = training.sae.raw
        yield name, training.sae.folded(torch.zeros(D) if raw else mean, 1.0)


def _compared(
    name: str, found: dict[str, torch.Tensor], judged: dict[str, torch.Tensor], limit: float
) -> bool:
    worst = 0.0
    told = [f"{name:48s}"]
    for what, value in found.items():
        difference = float((judged[what] - value).abs().max() / judged[what].abs().max())
        worst = max(worst, difference)
        told.append(f"{what} {difference:.1e}")
    other = int(((found["codes"] > 0) != (judged["codes"] > 0)).sum())
    print(*told, f"support {other} of {int((judged['codes'] > 0).sum())}")
    return worst > limit or other > 0


# The code below runs in the environment of the other libraries.


def peers_read(folder: Path) -> None:
    """Encode and decode the cells with every one of our SAEs, in SAELens."""
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    from sae_lens import SAE

    cells = torch.load(folder / "cells.pt", weights_only=True)
    for at in folder.glob("ours *"):
        sae = SAE.load_from_disk(at)
        with torch.no_grad():
            codes = sae.encode(cells)
            rebuilt = sae.decode(codes)
            # In our files a code is the length of its atom's part of the embedding.
            found = {"codes": codes.to_dense() * sae.W_dec.norm(dim=1), "reconstruction": rebuilt}
        torch.save(found, at / "found.pt")


def peers_write(folder: Path) -> None:
    """Write SAEs of every kind, cells, codes and reconstructions."""
    torch.manual_seed(5)
    # With a CPU build of torch, a GPU build of this package breaks the import of transformers.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    for name, case in [*_saelens(folder), *_dictionary_learning(folder)]:
        _keep(folder / name, case)
    from stubs import without_torchvision

    without_torchvision()
    for name, case in _overcomplete(folder):
        _keep(folder / name, case)


def _keep(folder: Path, case: dict[str, Any]) -> None:
    given = {key: case.pop(key) for key in ("weights", "folder", "k")}
    (folder / "given.json").write_text(json.dumps(given))
    torch.save({key: t.detach().clone() for key, t in case.items()}, folder / "judged.pt")


def _case(
    encode: Any, decode: Any, atoms: torch.Tensor, weights: str, k: int | None = None
) -> dict[str, Any]:
    cells = torch.randn(CELLS, D) * 2 + 1
    with torch.no_grad():
        codes = encode(cells)
        rebuilt = decode(codes)
    return {
        "cells": cells, "codes": codes.to_dense(), "reconstruction": rebuilt, "atoms": atoms,
        "weights": weights, "folder": not weights.startswith("state"), "k": k,
    }  # fmt: skip


def _drawn(parameters: Any, atoms: str) -> None:
    """Set every parameter to random values, atoms to random lengths."""
    with torch.no_grad():
        for name, parameter in parameters:
            parameter.copy_(torch.randn_like(parameter) / 3)
            if name == atoms and parameter.shape[0] == H:
                parameter.mul_(torch.rand(H, 1) * 3 + 0.2)
            elif name == atoms:
                parameter.mul_(torch.rand(1, H) * 3 + 0.2)


def _saelens(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import sae_lens as s
    from sae_lens import SAE

    sizes: dict[str, Any] = {"d_in": D, "d_sae": H, "device": "cpu", "dtype": "float32"}
    kinds = {
        "standard": (s.StandardTrainingSAE, s.StandardTrainingSAEConfig(**sizes)),
        "gated": (s.GatedTrainingSAE, s.GatedTrainingSAEConfig(**sizes)),
        "jumprelu": (s.JumpReLUTrainingSAE, s.JumpReLUTrainingSAEConfig(**sizes)),
        "topk": (
            s.TopKTrainingSAE,
            s.TopKTrainingSAEConfig(k=K, rescale_acts_by_decoder_norm=False, **sizes),
        ),
        "topk by length": (
            s.TopKTrainingSAE,
            s.TopKTrainingSAEConfig(k=K, rescale_acts_by_decoder_norm=True, **sizes),
        ),
        "batchtopk": (s.BatchTopKTrainingSAE, s.BatchTopKTrainingSAEConfig(k=K, **sizes)),
        "matryoshka": (
            s.MatryoshkaBatchTopKTrainingSAE,
            s.MatryoshkaBatchTopKTrainingSAEConfig(k=K, matryoshka_widths=[40, H], **sizes),
        ),
        "raw input": (
            s.StandardTrainingSAE,
            s.StandardTrainingSAEConfig(apply_b_dec_to_input=False, **sizes),
        ),
    }
    old = {
        "standard": [{}, {"activation_fn_str": "relu", "architecture": "standard"}],
        "gated": [{"architecture": "gated", "activation_fn_str": "relu"}],
        "jumprelu": [{"architecture": "jumprelu", "activation_fn_str": "relu"}],
        "topk": [
            {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}},
            {"architecture": "standard", "activation_fn_str": "topk",
             "activation_fn_kwargs": {"k": K}, "normalize_activations": False},
            {"architecture": "topk", "activation_fn": "topk", "activation_fn_kwargs": {"k": K}},
        ],
    }  # fmt: skip
    for name, (kind, config) in kinds.items():
        sae = kind(config)
        _drawn(sae.named_parameters(), "W_dec")
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.4)
        at = folder / f"SAELens {name}"
        sae.save_inference_model(at)
        yield at.name, _judged_by_saelens(SAE.load_from_disk(at))
        for age, keys in enumerate(old.get(name, [])):
            before = folder / f"SAELens {name} of old, {age}"
            sae.save_inference_model(before)
            sizes_of_old = {**sizes, "dtype": "torch.float32", "hook_point": "blocks.3"}
            (before / "cfg.json").write_text(json.dumps(sizes_of_old | keys))
            yield before.name, _judged_by_saelens(SAE.load_from_disk(before))


def _judged_by_saelens(sae: Any) -> dict[str, Any]:
    atoms = sae.W_dec.detach()
    case = _case(sae.encode, sae.decode, atoms, "sae_weights.safetensors")
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        case["codes"] = case["codes"] / atoms.norm(dim=1)
    return case


def _dictionary_learning(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    from dictionary_learning import dictionary as d
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    made = [
        d.AutoEncoder(D, H), d.AutoEncoderNew(D, H), d.GatedAutoEncoder(D, H),
        d.JumpReluAutoEncoder(D, H), AutoEncoderTopK(D, H, K), BatchTopKSAE(D, H, K),
        MatryoshkaBatchTopKSAE(D, H, K, [40, H - 40]),
    ]  # fmt: skip
    for sae in made:
        kind = type(sae).__name__
        _drawn(sae.named_parameters(), "W_dec" if hasattr(sae, "W_dec") else "decoder.weight")
        if "threshold" in dict(sae.named_buffers()):
            sae.threshold.fill_(0.4)
        at = folder / f"dictionary_learning {kind}"
        at.mkdir()
        # The files have the layout in which the library's `trainSAE` writes them.
        torch.save(sae.state_dict(), at / "ae.pt")
        trainer: dict[str, Any] = {"dict_class": kind, "activation_dim": D, "dict_size": H}
        if hasattr(sae, "k"):
            trainer["k"] = K
        (at / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
        again = type(sae).from_pretrained(at / "ae.pt")
        has_matrix = hasattr(again, "W_dec")
        atoms = again.W_dec.detach() if has_matrix else again.decoder.weight.detach().t()
        yield at.name, _case(again.encode, again.decode, atoms, "ae.pt")


def _overcomplete(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import overcomplete.sae as o

    multiplied = {"dictionary_params": {"use_multiplier": True}}
    made = {
        "SAE": (o.SAE(D, H, **multiplied), H),
        "TopKSAE": (o.TopKSAE(D, H, top_k=K, **multiplied), K),
        "JumpSAE": (o.JumpSAE(D, H), None),
        "BatchTopKSAE": (o.BatchTopKSAE(D, H, top_k=K * CELLS), None),
        "RATopKSAE": (o.RATopKSAE(D, H, torch.randn(H, D), top_k=K), K),
        "TopKSAE tied": (o.TopKSAE(D, H, top_k=K, **multiplied).tied(), K),
        "TopKSAE tied with bias": (o.TopKSAE(D, H, top_k=K, **multiplied).tied(bias=True), K),
        "TopKSAE untied": (o.TopKSAE(D, H, top_k=K, **multiplied).untied(bias=True), K),
        "RAJumpSAE tied": (o.RAJumpSAE(D, H, torch.randn(H, D)).tied(), None),
    }
    for kind, (sae, k) in made.items():
        sae.train()
        _drawn(((n, p) for n, p in sae.named_parameters() if n != "thresholds"), "")
        sae.encode(torch.randn(CELLS, D))
        sae.eval()
        state = sae.state_dict()
        if kind == "BatchTopKSAE":
            state["running_threshold"] = sae.running_threshold
        at = folder / f"overcomplete {kind}"
        at.mkdir()
        torch.save(state, at / "state.pt")
        atoms = sae.get_dictionary().detach()
        yield at.name, _case(lambda x, s=sae: s.encode(x)[1], sae.decode, atoms, "state.pt", k)


if __name__ == "__main__":
    main()
