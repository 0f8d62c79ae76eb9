"""Check that our layers and logits equal Mammo-CLIP's, for checkpoints written by its own code.

    python benchmarks/published_checkpoints.py [--peers DIR] [--full]

In the environment of the other libraries, mammoclip 0.1.8 (the code of Mammo-CLIP's repository,
from PyPI) writes files with random weights and statistics. These are a pretraining `.tar` of B2 and
of B5, with the configuration that its trainer stores (in OmegaConf, after its own conversion), and
for B2 the `.pth` of six classifiers: mass, calcification and density, each as a linear probe (all
three heads share one encoder with its own BatchNorm statistics) and fine-tuned. It runs them on an
image of 304 x 182 pixels (`--full`: 1520 x 912). Instead of a whole text encoder the `.tar`
contains only embeddings and pooler.

Our code imports the files as in a run. The script ends with status 1 if a layer differs by more
than 1e-5 of its largest value, or a logit by more than 1e-5.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch

STUBS = (  # modules that their code imports and that are not used here
    "albumentations",
    "albumentations.pytorch",
    "albumentations.pytorch.transforms",
    "nltk",
    "nltk.tokenize",
    "timm",
    "torch.utils.tensorboard",
    "torchvision",
    "torchvision.models",
    "torchvision.models.resnet",
    "transformers",
    "transformers.tokenization_utils",
)
TOLERANCE = 1e-5
SMALL, FULL = (304, 182), (1520, 912)
CONCEPTS = {"mass": 1, "calcification": 1, "density": 4}
ARCHITECTURES = {"b2": "efficientnet-b2", "b5": "efficientnet-b5"}


def main() -> None:
    """Write files with Mammo-CLIP's code, read them with ours, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=Path(".venv-bench"))
    parser.add_argument("--full", action="store_true", help="at 1520 x 912")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make(arguments.make, FULL if arguments.full else SMALL)
        return
    with tempfile.TemporaryDirectory() as name:
        python = str(arguments.peers / "bin/python")
        full = ["--full"] if arguments.full else []
        command = [python, __file__, "--make", name, *full]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        agree = [compare(path) for path in sorted(Path(name).glob("*.expected"))]
    print(f"{len(agree)} files")
    sys.exit(not all(agree))


def compare(path: Path) -> bool:
    """Import a file and compare layers and logits with Mammo-CLIP's."""
    from mammo_sae.encoders import import_encoder
    from mammo_sae.encoders.mammo_clip import read_checkpoint
    from mammo_sae.encoders.network import load_encoder
    from mammo_sae.encoders.settings import MammoClipSource, PretrainedSettings

    expected = torch.load(path, weights_only=True)
    checkpoint = path.with_suffix("")
    architecture = ARCHITECTURES[checkpoint.name[:2]]
    source = MammoClipSource(kind="mammo_clip", architecture=architecture, path=str(checkpoint))
    folder = path.parent / "encoder"
    import_encoder.run(
        PretrainedSettings(source=source),
        weights=folder / "encoder.safetensors",
        description=folder / "encoder.json",
    )
    network = load_encoder(folder)
    found = read_checkpoint(checkpoint, architecture)
    layers = [*sorted(name for name in expected if name.startswith("blocks.")), "head"]
    with torch.inference_mode():
        maps = network.forward_layers(expected["image"], layers)
        worst = max(
            float(
                (maps[name].cells.float() - expected[name]).abs().max() / expected[name].abs().max()
            )
            for name in layers
        )
        text = f"{checkpoint.name:28s} {len(layers)} layers: {worst:.1e}"
        logits = 0.0
        if found.weight is not None:
            own = maps["head"].mean((2, 3)) @ found.weight.T + found.bias
            logits = float((own - expected["logits"]).abs().max())
            text += f", logits: {logits:.1e}"
    print(text, flush=True)
    return (
        worst <= TOLERANCE
        and logits <= TOLERANCE
        and ("logits" in expected) == (found.weight is not None)
    )


