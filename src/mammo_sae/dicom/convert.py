"""The step that converts the DICOM files of one shard into a store of canonical images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from mammo_sae.cohorts.readers import locate
from mammo_sae.cohorts.source import SourceFiles
from mammo_sae.cohorts.tables import BOX, read_cohort
from mammo_sae.dicom.canonical import canonical_image
from mammo_sae.dicom.geometry import Geometry
from mammo_sae.dicom.pixels import read_pixels
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.settings import ConversionSettings
from mammo_sae.errors import InputError
from mammo_sae.progress import progress
from mammo_sae.provenance import Provenance
from mammo_sae.stores.images import ImageRecord, create_image_store

T = TypeVar("T")
R = TypeVar("R")


def run(
    settings: ConversionSettings,
    images: Path,
    findings: Path,
    sources: Sequence[Path],
    shard: int,
    path: Path,
    manifest: Path,
    threads: int = 1,
    provenance: Provenance | None = None,
) -> None:
    """Convert the images of one shard.

    The regions of the store are the concepts, then the artefacts that the sources have masks of.
    A concept's region is its exact mask where the source has one, else its filled boxes.

    Parameters
    ----------
    settings
        Preprocessing, concepts, key of the pseudonyms.
    images, findings
        The cohort's tables.
    sources
        The cohort's folders, in which the files are found again.
    shard
        Which rows of `images` to convert.
    path, manifest
        The store to write, see `mammo_sae.stores.images`.
    threads
        Files decoded at once; at most one more than that is held in memory.
    provenance
        Written into the store.

    Raises
    ------
    InputError
        If a file can't be converted, naming its pseudonym and the reason; no store is left.
    """
    table, boxes = read_cohort(images, findings, settings.concepts)
    table = table[table["shard"] == shard]
    files = locate(settings.key_file, sources)
    lost = [image_id for image_id in table["image_id"] if image_id not in files]
    if lost:
        raise InputError(
            f"image {lost[0]} of the cohort is not in its sources; build the cohort again"
        )
    regions = _regions(settings.concepts, files.values())
    of_image = dict(tuple(boxes.groupby("image_id")))
    none = boxes.iloc[:0]
    jobs = [
        _Job(settings, regions, row, files[row.image_id], of_image.get(row.image_id, none))
        for row in table.itertuples()
    ]
    with create_image_store(
        path,
        manifest,
        image_ids=[job.image_id for job in jobs],
        height=settings.images.height,
        width=settings.images.width,
        regions=regions,
        attributes={"preprocessing": settings.images.preprocessing},
        provenance=provenance,
    ) as writer:
        records = in_order(lambda job: job.convert(), jobs, threads)
        for position, record in enumerate(
            progress(records, total=len(jobs), label=f"convert shard {shard}")
        ):
            writer.write(position, record)


def in_order(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield `function(item)` in the order of `items`, computed by `threads` threads.

    At most `threads` + 1 results are waiting at any time.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _regions(concepts: Sequence[str], files: Iterable[SourceFiles]) -> list[str]:
    artefacts = {name for found in files for name in found.mask_bits} - set(concepts)
    return [*concepts, *sorted(artefacts)]


class _Job:
    """One image to convert."""

    def __init__(
        self,
        settings: ConversionSettings,
        regions: Sequence[str],
        row: tuple,
        files: SourceFiles,
        boxes: pd.DataFrame,
    ) -> None:
        self.image_id = row.image_id
        self._settings = settings
        self._regions = regions
        self._size = (row.rows, row.columns)
        self._files = files
        self._boxes = boxes

    def convert(self) -> ImageRecord:
        try:
            return self._convert()
        except Refusal as refusal:
            raise InputError(f"image {self.image_id} can't be converted: {refusal}") from None

    def _convert(self) -> ImageRecord:
        header, codes = read_pixels(self._files.dicom)
        if codes.shape != self._size:
            raise Refusal(Reason.SIZE)
        canonical = canonical_image(header, codes, self._settings.images)
        geometry = canonical.geometry
        vertical, horizontal = header.spacing_mm
        return ImageRecord(
            pixels=canonical.pixels,
            breast=canonical.breast,
            regions=self._region_masks(geometry),
            affine=geometry.affine,
            flipped=geometry.flipped,
            spacing_mm=float(np.sqrt(vertical / geometry.scale_y * horizontal / geometry.scale_x)),
        )

    def _region_masks(self, geometry: Geometry) -> np.ndarray:
        out = np.zeros((len(self._regions), geometry.height, geometry.width), dtype=bool)
        bits = self._files.mask_bits
        planes = self._planes() if bits else None
        for region, mask in zip(self._regions, out, strict=True):
            if planes is not None and region in bits:
                mask |= geometry.resample_mask((planes >> bits[region]) & 1)
            else:
                found = self._boxes.loc[self._boxes["concept"] == region, BOX].to_numpy(float)
                mask |= geometry.fill_boxes(found)
        return out

    def _planes(self) -> np.ndarray:
        try:
            with Image.open(self._files.mask) as image:
                planes = np.asarray(image)
        except (OSError, ValueError):
            raise Refusal(Reason.MASK) from None
        if planes.dtype != np.uint8 or planes.shape != self._size:
            raise Refusal(Reason.MASK)
        return planes
