"""Canonical images of one shard: pixels, breast mask, region masks, geometry.

Arrays (n images, H x W canonical pixels, r regions)::

    image_id   [n]           string
    pixels     [n, H, W]     uint8
    breast     [n, H, W]     uint8, 1 inside the breast
    regions    [n, r, H, W]  uint8, 1 inside the region; the attribute `regions` names them; each
                             shard holds only the regions that occur in it
    affine     [n, 2, 3]     float64, original pixel-edge (x, y) -> canonical (x, y)
    flipped    [n]           uint8, 1 where the image was mirrored
    spacing_mm [n]           float64, edge of a canonical pixel in the detector plane; NaN: unknown
    fact       [f]           string, names of the facts recorded of each file
    facts      [n, f]        string, empty if the file does not give the fact
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammo_sae.errors import StoreError
from mammo_sae.stores import arrays
from mammo_sae.stores.blocks import BlockWriter
from mammo_sae.stores.positions import Index
from mammo_sae.stores.publish import create_store, open_store

KIND = "images"
IMAGES_PER_SHARD = 16
IDENTITIES = ("same_pixels", "same_uid")
"""Facts that two files share only if the files are the same."""
NOTICES = "notices"
"""The fact that lists those defects of a file that change no pixel, as codes separated by `;`."""
RASTERS = frozenset({"JPEG", "NPY", "PNG", "TIFF"})
"""The values of the fact `transfer_syntax` for files without a DICOM header."""


@dataclass(frozen=True)
class ImageRecord:
    """One canonical image: pixels and breast [H, W], regions [r, H, W], affine [2, 3].

    `facts` are the recorded facts about the image's file, by name.
    """

    pixels: np.ndarray
    breast: np.ndarray
    regions: np.ndarray
    affine: np.ndarray
    flipped: bool
    spacing_mm: float
    facts: Mapping[str, str] = field(default_factory=dict)


class ImageWriter:
    """Writes the records of one store. Every image must be written exactly once."""

    def __init__(self, group: Any, n: int, height: int, width: int, regions: int) -> None:
        self._group = group
        self._facts: list[Mapping[str, str]] = [{}] * n

        def make(name: str, dims: str, shape: tuple[int, ...], dtype: str) -> BlockWriter:
            dimensions = ["image_id", *dims.split()]
            array = arrays.create_array(
                group,
                name,
                shape=(n, *shape),
                dtype=dtype,
                dimensions=dimensions,
                chunk=(1 if shape else IMAGES_PER_SHARD, *shape),
                shard=(IMAGES_PER_SHARD, *shape),
                compress=True,
            )
            return BlockWriter(array)

        self._blocks = {
            "pixels": make("pixels", "y x", (height, width), "uint8"),
            "breast": make("breast", "y x", (height, width), "uint8"),
            "affine": make("affine", "axis coefficient", (2, 3), "float64"),
            "flipped": make("flipped", "", (), "uint8"),
            "spacing_mm": make("spacing_mm", "", (), "float64"),
        }
        if regions:
            self._blocks["regions"] = make(
                "regions", "region y x", (regions, height, width), "uint8"
            )

    def write(self, position: int, record: ImageRecord) -> None:
        """Store `record` at `position` of the store's ids. Positions may come in any order."""
        self._facts[position] = record.facts
        for name, block in self._blocks.items():
            block.write(position, np.asarray(getattr(record, name)))

    def close(self) -> None:
        """Check that every image was written, and write the facts."""
        for block in self._blocks.values():
            block.close()
        names = sorted({name for facts in self._facts for name in facts})
        arrays.write_labels(self._group, "fact", names)
        table = [[facts.get(name, "") for name in names] for facts in self._facts]
        arrays.write_texts(self._group, "facts", table, ("image_id", "fact"))


@contextmanager
def create_image_store(
    path: Path,
    manifest: Path,
    *,
    image_ids: Sequence[str],
    height: int,
    width: int,
    regions: Sequence[str],
    artefacts: Sequence[str] = (),
    attributes: dict[str, Any] | None = None,
) -> Iterator[ImageWriter]:
    """Yield a writer for the images `image_ids`; publish the store if the block succeeds.

    `regions` names the records' regions in their order. `artefacts` names those regions that are
    not findings.
    """
    describe = {
        "images": len(image_ids),
        "height": height,
        "width": width,
        "regions": list(regions),
        "artefacts": list(artefacts),
    }
    with create_store(path, manifest, kind=KIND, describe=describe) as aside:
        group = arrays.create_group(aside, {**(attributes or {}), "regions": list(regions)})
        arrays.write_labels(group, "image_id", image_ids)
        writer = ImageWriter(group, len(image_ids), height, width, len(regions))
        yield writer
        writer.close()
        arrays.consolidate(aside)