def make(folder: Path, size: tuple[int, int]) -> None:
    """Write the files and the outputs of their own network, in the other libraries' environment."""
    import mammoclip

    codebase = Path(mammoclip.__file__).parents[1] / "codebase"
    sys.modules |= {name: mock.MagicMock() for name in STUBS}
    sys.path.insert(0, str(codebase))
    from breastclip.model.modules import LinearClassifier, efficientnet_custom
    from breastclip.model.modules.projection import LinearProjectionHead

    # The initial weights are overwritten, so ImageNet's weights need not be downloaded.
    network = efficientnet_custom.EfficientNet
    network.from_pretrained = classmethod(lambda cls, name, **named: cls.from_name(name, **named))
    torch.manual_seed(0)
    for short in ARCHITECTURES:
        config = configuration(codebase / "configs", f"pre_train_{short}_clip")
        model = torch.nn.Module()
        model.image_encoder = drawn_encoder(config)
        model.text_encoder = torch.nn.Module()
        model.text_encoder.text_encoder = torch.nn.ModuleDict(
            {"embeddings": torch.nn.Embedding(28_996, 768), "pooler": torch.nn.Linear(768, 768)}
        )
        width = model.image_encoder.out_dim
        model.image_projection = LinearProjectionHead(width, 512)
        model.text_projection = LinearProjectionHead(768, 512)
        model.logit_scale = torch.nn.Parameter(torch.tensor(2.66))
        optimiser = torch.optim.AdamW(model.image_projection.parameters())
        content = {
            "model": model.state_dict(),
            "optimizer": optimiser.state_dict(),
            "scheduler": torch.optim.lr_scheduler.ConstantLR(optimiser).state_dict(),
            "config": config,
            "epoch": 10,
            "train_loss": 0.5,
        }
        keep(folder / f"{short}-model-best-epoch-10.tar", content, model.image_encoder, None, size)
    probed = drawn_encoder(configuration(codebase / "configs", "pre_train_b2_clip"))
    for kind in ("probe", "finetuned"):
        for concept, outputs in CONCEPTS.items():
            encoder = probed
            if kind == "finetuned":
                encoder = drawn_encoder(configuration(codebase / "configs", "pre_train_b2_clip"))
            whole = torch.nn.Module()
            whole.image_encoder = encoder
            whole.classifier = LinearClassifier(feature_dim=encoder.out_dim, num_class=outputs)
            score = {"auroc": np.float64(0.8)}
            if outputs > 1:
                score = {"accuracy": np.float64(0.8), "f1": np.float64(0.7)}
            content = {
                "model": whole.state_dict(),
                "predictions": np.random.default_rng(0).random(20),
                "epoch": 3,
                **score,
            }
            keep(folder / f"b2_{kind}_{concept}.pth", content, encoder, whole.classifier, size)


def configuration(configs: Path, name: str) -> dict:
    """Compose their configuration like Hydra, and convert it like their trainer."""
    from breastclip.util.utils import convert_dictconfig_to_dict
    from omegaconf import OmegaConf

    whole = OmegaConf.load(configs / f"{name}.yaml")
    for default in whole.pop("defaults"):
        if default == "_self_":
            continue
        ((group, names),) = default.items()
        for part in [names] if isinstance(names, str) else names:
            whole = OmegaConf.merge(
                whole, {group: OmegaConf.load(configs / group / f"{part}.yaml")}
            )
    folder = "outputs"
    OmegaConf.register_resolver("hydra", lambda _: folder, replace=True)
    return convert_dictconfig_to_dict(whole)


def drawn_encoder(config: dict) -> torch.nn.Module:
    """Make their image encoder with random weights and statistics."""
    from breastclip.model.modules import load_image_encoder

    encoder = load_image_encoder(config["model"]["image_encoder"]).eval()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.6)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.0)
    return encoder


def keep(path, content, encoder, classifier, size) -> None:
    """Write a checkpoint, and a file with maps of some layers and logits for a random image."""
    torch.save(content, path)
    expected = {"image": torch.randn(1, 3, *size)}
    hooks = [
        block.register_forward_hook(
            lambda _m, _i, out, name=f"blocks.{index}": expected.__setitem__(name, out)
        )
        for index, block in enumerate(encoder._blocks)
        if index % 4 == 2
    ]
    with torch.inference_mode():
        pooled, final = encoder({"image": expected["image"], "breast_clip_train_mode": True})
        expected["head"] = final
        if classifier is not None:
            expected["logits"] = classifier(pooled)
    for hook in hooks:
        hook.remove()
    torch.save(expected, path.with_name(path.name + ".expected"))


if __name__ == "__main__":
    main()
