"""SAEs in the layouts of other libraries, and their codes by these libraries' formulas, in float64.

They are written with torch and safetensors alone. benchmarks/published_saes.py uses the libraries
themselves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

D, H, K = 7, 20, 4


@dataclass(frozen=True)
class Foreign:
    """Files of a library, and the codes that it gives.

    `codes` are in the library's units, for atoms [h, d] of any length.
    """

    path: Path
    weights: Path
    atoms: Tensor
    offset: Tensor
    encode: Callable[[Tensor], Tensor]
    k: int | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, or for a folder, of its configuration and its weights."""
        configs = sorted(self.path.glob("c*.json")) if self.path.is_dir() else []
        content = b"".join(file.read_bytes() for file in [*configs, self.weights])
        return hashlib.sha256(content).hexdigest()


def draw(seed: int = 30, longest: float = 7.0) -> dict[str, Tensor]:
    """Parameters with atoms of norms from 0.5 to `longest`."""
    random = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(H, D, generator=random), dim=1)
    return {
        "W": torch.randn(H, D, generator=random) / 2,
        "b": torch.randn(H, generator=random) / 5,
        "D": atoms * torch.linspace(0.5, longest, H)[torch.randperm(H, generator=random), None],
        "c": torch.randn(D, generator=random) * 3,
        "threshold": torch.rand(H, generator=random) - 0.2,
        "r": torch.randn(H, generator=random) / 3,
        "gate": torch.randn(H, generator=random) / 5,
    }


def topk(pre: Tensor, k: int) -> Tensor:
    kept = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, kept.indices, kept.values.relu())


def saelens(
    folder: Path, kind: str, config: dict[str, Any], centred: bool = True, **changes: Tensor
) -> Foreign:
    """A folder of SAELens; `config` is written beside its sizes."""
    p = draw() | changes
    tensors = {"W_enc": p["W"].t(), "W_dec": p["D"], "b_dec": p["c"]}
    tensors |= {"b_gate": p["gate"], "b_mag": p["b"], "r_mag": p["r"]} if kind == "gated" else {
        "b_enc": p["b"]
    }  # fmt: skip
    if kind == "jumprelu":
        tensors["threshold"] = p["threshold"]
    tensors |= {name: changes[name] for name in changes if name.endswith("scaling_factor")}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "sae_weights.safetensors")
    sizes = {"d_in": D, "d_sae": H, "dtype": "torch.float32", "device": "cpu"}
    (folder / "cfg.json").write_text(json.dumps(sizes | config))
    rescaled = config.get("rescale_acts_by_decoder_norm", False)

    def encode(x: Tensor) -> Tensor:
        linear = (x - p["c"].double() * centred) @ p["W"].double().t()
        pre = linear + p["b"].double()
        if kind == "gated":
            magnitude = linear * p["r"].double().exp() + p["b"].double()
            return magnitude.relu() * (linear + p["gate"].double() > 0)
        if kind == "topk":
            length = p["D"].double().norm(dim=1)
            return topk(pre * length, K) / length if rescaled else topk(pre, K)
        if kind == "jumprelu":
            return pre.relu() * (pre > p["threshold"].double())
        return pre.relu()

    return Foreign(folder, folder / "sae_weights.safetensors", p["D"], p["c"], encode)


