"""The stores of a run whose atlas is built: its SAEs, codes, images and tables, found by place."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_sae.analysis.cases import Identity, read_cases
from mammo_sae.atlas.scripts import read_data
from mammo_sae.atlas.tables import Tables, read_tables
from mammo_sae.cohorts.regions import concept_regions
from mammo_sae.errors import InputError
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import read_table


class Stored:
    """The stores of a run, opened when they are needed.

    Parameters
    ----------
    atlas
        Folder of the atlas, within the folder of its run.

    Attributes
    ----------
    about
        What the atlas says of its run: size of the images, split, concepts, SAEs.
    saes
        Address -> SAE.

    Raises
    ------
    InputError
        If the image table or the codes of an SAE are not in the folder of the run.
    """

    def __init__(self, atlas: Path) -> None:
        self.atlas, self.run = atlas, atlas.parent
        self.about: dict[str, Any] = read_data(atlas / "data" / "run.js")
        self.saes = {
            one["address"]: Identity(one["encoder"], one["layer"], one["sae"], one["seed"])
            for one in self.about["saes"]
        }
        self.reader = cache(lambda identity: CodesReader(self._codes(identity)))
        self.cases = cache(self._read_cases)
        for path in (self.images, *map(self._codes, self.saes.values())):
            if not path.is_file():
                raise InputError(f"{path} is missing")

    @property
    def images(self) -> Path:
        """The image table."""
        return self.run / "cohort" / "images.parquet"

    def _codes(self, identity: Identity) -> Path:
        folder = self.run / "codes" / identity.encoder / identity.layer / identity.sae
        return folder / f"seed{identity.seed}.json"

    def sae(self, identity: Identity) -> Path:
        """Return the description of an SAE."""
        folder = self.run / "sae" / identity.encoder / identity.layer / identity.sae
        return folder / f"seed{identity.seed}" / "sae.json"

    def _read_cases(self, identity: Identity) -> pd.DataFrame:
        return read_cases(self.images, self.reader(identity).image_ids)

    @cached_property
    def tables(self) -> Tables:
        """The tables of the run."""
        return read_tables(sorted((self.run / "tables").glob("*.parquet")))

    @cached_property
    def cohort(self) -> pd.DataFrame:
        """The rows of the image table."""
        return read_table(self.images)

    @cached_property
    def store(self) -> ImageReader:
        """The canonical images. Other manifests in their folder are of images of no page."""
        shards = sorted((self.run / "images").glob("[0-9]*.json"), key=lambda path: path.name)
        manifests = [path for path in shards if path.stem.isdecimal()]
        return ImageReader(manifests, concept_regions(self.images))

    def score(self, identity: Identity) -> str:
        """Return the name of the pooled codes by which the latents of an SAE were ranked."""
        return str(self.tables.of("latents", identity)["score"].iloc[0])
