"""Cells of an embedding store in random order, epoch after epoch, in bounded memory.

If all cells fit the buffer they are read once and permuted anew each epoch. If not, blocks of
images are read in random order into a mixing buffer; whenever it is full, a random half of it is
given out. Either way every cell comes exactly once per epoch, and the order follows from the seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from mammo_sae.errors import InputError
from mammo_sae.stores.embeddings import EmbeddingReader

MIB = 1 << 20


class Cells:
    """The cells of one layer's images as batches for training.

    Parameters
    ----------
    reader
        Embeddings of the training images.
    batch
        Cells per batch; a batch may reach over the end of an epoch.
    seed
        Decides the order.
    budget
        Bytes of cells to hold at most.
    device
        Where batches go; a set that fits the budget lies there as a whole.
    kept
        Bool [images, R * C], in the reader's order: the cells to give out; None: all.

    Raises
    ------
    InputError
        If there are no images, or a cell is NaN or infinite (naming the image).
    """

    def __init__(
        self,
        reader: EmbeddingReader,
        batch: int,
        seed: int,
        budget: int,
        device: torch.device,
        kept: np.ndarray | None = None,
    ) -> None:
        self._reader, self._batch, self._seed, self._device = reader, batch, seed, device
        grid = reader.grid
        self._per_image = grid.rows * grid.columns
        self.channels = grid.channels
        if kept is None:
            kept = np.ones((len(reader), self._per_image), dtype=bool)
        self._kept = kept
        self.count = int(kept.sum())
        if not self.count:
            raise InputError(
                f"layer {grid.layer}: no cell of a training image; check split and background"
            )
        cell = self.channels * reader.dtype.itemsize
        largest = max(len(block[-1]) for block in reader.blocks) * self._per_image
        # Half of a full buffer stays behind; what is left must take a block.
        self._capacity = min(max(budget // cell, 2 * largest, 2 * batch), self.count)
        self.resident = self._capacity == self.count
        if self.resident:
            self._buffer = torch.empty(self.count, self.channels, dtype=self._dtype, device=device)
            row = np.cumsum(kept).reshape(kept.shape) - 1
            for positions, cells in self._blocks(range(len(reader.blocks))):
                rows = torch.from_numpy(row[positions][kept[positions]])
                self._buffer[rows.to(device)] = cells.to(device)

    def sample(self) -> Tensor:
        """Return cells [m, d] of random images, as many as fit the buffer: to take statistics."""
        return self._buffer if self.resident else next(self._mixed(0))

    def batches(self, first: int = 0) -> Iterator[Tensor]:
        """Yield batches [batch, d] float32 for ever, beginning with the one numbered `first`."""
        epoch, skip = divmod(first * self._batch, self.count)
        parts: list[Tensor] = []
        have = 0
        while True:
            for part in self._permuted(epoch) if self.resident else self._mixed(epoch):
                taken = min(skip, len(part))
                skip -= taken
                while taken < len(part):
                    piece = part[taken : taken + self._batch - have]
                    taken += len(piece)
                    parts.append(piece)
                    have += len(piece)
                    if have == self._batch:
                        yield self._assemble(parts)
                        parts, have = [], 0
            epoch += 1

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float16 if self._reader.dtype == np.float16 else torch.float32

    def _assemble(self, parts: list[Tensor]) -> Tensor:
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.resident:
            whole = self._buffer.index_select(0, whole)
        return whole.to(self._device, torch.float32)

    def _permuted(self, epoch: int) -> Iterator[Tensor]:
        """Yield one epoch's order as row numbers of the buffer."""
        order = np.random.default_rng([self._seed, epoch]).permutation(self.count)
        yield torch.from_numpy(order).to(self._device)

    def _mixed(self, epoch: int) -> Iterator[Tensor]:
        """Yield one epoch's cells, half a buffer at a time."""
        random = np.random.default_rng([self._seed, epoch])
        buffer = torch.empty(self._capacity, self.channels, dtype=self._dtype)
        filled = 0
        for _, cells in self._blocks(random.permutation(len(self._reader.blocks))):
            while len(cells):
                room = self._capacity - filled
                buffer[filled : filled + len(cells[:room])] = cells[:room]
                filled += len(cells[:room])
                cells = cells[room:]
                if filled == self._capacity:
                    order = torch.from_numpy(random.permutation(filled))
                    half = filled // 2
                    yield buffer.index_select(0, order[:half])
                    buffer[: filled - half] = buffer.index_select(0, order[half:])
                    filled -= half
        yield buffer.index_select(0, torch.from_numpy(random.permutation(filled)))

    def _blocks(self, order) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield (positions, cells [m, d]) block by block; the next one is read meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._block, int(order[0]))
            for following in [*order[1:], None]:
                block = ahead.result()
                if following is not None:
                    ahead = pool.submit(self._block, int(following))
                yield block

    def _block(self, number: int) -> tuple[np.ndarray, Tensor]:
        positions, cells = self._reader.read_block(number)
        check_finite(cells, positions, self._reader)
        kept = self._kept[positions]
        flat = cells.reshape(-1, self.channels)
        return positions, torch.from_numpy(flat if kept.all() else flat[kept.ravel()])


def check_finite(cells: np.ndarray, positions: np.ndarray, reader: EmbeddingReader) -> None:
    """Refuse NaN and infinity.

    Raises
    ------
    InputError
        Naming layer and image.
    """
    # NaN passes through minimum and maximum, which read float16 thirty times faster than isfinite.
    whole = torch.from_numpy(cells)
    if not all(torch.isfinite(bound) for bound in torch.aminmax(whole)):
        finite = torch.isfinite(whole.flatten(1)).all(dim=1)
        image = reader.image_ids[positions[int((~finite).nonzero()[0, 0])]]
        raise InputError(
            f"layer {reader.grid.layer}: NaN or infinity in the embedding of image {image}; "
            "extract the embeddings again"
        )
