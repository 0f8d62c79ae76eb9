"""Step: compute an encoder's maps at the given layers, for the images of one shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mammo_sae.compute.devices import fastest_device, in_parts
from mammo_sae.encoders.architectures import largest_map, layer_names
from mammo_sae.encoders.network import Network, load_encoder, to_map
from mammo_sae.errors import InputError
from mammo_sae.grids import LayerGrid
from mammo_sae.ordered import ahead, in_order
from mammo_sae.progress import progress
from mammo_sae.stores.embeddings import EmbeddingReader, create_embedding_store
from mammo_sae.stores.images import ImageReader

if TYPE_CHECKING:
    from mammo_sae.encoders.settings import ExtractionSettings

# Number of images that are read at a time.
BATCH = 16
# Largest map of a forward pass, in bytes. On a CPU, allocations above 32 MiB are returned to the
# system after each use. The page faults of the next use would take longer than the arithmetic.
LARGEST_MAP = {"cpu": 24 << 20, "cuda": 2 << 30}


def run(
    settings: ExtractionSettings,
    *,
    encoder: Path,
    layers: Sequence[str],
    image_store: Path,
    store: Path,
    manifest: Path,
    base_embeddings: Path | None = None,
) -> list[Path]:
    """Run an encoder over one shard, once per image for all layers together.

    Parameters
    ----------
    settings
        Number type.
    encoder
        Directory of the encoder.
    layers
        Layers whose maps are stored. The network stops after the deepest of them.
    image_store
        Manifest of the shard's image store.
    base_embeddings
        For a fine-tuned encoder with a frozen part: manifest of the base encoder's embeddings of
        the same shard. The network then starts from the last frozen layer, not from the pixels.
    store, manifest
        The embedding store to write.

    Raises
    ------
    InputError
        If the encoder has no such layer, or `base_embeddings` does not fit the encoder or images.
    """
    network = load_encoder(encoder)
    start = None
    if base_embeddings is not None:
        start = _start(network, layers)
    source = ImageReader([image_store])
    grids = [network.grid(layer, source.height, source.width) for layer in layers]
    device = fastest_device()
    network.to(device, getattr(torch, settings.precision))
    batches = _pixels(source)
    if base_embeddings is not None and start is not None:
        batches = _maps(_checked(base_embeddings, start, network, source))
    most = images_per_pass(network, source.height, source.width)

    @torch.inference_mode()
    def mapped_at_once(part: Tensor) -> dict[str, Callable[[], np.ndarray]]:
        inputs = part.to(device, non_blocking=True)
        x = network.normalise(inputs) if start is None else to_map(inputs, network.dtype)
        maps = network.forward_layers(x, layers, start)
        return {layer: to_store(values) for layer, values in maps.items()}

    def mapped(part: Tensor) -> list[dict[str, Callable[[], np.ndarray]]]:
        return in_parts(lambda some: mapped_at_once(part[some]), len(part))

    with (
        create_embedding_store(store, manifest, image_ids=source.image_ids, grids=grids) as writer,
        _workers(device) as (pool, waiting),
    ):
        parts = (
            part for batch in ahead(_pinned(batches, device), size=2) for part in batch.split(most)
        )
        passes = in_order(pool, mapped, parts, ahead=waiting)
        for pieces in progress(passes, total=-(-len(source) // most), label="extract"):
            for arriving in pieces:
                maps = {layer: arrive() for layer, arrive in arriving.items()}
                # `to_store` gives float16 only if every value fits.
                writer.write(
                    maps, {layer for layer, cells in maps.items() if cells.dtype == np.float16}
                )
    return [manifest]


@contextmanager
def _workers(device: torch.device) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Yield threads that run the network, and the number of results that may wait to be written.

    On a CPU each core runs forward passes of its own. Cores that share a pass would wait for each
    other after every layer, and all of them would wait for reading and writing.
    """
    cores = torch.get_num_threads()
    workers = 1 if device.type == "cuda" else cores
    torch.set_num_threads(cores // workers)
    try:
        with ThreadPoolExecutor(workers) as pool:
            yield pool, 2 * workers
    finally:
        torch.set_num_threads(cores)


def images_per_pass(network: Network, height: int, width: int) -> int:
    """Return how many images of `height` x `width` pixels to run through `network` at a time."""
    weight = network.stem.weight
    one = largest_map(network.architecture, height, width) * weight.element_size()
    return max(1, min(BATCH, LARGEST_MAP[weight.device.type] // one))


def to_store(values: Tensor) -> Callable[[], np.ndarray]:
    """Start to copy a map [n, c, rows, columns] to the host as float16 [n, rows, columns, c].

    Returns a function that waits for the copy and returns it. If a value does not fit float16, the
    copy is float32.
    """
    cells = values.permute(0, 2, 3, 1)
    half = cells.half()
    # Minimum and maximum propagate NaN and infinity, and read far faster than isfinite.
    fits = torch.isfinite(torch.stack(torch.aminmax(half))).all()
    if not values.is_cuda:
        # Copy, so that the next pass can use the map's memory and need not allocate new memory.
        kept = (half if fits else cells.float()).numpy()
        return lambda: kept
    host = torch.empty(half.shape, dtype=half.dtype, pin_memory=True)
    host.copy_(half, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def arrive() -> np.ndarray:
        arrived.synchronize()
        return (host if fits else cells.float().cpu()).numpy()

    return arrive


def _start(network: Network, layers: Sequence[str]) -> str:
    start = network.description.cached
    if start is None:
        raise InputError(
            "embeddings of a base encoder are given, but the encoder has no frozen part; "
            "leave them out"
        )
    names = layer_names(network.architecture)
    early = [layer for layer in layers if layer in names[: names.index(start)]]
    if early:
        raise InputError(
            f"layer {early[0]} lies before {start}, the last frozen layer; leave the base "
            "encoder's embeddings out, or take that layer from the base encoder, which shares it"
        )
    return start


def _checked(cached: Path, start: str, network: Network, source: ImageReader) -> EmbeddingReader:
    """Open the base's embeddings; refuse those of other images or of another grid."""
    reader = EmbeddingReader([cached], start)
    expected: LayerGrid = network.grid(start, source.height, source.width)
    if reader.image_ids != source.image_ids or reader.grid != expected:
        raise InputError(
            f"{cached} is not of the same images as the image store; extract the base encoder again"
        )
    return reader


def _pixels(source: ImageReader) -> Iterator[Tensor]:
    for first in range(0, len(source), BATCH):
        yield torch.from_numpy(source.pixels(source.image_ids[first : first + BATCH]))


def _maps(reader: EmbeddingReader) -> Iterator[Tensor]:
    for _, cells in reader.batches(BATCH):
        yield torch.from_numpy(cells)


def _pinned(batches: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Put batches into pinned memory, which the GPU can read while it computes."""
    for batch in batches:
        yield batch.pin_memory() if device.type == "cuda" else batch
