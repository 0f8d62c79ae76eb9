"""Compare the network with the reference package, and the extraction step with the network alone.

    python benchmarks/bench_extraction.py [--csv FILE] [--images N] [--size HxW] [encoder ...]

For each encoder (lite0, b2, b5, or vit-s14: DINOv2 with registers, ViT-S/14), with random weights
and on the device of this machine, the script prints:

- images/s of the unchanged forward function of the reference package, and of this package's network
  in float32 and bfloat16, with the largest difference of their final maps relative to the largest
  value;
- images/s of the whole extraction step, from an image store to an embedding store (three blocks,
  the final map and pooled features), and its ratio to the same network over tensors in memory, in
  images/s and in CPU time, which hardly depends on what else runs on the machine;
- the peak resident memory of the step for N and for 2N images.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import efficientnet_lite_pytorch
import efficientnet_pytorch
import numpy as np
import torch

from mammo_sae.compute.devices import fastest_device
from mammo_sae.encoders import checkpoints, extract, import_encoder
from mammo_sae.encoders.architectures import layer_names
from mammo_sae.encoders.description import IMAGENET, EncoderDescription
from mammo_sae.encoders.network import load_encoder, save_encoder
from mammo_sae.encoders.networks.network import Network
from mammo_sae.encoders.settings import (
    ExtractionSettings,
    PretrainedSettings,
    TransformersSource,
)
from mammo_sae.stores.images import ImageRecord, create_image_store

VIT = "vit-s14"
NAMES = {"lite0": "efficientnet-lite0", "b2": "efficientnet-b2", "b5": "efficientnet-b5"}
ROUNDS = 3  # turns of the whole step
TURNS, FORWARDS = 6, 10  # passes per turn of the network alone


def rates(runs: Sequence[Callable[[], object]], images: int, rounds: int) -> list[float]:
    """Return images/s of each of `runs`, from the median of several turns after a warm-up turn.

    Turns alternate, so other load on the machine affects all runs equally.
    """
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds + 1):
        for run, kept in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                kept.append(time.perf_counter() - start)
    return [images / statistics.median(kept) for kept in times]


def cpu_ratio(first: Callable[[], object], second: Callable[[], object]) -> float:
    """Return the CPU time (user and system) of `first` over that of `second`, measured in turns.

    Unlike images/s, this depends little on other load on the machine.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for run, kept in zip((first, second), times, strict=True):
            start = time.process_time()
            run()
            kept.append(time.process_time() - start)
    return min(times[0]) / min(times[1])


def write_encoder(name: str, directory: Path) -> torch.nn.Module:
    """Write an encoder with random weights of the reference package. Return the reference."""
    package = efficientnet_lite_pytorch if "lite" in name else efficientnet_pytorch
    torch.manual_seed(0)
    reference = package.EfficientNet.from_name(name).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    description = EncoderDescription(
        kind="pretrained",
        architecture=name,
        normalisation=IMAGENET,
        source="benchmark",
        licence="none",
        data="none",
    )
    save_encoder(
        checkpoints.fold(reference.state_dict(), name, "the reference"),
        description,
        directory / "encoder.safetensors",
        directory / "encoder.json",
    )
    return reference


def write_vision_transformer(directory: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """Write DINOv2 with registers, ViT-S/14, of random weights. Return the library's final map."""
    import transformers

    torch.manual_seed(0)
    settings = transformers.Dinov2WithRegistersConfig(
        hidden_size=384, num_attention_heads=6, patch_size=14, image_size=518
    )
    reference = transformers.Dinov2WithRegistersModel(settings).eval().to(fastest_device())
    reference.save_pretrained(directory / "model")
    source = TransformersSource(kind="transformers", path=(directory / "model").as_posix())
    import_encoder.run(
        PretrainedSettings(source=source),
        weights=directory / "encoder.safetensors",
        description=directory / "encoder.json",
    )

    def final_map(x: torch.Tensor) -> torch.Tensor:
        rows, columns = x.shape[2] // 14, x.shape[3] // 14
        tokens = reference(x).last_hidden_state[:, 5:]
        return tokens.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)

    return final_map


