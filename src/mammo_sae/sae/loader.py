"""Cells of an embedding store in random order, epoch after epoch, in bounded memory.

`Cells.parts` reads the same cells in the same order for every SAE of a layer. So several SAEs can
be trained in one pass over a store. `Batches` cuts the batches of one SAE from the parts, in an
order that depends on the SAE's seed.

If all cells fit the buffer, they are read once, and an epoch is one part. Otherwise blocks of
images are read in random order into a mixing buffer. Whenever the buffer is full, a random quarter
of it becomes the next part, and a thread refills that quarter while training uses the part. In both
cases each epoch gives every cell exactly once.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mammo_sae.errors import InputError
from mammo_sae.ordered import ahead

if TYPE_CHECKING:  # training on cells in memory needs neither stores nor their packages
    from mammo_sae.stores.embeddings import EmbeddingReader

MIB = 1 << 20
GIVEN_OUT = 4  # a part is one quarter of a full buffer
# Memory in units of the buffer: the buffer itself, the part in use and the next part.
HELD = 1 + 2 / GIVEN_OUT


@dataclass(frozen=True)
class Part:
    """Cells [m, d] on the device, in the store's type: part `number` of epoch `epoch`."""

    epoch: int
    number: int
    cells: Tensor


class Cells:
    """The cells of one layer's images, read part by part.

    Parameters
    ----------
    reader
        Embeddings of the training images.
    budget
        Largest number of bytes of cells in memory.
    device
        Device of the parts. If all cells fit the budget, all of them are kept there.
    kept
        Bool [images, R * C] in the reader's order: True for the cells to use. None: all cells.

    Raises
    ------
    InputError
        If there are no images, or a cell is NaN or infinite. The message names the image.
    """

    def __init__(
        self,
        reader: EmbeddingReader,
        budget: int,
        device: torch.device,
        kept: np.ndarray | None = None,
    ) -> None:
        self._reader, self._device = reader, device
        grid = reader.grid
        self._per_image = grid.rows * grid.columns
        self.channels = grid.channels
        if kept is None:
            kept = np.ones((len(reader), self._per_image), dtype=bool)
        self._kept = kept
        self.count = int(kept.sum())
        if not self.count:
            raise InputError(
                f"layer {grid.layer}: the training images have no cell; check split and background"
            )
        cell = self.channels * reader.dtype.itemsize
        self.resident = self.count * cell <= budget
        # At least two blocks, else there is nothing to mix.
        largest = max(len(block[-1]) for block in reader.blocks) * self._per_image
        self._capacity = min(max(int(budget / HELD) // cell, 2 * largest), self.count)
        if self.resident:
            self._whole = torch.empty(self.count, self.channels, dtype=self._dtype, device=device)
            row = np.cumsum(kept).reshape(kept.shape) - 1
            for positions, cells in ahead(self._blocks(range(len(reader.blocks)))):
                rows = torch.from_numpy(row[positions][kept[positions]])
                self._whole[rows.to(device)] = cells.to(device)

    def sample(self) -> Tensor:
        """Return cells [m, d] for statistics: all cells, or a part if they exceed the budget."""
        return self._whole if self.resident else next(self._mixed(0))

    def parts(self, epoch: int = 0) -> Generator[Part, None, None]:
        """Yield parts without end, from the first part of `epoch` on."""
        if self.resident:
            yield from (Part(number, 0, self._whole) for number in count(epoch))
        else:
            parts = (
                Part(number, position, cells.to(self._device))
                for number in count(epoch)
                for position, cells in enumerate(self._mixed(number))
            )
            yield from ahead(parts, start=_leave_cores)

    def batches(self, batch: int, seed: int, first: int = 0) -> Iterator[Tensor]:
        """Yield one SAE's batches [batch, d] float32 without end, from batch number `first` on."""
        epoch, skip = divmod(first * batch, self.count)
        stream = Batches(batch, seed, skip)
        for part in self.parts(epoch):
            yield from stream.cut(part)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float16 if self._reader.dtype == np.float16 else torch.float32

    def _mixed(self, epoch: int) -> Iterator[Tensor]:
        """Yield one epoch's cells, a part of the buffer at a time."""
        random = np.random.default_rng([epoch])
        given_out = max(1, self._capacity // GIVEN_OUT)
        buffer = torch.empty(self._capacity, self.channels, dtype=self._dtype)
        free = torch.arange(self._capacity)
        for _, cells in self._blocks(random.permutation(len(self._reader.blocks))):
            while len(cells):
                taken, cells = cells[: len(free)], cells[len(free) :]
                buffer[free[: len(taken)]] = taken
                free = free[len(taken) :]
                if not len(free):
                    free = torch.from_numpy(random.permutation(self._capacity)[:given_out])
                    yield buffer.index_select(0, free)
        filled = np.ones(self._capacity, dtype=bool)
        filled[free.numpy()] = False
        left = torch.from_numpy(random.permutation(np.flatnonzero(filled)))
        for rows in left.split(given_out):
            yield buffer.index_select(0, rows)

    def _blocks(self, order: Iterable[int] | np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield, for each block in `order`, its images' positions and their kept cells [m, d]."""
        for number in order:
            positions, cells = self._reader.read_block(int(number))
            check_finite(cells, positions, self._reader)
            kept = self._kept[positions]
            flat = cells.reshape(-1, self.channels)
            yield positions, torch.from_numpy(flat if kept.all() else flat[kept.ravel()])


def _leave_cores() -> None:
    """Let torch compute without worker threads in the calling thread, which reads the parts.

    These worker threads would occupy the cores while they wait, and slow the training by a tenth.
    """
    torch.set_num_threads(1)


class Batches:
    """Batches of one size, cut from successive parts.

    Parameters
    ----------
    batch
        Cells per batch. A batch may span two parts or two epochs.
    seed
        Decides the order of the cells of a part.
    skip
        Number of cells to leave out at the start: an earlier run has used them.
    """

    def __init__(self, batch: int, seed: int, skip: int = 0) -> None:
        self._batch, self._seed, self._skip = batch, seed, skip
        self._left: list[Tensor] = []
        self._have = 0

    def cut(self, part: Part) -> Iterator[Tensor]:
        """Yield the batches [batch, d] float32 that `part` completes; keep the remaining cells."""
        cells = part.cells
        at = min(self._skip, len(cells))
        self._skip -= at
        if at == len(cells):
            return
        random = np.random.default_rng([self._seed, part.epoch, part.number])
        order = torch.from_numpy(random.permutation(len(cells))).to(cells.device)
        while at < len(cells):
            rows = order[at : at + self._batch - self._have]
            at += len(rows)
            self._left.append(cells.index_select(0, rows))
            self._have += len(rows)
            if self._have == self._batch:
                whole = self._left[0] if len(self._left) == 1 else torch.cat(self._left)
                self._left, self._have = [], 0
                # Always a new tensor: the training centres it in place.
                yield whole.float()


def check_finite(cells: np.ndarray, positions: np.ndarray, reader: EmbeddingReader) -> None:
    """Refuse NaN and infinity in cells.

    Raises
    ------
    InputError
        If a cell is not finite. The message names layer and image.
    """
    # Minimum and maximum propagate NaN and read float16 thirty times faster than isfinite.
    whole = torch.from_numpy(cells)
    if not all(torch.isfinite(bound) for bound in torch.aminmax(whole)):
        finite = torch.isfinite(whole.flatten(1)).all(dim=1)
        image = reader.image_ids[positions[int((~finite).nonzero()[0, 0])]]
        raise InputError(
            f"layer {reader.grid.layer}: NaN or infinity in the embedding of image {image}; "
            "extract the embeddings again"
        )