def dictionary_learning(folder: Path, kind: str, **changes: Tensor) -> Foreign:
    """A folder of dictionary_learning."""
    p = draw() | changes
    matrices = {"encoder.weight": p["W"], "decoder.weight": p["D"].t().contiguous()}
    plain = {"W_enc": p["W"].t().contiguous(), "W_dec": p["D"], "b_enc": p["b"], "b_dec": p["c"]}
    single = {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(0.3)}
    state = {
        "AutoEncoder": matrices | {"encoder.bias": p["b"], "bias": p["c"]},
        "AutoEncoderNew": matrices | {"encoder.bias": p["b"], "decoder.bias": p["c"]},
        "AutoEncoderTopK": matrices | single | {"encoder.bias": p["b"], "b_dec": p["c"]},
        "BatchTopKSAE": matrices | single | {"encoder.bias": p["b"], "b_dec": p["c"]},
        "GatedAutoEncoder": matrices | {
            "decoder_bias": p["c"], "r_mag": p["r"], "gate_bias": p["gate"], "mag_bias": p["b"]
        },
        "JumpReluAutoEncoder": plain | {"threshold": p["threshold"]},
        "MatryoshkaBatchTopKSAE": plain | single | {"group_sizes": torch.tensor([5, 15])},
    }[kind]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "ae.pt")
    trainer = {"dict_class": kind, "activation_dim": D, "dict_size": H}
    if "TopK" in kind:
        trainer["k"] = K
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))

    def encode(x: Tensor) -> Tensor:
        centred = kind not in ("AutoEncoderNew", "JumpReluAutoEncoder")
        linear = (x - p["c"].double() * centred) @ p["W"].double().t()
        pre = linear + p["b"].double()
        if kind == "GatedAutoEncoder":
            magnitude = linear * p["r"].double().exp() + p["b"].double()
            return magnitude.relu() * (linear + p["gate"].double() > 0)
        if kind == "AutoEncoderTopK":
            return topk(pre, K)
        if kind == "JumpReluAutoEncoder":
            return (pre * (pre > p["threshold"].double())).relu()
        if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
            return pre.relu() * (pre.relu() > single["threshold"].double())
        return pre.relu()

    return Foreign(folder, folder / "ae.pt", p["D"], p["c"], encode)


def overcomplete(path: Path, kind: str, encoder: str = "linear") -> Foreign:
    """A state dict of overcomplete, after eval(): unit atoms times exp(multiplier).

    `encoder` is ``linear``, ``untied`` (of `sae.untied(bias=True)`) or ``tied`` (of `sae.tied()`):
    the atoms, which the file then holds a second time, without a bias.
    """
    p = draw()
    unit = p["D"] / p["D"].norm(dim=1, keepdim=True)
    multiplier = torch.tensor(0.7)
    state = {"dictionary._weights": unit, "dictionary.multiplier": multiplier}
    atoms = unit * multiplier.exp()
    k = {"TopKSAE": K, "SAE": H, "RATopKSAE": K}.get(kind)
    if kind.endswith("JumpSAE"):
        state["thresholds"] = p["threshold"] - 2
    elif kind == "BatchTopKSAE":
        state["running_threshold"] = torch.tensor(0.3)
    if kind.startswith("RA"):
        mixture = torch.softmax(torch.randn(H, 9, generator=torch.Generator().manual_seed(4)), 1)
        points = torch.randn(9, D, generator=torch.Generator().manual_seed(5)) * 4
        del state["dictionary._weights"]
        state |= {"dictionary.W": mixture, "dictionary.C": points, "dictionary.Relax": unit / 9}
        atoms = (mixture @ points + unit / 9) * multiplier.exp()
    weight, bias = p["W"], p["b"]
    if encoder == "linear":
        state |= {"encoder.final_block.0.weight": weight, "encoder.final_block.0.bias": bias}
    elif encoder == "untied":
        state |= {"encoder.weight": weight, "encoder.bias": bias}
    else:
        state |= {
            name.replace("dictionary.", "encoder.tied_to."): tensor
            for name, tensor in state.items()
            if name.startswith("dictionary.")
        }
        weight, bias = atoms, torch.zeros(H)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)

    def encode(x: Tensor) -> Tensor:
        pre = x @ weight.double().t() + bias.double()
        if "thresholds" in state:
            return pre.relu() * (pre > state["thresholds"].double().exp())
        if "running_threshold" in state:
            return pre.relu() * (pre >= 0.3)
        return pre.relu() if k == H else topk(pre, K)

    return Foreign(path, path, atoms, torch.zeros(D), encode, k)