class ImageReader:
    """Reads images by id over all shards of a cohort.

    Parameters
    ----------
    manifests
        One manifest per shard.
    concepts
        For each concept, the stored regions whose union is the concept's mask. If given, `regions`
        has the concepts that have a stored region, and the artefacts. Otherwise `regions` has
        every stored region.

    Raises
    ------
    StoreError
        If a store is damaged, or the shards differ in size.
    """

    def __init__(
        self, manifests: Sequence[Path], concepts: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        stores = [open_store(manifest, kind=KIND) for manifest in manifests]
        if not stores:
            raise StoreError("no image store given; name at least one manifest")
        shapes = {(s.manifest["height"], s.manifest["width"]) for s in stores}
        if len(shapes) > 1:
            raise StoreError(
                f"the images of {manifests[0]} and of other shards differ in size; convert all "
                "shards again"
            )
        self.height, self.width = shapes.pop()
        self._stored: list[list[str]] = [store.manifest["regions"] for store in stores]
        everything = dict.fromkeys(name for names in self._stored for name in names)
        self._sources: dict[str, Sequence[str]] = {name: [name] for name in everything}
        if concepts is not None:
            artefacts = {name for store in stores for name in store.manifest["artefacts"]}
            found = {c: of for c, of in concepts.items() if not everything.keys().isdisjoint(of)}
            self._sources = found | {
                a: [a] for a in everything if a in artefacts and a not in found
            }
        self.regions: list[str] = list(self._sources)
        self._paths = [store.path for store in stores]
        self._index = Index([arrays.read_labels(path, "image_id") for path in self._paths], KIND)
        self._arrays: dict[tuple[int, str], Any] = {}

    @property
    def image_ids(self) -> list[str]:
        """Ids of all images, in stored order."""
        return self._index.image_ids

    def __len__(self) -> int:
        return len(self._index)

    def position(self, image_id: str) -> int:
        """Return the position of an image in `image_ids`."""
        return self._index.position(image_id)

    def pixels(self, image_ids: Sequence[str] | None = None) -> np.ndarray:
        """Return uint8 [n, H, W] for `image_ids` (all images if None)."""
        return self._read("pixels", image_ids)

    def breast(self, image_ids: Sequence[str] | None = None) -> np.ndarray:
        """Return bool [n, H, W], True inside the breast."""
        return self._read("breast", image_ids).astype(bool)

    def region_masks(self, image_ids: Sequence[str] | None = None) -> np.ndarray:
        """Return bool [n, r, H, W], in the order of `regions`."""
        positions = self._index.positions(image_ids)
        shape = (len(positions), len(self.regions), self.height, self.width)
        out = np.zeros(shape, dtype=bool)
        for store, local, where in self._index.split(positions):
            stored = self._stored[store]
            wanted = [[stored.index(s) for s in of if s in stored] for of in self._sources.values()]
            if not any(wanted):
                continue
            planes = self._array_part(store, "regions", local)
            for region, parts in enumerate(wanted):
                for part in parts:
                    out[where, region] |= planes[:, part].astype(bool)
        return out

    def affine(self, image_ids: Sequence[str] | None = None) -> np.ndarray:
        """Return float64 [n, 2, 3], original pixel-edge (x, y) to canonical (x, y)."""
        return self._read("affine", image_ids)

    def flipped(self, image_ids: Sequence[str] | None = None) -> np.ndarray:
        """Return bool [n], True where the image was mirrored."""
        return self._read("flipped", image_ids).astype(bool)

    def spacing_mm(self, image_ids: Sequence[str] | None = None) -> np.ndarray:
        """Return float64 [n], millimetres per canonical pixel; NaN where unknown."""
        return self._read("spacing_mm", image_ids)

    def facts(self, image_ids: Sequence[str]) -> pd.DataFrame:
        """Return the facts of the images' files, one column per fact; "" if the file has none."""
        parts = []
        for path in self._paths:
            names = arrays.read_labels(path, "fact")
            index = arrays.read_labels(path, "image_id")
            texts = arrays.read_texts(path, "facts", (len(index), len(names)))
            parts.append(pd.DataFrame(texts, index=index, columns=names))
        table = pd.concat(parts).fillna("")
        return table.reindex(list(image_ids)).reset_index(drop=True)

    def refused(self) -> dict[str, str]:
        """Return the images that are left out of the stores, as {id: reason code}."""
        refused: dict[str, str] = {}
        for path in self._paths:
            refused |= arrays.read_attributes(path).get("refused", {})
        return refused

    def _array_part(self, store: int, name: str, selection: Any) -> np.ndarray:
        key = (store, name)
        if key not in self._arrays:
            self._arrays[key] = arrays.open_array(self._paths[store], name, streaming=True)
        return arrays.read(self._arrays[key], selection, self._paths[store] / name)

    def _read(self, name: str, image_ids: Sequence[str] | None) -> np.ndarray:
        positions = self._index.positions(image_ids)
        out: np.ndarray | None = None
        for store, local, where in self._index.split(positions):
            part = self._array_part(store, name, local)
            if out is None:
                out = np.empty((len(positions), *part.shape[1:]), dtype=part.dtype)
            out[where] = part
        if out is None:
            array = arrays.open_array(self._paths[0], name, streaming=True)
            out = np.empty((0, *array.shape[1:]), dtype=array.dtype)
        return out
