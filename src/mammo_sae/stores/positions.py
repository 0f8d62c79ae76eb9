"""Find images by id across the shards of a cohort."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mammo_sae.errors import StoreError

Positions = Sequence[int] | np.ndarray


class Index:
    """Global positions of images over several stores, in the order of the stores."""

    def __init__(self, ids_per_store: Sequence[Sequence[str]], what: str) -> None:
        self.image_ids = [image for ids in ids_per_store for image in ids]
        self._what = what
        self._position = {image: i for i, image in enumerate(self.image_ids)}
        if len(self._position) != len(self.image_ids):
            raise StoreError(f"{what}: the same image is in two stores; rebuild them")
        self._starts = np.cumsum([0] + [len(ids) for ids in ids_per_store])

    def __len__(self) -> int:
        return len(self.image_ids)

    def position(self, image_id: str) -> int:
        """Return the global position of an image.

        Raises
        ------
        StoreError
            If no store holds the image.
        """
        try:
            return self._position[image_id]
        except KeyError:
            raise StoreError(f"{self._what}: image {image_id} is in none of the stores") from None

    def positions(self, image_ids: Sequence[str] | None) -> np.ndarray:
        """Return the global positions of `image_ids` (all images if None)."""
        if image_ids is None:
            return np.arange(len(self))
        return np.array([self.position(image) for image in image_ids], dtype=np.int64)

    def split(self, positions: Positions) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (store, positions in this store, their places in `positions`) for each store."""
        wanted = np.asarray(positions, dtype=np.int64)
        store = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(store):
            where = np.flatnonzero(store == number)
            yield int(number), wanted[where] - self._starts[number], where