def write_images(directory: Path, count: int, height: int, width: int) -> Path:
    """Write an image store of random grey blocks of 8 x 8 pixels. Return its manifest."""
    rng = np.random.default_rng(0)
    manifest = directory / f"{count}.json"
    blank = np.ones((height, width), bool)
    with create_image_store(
        directory / f"{count}.zarr",
        manifest,
        image_ids=[f"{i:016x}" for i in range(count)],
        height=height,
        width=width,
        regions=[],
    ) as writer:
        for i in range(count):
            coarse = rng.integers(0, 255, (-(-height // 8), -(-width // 8)), dtype=np.uint8)
            pixels = np.kron(coarse, np.ones((8, 8), np.uint8))[:height, :width]
            writer.write(i, ImageRecord(pixels, blank, blank[None][:0], np.eye(2, 3), False, 0.1))
    return manifest


def layers_of(name: str) -> list[str]:
    """Return two inner layers, the final map and the pooled features."""
    last = len(layer_names(name)) - 3
    return [f"blocks.{2 * last // 3}", f"blocks.{last - 1}", "head", "pooled"]


def step(encoder: Path, layers: list[str], images: Path, output: Path, precision: str) -> None:
    """Run the extraction step."""
    extract.run(
        ExtractionSettings(precision=precision),
        encoder=encoder,
        layers=layers,
        image_store=images,
        store=output,
        manifest=output.with_suffix(".json"),
    )


def peak_memory(*arguments: object) -> float:
    """Return the peak resident memory in GB of the extraction step in a separate process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, *arguments))
    process.start()
    peak = receiver.recv()
    process.join()
    return peak


def _measure(sender: multiprocessing.connection.Connection, *arguments: object) -> None:
    step(*arguments)  # type: ignore[arg-type]
    sender.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def bench(key: str, count: int, height: int, width: int) -> dict[str, object]:
    """Measure one encoder."""
    device = fastest_device()
    row: dict[str, object] = {
        "encoder": key,
        "size": f"{height}x{width}",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }
    precision = "float32" if device.type == "cpu" else "bfloat16"
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        root = Path(folder)
        if key == VIT:
            reference = write_vision_transformer(root / "encoder")
        else:
            reference = write_encoder(NAMES[key], root / "encoder").to(device).extract_features
        network: Network = load_encoder(root / "encoder").to(device)
        most = extract.images_per_pass(network, height, width)
        x = torch.randn(most, 3, height, width, device=device)
        expected = reference(x)
        row["images per pass"] = most
        wide = network
        narrow = load_encoder(root / "encoder").to(device, torch.bfloat16)
        low = x.to(torch.bfloat16)
        for label, one, inputs in (("float32", wide, x), ("bfloat16", narrow, low)):
            found = one.forward_layers(inputs, ["head"])["head"].cells.float()
            difference = (found - expected).abs().max() / expected.abs().max()
            row[f"{label} relative difference"] = float(difference)
        names = ("reference", "float32", "bfloat16")
        forwards = (
            lambda: [reference(x) for _ in range(FORWARDS)],
            lambda: [wide.forward_layers(x, ["head"]) for _ in range(FORWARDS)],
            lambda: [narrow.forward_layers(low, ["head"]) for _ in range(FORWARDS)],
        )
        speeds = dict(zip(names, rates(forwards, most * FORWARDS, TURNS), strict=True))
        row |= {f"{label} images/s": speed for label, speed in speeds.items()}
        row["network / reference"] = speeds["float32"] / speeds["reference"]
        layers = layers_of(network.architecture)
        network, inputs = (wide, x) if precision == "float32" else (narrow, low)
        images = write_images(root / "images", count, height, width)

        def forwards_alone() -> None:
            for _ in range(count // most):  # the maps are not kept, which would cost page faults
                network.forward_layers(inputs, layers)

        bare, row["step images/s"] = rates(
            (
                forwards_alone,
                lambda: step(root / "encoder", layers, images, root / "out", precision),
            ),
            count // most * most,
            ROUNDS,
        )
        row["step / network"] = row["step images/s"] / bare
        row["step / network, CPU time"] = cpu_ratio(
            forwards_alone,
            lambda: step(root / "encoder", layers, images, root / "out", precision),
        )
        double = write_images(root / "images", 2 * count, height, width)
        for label, manifest in (("N", images), ("2N", double)):
            row[f"peak GB, {label} images"] = peak_memory(
                root / "encoder", layers, manifest, root / "out", precision
            )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "encoders", nargs="*", default=["lite0", "b2"], help=", ".join((*NAMES, VIT))
    )
    parser.add_argument("--images", type=int, default=1024, help="N, images of the step")
    parser.add_argument("--size", default="384x256", help="height x width in pixels")
    parser.add_argument("--csv", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    height, width = (int(edge) for edge in arguments.size.split("x"))
    rows = []
    for key in arguments.encoders:
        rows.append(bench(key, arguments.images, height, width))
        for label, value in rows[-1].items():
            sys.stdout.write(
                f"{label:>32}  {value:.4g}\n"
                if isinstance(value, float)
                else f"{label:>32}  {value}\n"
            )
        sys.stdout.flush()
    if arguments.csv is not None:
        with arguments.csv.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
