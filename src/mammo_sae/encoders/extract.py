"""Step: compute an encoder's maps at the given layers, for the images of one shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mammo_sae.compute.devices import fastest_device, in_parts
from mammo_sae.encoders.architectures import architecture, layer_names, prefix_tokens
from mammo_sae.encoders.batches import Batch, network_input
from mammo_sae.encoders.network import load_encoder
from mammo_sae.encoders.networks.network import FeatureMap, Network
from mammo_sae.errors import InputError
from mammo_sae.grids import LayerGrid
from mammo_sae.ordered import ahead, in_order
from mammo_sae.progress import progress
from mammo_sae.stores.embeddings import EmbeddingReader, create_embedding_store
from mammo_sae.stores.images import ImageReader

if TYPE_CHECKING:
    from mammo_sae.encoders.settings import ExtractionSettings

Stored = tuple[np.ndarray, np.ndarray | None]  # cells [n, R, C, c], tokens beside them [n, t, c]

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
    def mapped_at_once(part: Batch) -> dict[str, Callable[[], Stored]]:
        x = network_input(network, part.values, part.prefix, start)
        maps = network.forward_layers(x, layers, start)
        return {layer: to_store(found) for layer, found in maps.items()}

    def mapped(part: Batch) -> list[dict[str, Callable[[], Stored]]]:
        return in_parts(lambda some: mapped_at_once(part.part(some)), len(part))

    prefixes = {layer: prefix_tokens(network.architecture, layer) for layer in layers}
    with (
        create_embedding_store(
            store, manifest, image_ids=source.image_ids, grids=grids, prefixes=prefixes
        ) as writer,
        _workers(device) as (pool, waiting),
    ):
        parts = (
            part for batch in ahead(_pinned(batches, device), size=2) for part in batch.parts(most)
        )
        passes = in_order(pool, mapped, parts, ahead=waiting)
        for pieces in progress(passes, total=-(-len(source) // most), label="extract"):
            for arriving in pieces:
                stored = {layer: arrive() for layer, arrive in arriving.items()}
                maps = {layer: cells for layer, (cells, _) in stored.items()}
                # `to_store` gives float16 only if every value fits.
                writer.write(
                    maps,
                    {layer for layer, cells in maps.items() if cells.dtype == np.float16},
                    {layer: prefix for layer, (_, prefix) in stored.items() if prefix is not None},
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
    largest = architecture(network.architecture).largest_map(height, width)
    one = largest * network.dtype.itemsize
    return max(1, min(BATCH, LARGEST_MAP[network.device.type] // one))


def to_store(found: FeatureMap) -> Callable[[], Stored]:
    """Start to copy a map to the host as float16 [n, rows, columns, c].

    Returns a function that waits for the copy and returns it, and beside it the tokens of the map
    as float32 [n, t, c], or None. If a value of a cell does not fit float16, the cells are float32.
    """
    values = found.cells
    prefix = None if found.prefix is None else found.prefix.float().cpu().numpy().copy()
    cells = values.permute(0, 2, 3, 1)
    half = cells.half()
    # Minimum and maximum propagate NaN and infinity, and read far faster than isfinite.
    fits = torch.isfinite(torch.stack(torch.aminmax(half))).all()
    if not values.is_cuda:
        # Copy, so that the next pass can use the map's memory and need not allocate new memory.
        kept = (half if fits else cells.float()).numpy()
        return lambda: (kept, prefix)
    host = torch.empty(half.shape, dtype=half.dtype, pin_memory=True)
    host.copy_(half, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def arrive() -> Stored:
        arrived.synchronize()
        return (host if fits else cells.float().cpu()).numpy(), prefix

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


def _pixels(source: ImageReader) -> Iterator[Batch]:
    for first in range(0, len(source), BATCH):
        yield Batch.of(source.pixels(source.image_ids[first : first + BATCH]))


def _maps(reader: EmbeddingReader) -> Iterator[Batch]:
    for positions, cells in reader.batches(BATCH):
        yield Batch.of(cells, reader.prefix(positions))


def _pinned(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Put batches into pinned memory, which the GPU can read while it computes."""
    for batch in batches:
        yield batch.pinned() if device.type == "cuda" else batch
