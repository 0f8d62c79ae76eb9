"""The mean codes of a split's images, latent by latent, in a temporary file.

The analyses at the head need sums of mean codes over latents in many orders. The chunks of a codes
store hold 64 images and 2,048 latents, so each order would need all chunks, several times. The mean
codes are therefore copied once into a file in which the codes of a latent are adjacent. The file
has 4 n h bytes for n images and h latents. It has no name, so the system deletes it when the
process ends.

The steps `latents` and `naming` keep other values of images in such a file: the latents' scores,
and similarities to phrases, with a phrase in the place of a latent.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from mammo_sae.stores.codes import CodesReader
from mammo_sae.temporary import write_whole

BLOCK_BYTES = 16 << 20  # bytes of mean codes in memory at a time
TURNED = 64  # latents whose codes are made adjacent at a time


@dataclass(frozen=True)
class MeanCodes:
    """The mean codes [n, h] of n images. Memory holds a block of them at a time.

    Attributes
    ----------
    file
        Numbers of type `kind`, [h, stored].
    stored
        Number of images in the file.
    rows : [n]
        The positions of the n images among those of the file.
    """

    file: IO[bytes]
    kind: np.dtype
    stored: int
    latents: int
    rows: np.ndarray

    @classmethod
    def write(cls, blocks: Iterable[np.ndarray], images: int, folder: Path) -> MeanCodes:
        """Copy `blocks` [b, h], which together hold `images` images, into a file in `folder`.

        Raises
        ------
        InputError
            If the disk has no room for the file.
        """
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        done, latents, kind = 0, 0, np.dtype(np.float32)
        for block in blocks:
            latents, kind = block.shape[1], block.dtype
            for latent, values in enumerate(_rows_of_latents(block)):
                file.seek((latent * images + done) * kind.itemsize)
                write_whole(
                    file,
                    values,
                    folder=folder,
                    size=f"{images * latents * kind.itemsize / 2**30:.1f} GiB",
                    remedy="free space on its disk",
                )
            done += len(block)
            del block  # else two blocks are in memory while the next one is read
        return cls(file, kind, images, latents, np.arange(images))

    @classmethod
    def of_images(cls, codes: CodesReader, image_ids: Sequence[str], folder: Path) -> MeanCodes:
        """Copy the mean codes of `image_ids` into a file in `folder`."""
        blocks = (codes.pooled("mean", ids) for ids in codes.image_blocks(image_ids))
        found = cls.write(blocks, len(image_ids), folder)
        return found if len(image_ids) else replace(found, latents=codes.latents)

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, rows: np.ndarray) -> MeanCodes:
        """Return the mean codes of the images at `rows`. An image may be there several times."""
        return replace(self, rows=self.rows[rows])

    def of(self, latents: np.ndarray, images: np.ndarray | None = None) -> np.ndarray:
        """Return [m, b]: the mean codes of some latents, of the b `images` or of all."""
        rows = self.rows if images is None else self.rows[images]
        start, stop = (int(rows.min()), int(rows.max()) + 1) if len(rows) else (0, 0)
        result = np.empty((len(latents), len(rows)), self.kind)
        for place, latent in enumerate(latents):
            values = self._read(int(latent) * self.stored + start, stop - start)
            result[place] = values[rows - start]
        return result

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield latents in order, and their mean codes [b, n]."""
        step = max(1, BLOCK_BYTES // max(1, self.kind.itemsize * self.stored))
        for start in range(0, self.latents, step):
            latents = slice(start, min(start + step, self.latents))
            shape = latents.stop - start, self.stored
            values = self._read(start * self.stored, shape[0] * shape[1]).reshape(shape)
            yield latents, values[:, self.rows]

    def times(self, matrix: np.ndarray) -> np.ndarray:
        """Return float64 [n, e]: the product of the mean codes and `matrix` [h, e]."""
        result = np.zeros((len(self), matrix.shape[1]))
        for latents, values in self.blocks():
            result += values.T.astype(np.float64) @ matrix[latents]
        return result

    def _read(self, start: int, count: int) -> np.ndarray:
        """Return `count` numbers of the file, from the number `start` on."""
        values = bytearray(count * self.kind.itemsize)
        view, done = memoryview(values), 0
        while done < len(values):  # one call of the system returns at most 2 GiB
            place = start * self.kind.itemsize + done
            done += os.preadv(self.file.fileno(), [view[done:]], place)  # threads read at once
        return np.ndarray(count, self.kind, values)


def _rows_of_latents(block: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the codes [b] of each latent of `block` [b, h], adjacent in memory."""
    for start in range(0, block.shape[1], TURNED):
        yield from np.ascontiguousarray(block[:, start : start + TURNED].T)
