"""A finished run: its tables, images, SAEs, codes and figures, and predictions of other images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from mammo_sae.analysis.cases import IDENTITY, Identity
from mammo_sae.cohorts.regions import concept_regions
from mammo_sae.errors import InputError
from mammo_sae.library.files import RunFiles
from mammo_sae.library.tables import Tables
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import read_table

if TYPE_CHECKING:  # torch, matplotlib and xarray take seconds to import
    import xarray as xr

    from mammo_sae.library.picture import Picture
    from mammo_sae.library.prediction import Prediction, Predictor
    from mammo_sae.library.sae import Sae

Latent: TypeAlias = int | np.integer[Any] | pd.Series | Mapping[str, Any]
"""A latent: its number, or a row of a table that has its number and the columns of its SAE."""


def open(folder: str | Path) -> Run:
    """Open a finished run.

    Parameters
    ----------
    folder
        The folder of the run, `results/<name>`. Nothing in it is changed.

    Raises
    ------
    InputError
        If the folder is not that of a run.
    """
    return Run(folder)


class Run:
    """A finished run.

    Several methods take `encoder`, `layer`, `sae` and `seed`, which name an SAE. A value that is
    left out is chosen if the run has several: the fine-tuned encoder, the layer `head`, the SAE
    that is no control, the lowest seed.

    Parameters
    ----------
    folder
        The folder of the run, `results/<name>`.

    Raises
    ------
    InputError
        If the folder is not that of a run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files = RunFiles(self.folder)
        self._predictors: dict[Identity, Predictor] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.folder.resolve().name

    @property
    def tables(self) -> Tables:
        """The result tables by name; README.md lists them ("What comes out")."""
        return Tables(self.folder / "tables")

    @cached_property
    def cohort(self) -> pd.DataFrame:
        """The table of images: id, patient, split, view, labels, covariates."""
        return read_table(self._files.images)

    @property
    def saes(self) -> pd.DataFrame:
        """The SAEs of the run: encoder, layer, sae, seed."""
        rows = [vars(of) for of in self._files.saes]
        return pd.DataFrame(rows, columns=list(IDENTITY))

    def sae(
        self,
        encoder: str | None = None,
        layer: str | None = None,
        sae: str | None = None,
        seed: int | None = None,
    ) -> Sae:
        """Return a trained SAE.

        Raises
        ------
        InputError
            If the run has no such SAE, or several fit. The message lists them.
        """
        from mammo_sae.library.sae import Sae

        return Sae.load(self._files.sae(self._files.choose(encoder, layer, sae, seed)))

    def codes(
        self,
        encoder: str | None = None,
        layer: str | None = None,
        sae: str | None = None,
        seed: int | None = None,
    ) -> xr.Dataset:
        """Return an SAE's codes of the whole cohort. Values are read when they are computed.

        `mammo_sae.stores.codes` describes the arrays.

        Raises
        ------
        InputError
            If the run has no such SAE, several fit, or the codes are missing or damaged.
        """
        dataset: xr.Dataset = self._reader(self._files.choose(encoder, layer, sae, seed)).dataset()
        return dataset

    def images(self, image_ids: str | Iterable[str]) -> xr.Dataset:
        """Return canonical images, in the given order.

        Parameters
        ----------
        image_ids
            Ids of images, for example from `cohort` or `top`.

        Returns
        -------
        xarray.Dataset
            `pixels` uint8 and `breast` bool [image_id, y, x]; `regions` bool [image_id, region, y,
            x], the masks of concepts and artefacts; `spacing_mm` [image_id], millimetres per
            canonical pixel.

        Raises
        ------
        InputError
            If there is no such image, or a store is damaged.
        """
        import xarray as xr

        ids = [image_ids] if isinstance(image_ids, str) else list(image_ids)
        reader = self._images()
        plane = ("image_id", "y", "x")
        return xr.Dataset(
            {
                "pixels": (plane, reader.pixels(ids)),
                "breast": (plane, reader.breast(ids)),
                "regions": (("image_id", "region", "y", "x"), reader.region_masks(ids)),
                "spacing_mm": ("image_id", reader.spacing_mm(ids)),
            },
            coords={"image_id": ids, "region": reader.regions},
        )

    def top(
        self,
        latent: Latent,
        n: int = 10,
        *,
        split: str | None = None,
        encoder: str | None = None,
        layer: str | None = None,
        sae: str | None = None,
        seed: int | None = None,
    ) -> pd.DataFrame:
        """Return the images that activate a latent most.

        Parameters
        ----------
        latent
            Number of the latent, or a row of a table, which names the SAE too.
        n
            Number of images. Images in which the latent does not fire are left out.
        split
            Only images of this split. None: of all splits.

        Returns
        -------
        pandas.DataFrame
            Rows of `cohort`, with the column `activation`: the latent's highest code in the image.

        Raises
        ------
        InputError
            If there is no such SAE or latent.
        """
        of, number, _ = self._latent(latent, encoder, layer, sae, seed)
        reader = self._reader(of)
        activation = pd.Series(
            reader.pooled("max", latents=[number])[:, 0], index=reader.image_ids, name="activation"
        )
        rows = self.cohort.join(activation, on="image_id", how="inner")
        rows = rows[rows["activation"] > 0]
        if split is not None:
            there = sorted(self.cohort["split"].unique())
            if split not in there:
                raise InputError(f"the run has no split {split!r}; there are {', '.join(there)}")
            rows = rows[rows["split"] == split]
        rows = rows.sort_values("activation", ascending=False, kind="stable", ignore_index=True)
        return rows.head(n)

    def show(
        self,
        latent: Latent,
        concept: str | None = None,
        *,
        examples: int = 5,
        encoder: str | None = None,
        layer: str | None = None,
        sae: str | None = None,
        seed: int | None = None,
    ) -> Picture:
        """Draw a latent as the report does: images that activate it, its numbers, its verdict.

        The images are of the confirmation split.

        Parameters
        ----------
        latent
            Number of the latent, or a row of a table, which names the SAE too.
        concept
            The concept of numbers and verdict. None: that of the row, or else the concept for which
            the latent has the best rank by AUROC.
        examples
            Number of images with the highest activation, one per patient.

        Raises
        ------
        InputError
            If there is no such SAE, latent or concept, or a table of the SAE is missing.
        """
        if examples < 1:
            raise InputError(f"examples is {examples}; give a number of images of at least 1")
        from mammo_sae.library.picture import picture
        from mammo_sae.report import latents
        from mammo_sae.report.settings import LatentSheetSettings

        of, number, named = self._latent(latent, encoder, layer, sae, seed)
        path = self._files.analysis(of, "latents")
        ranked = read_table(path)
        concepts = sorted(ranked["concept"].unique())
        concept = concept or named
        if concept is None:
            mine = ranked[ranked["latent"] == number].dropna(subset=["rank_auroc"])
            best = mine.sort_values("rank_auroc", kind="stable")["concept"]
            concept = best.iloc[0] if len(best) else concepts[0]
        if concept not in concepts:
            raise InputError(f"{path} has no concept {concept!r}; choose one of {concepts}")
        split = str(self._files.settings_of(path)["confirmation"])
        return picture(
            lambda output: latents.run(
                LatentSheetSettings(latents=1, examples=examples),
                images=self._files.images,
                image_stores=self._files.image_stores,
                codes=self._files.codes(of),
                latents=path,
                alignment=self._files.analysis(of, "alignment"),
                confounds=self._files.analysis(of, "confounds"),
                concept=concept,
                split=split,
                output=output,
                chosen=[number],
            )
        )

    def predict(
        self,
        path: str | Path,
        *,
        side: str | None = None,
        encoder: str | None = None,
        layer: str | None = None,
        sae: str | None = None,
        seed: int | None = None,
    ) -> Prediction:
        """Run one image through preprocessing, encoder, SAE and head, as the workflow did.

        Parameters
        ----------
        path
            A DICOM, PNG, JPEG, TIFF or NPY file. Only its pixels reach the result.
        side
            L or R. None: as the header says. With a side, the image must not be mirrored.

        Raises
        ------
        InputError
            If the image is refused by the policy of the run, or a file of the run is missing.
        """
        from mammo_sae.library.prediction import Predictor

        if side not in {None, "L", "R"}:
            raise InputError(f"side is {side!r}; give L, R or None")
        of = self._files.choose(encoder, layer, sae, seed)
        if of not in self._predictors:
            self._predictors[of] = Predictor(self._files, of)
        return self._predictors[of](Path(path), side)

    def _latent(
        self,
        latent: Latent,
        encoder: str | None,
        layer: str | None,
        sae: str | None,
        seed: int | None,
    ) -> tuple[Identity, int, str | None]:
        """Return SAE, number and concept (if a row names one) of a latent."""
        if isinstance(latent, int | np.integer):
            of, concept = self._files.choose(encoder, layer, sae, seed), None
        else:
            row = latent if isinstance(latent, Mapping | pd.Series) else {}
            lacks = [key for key in (*IDENTITY, "latent") if key not in row]
            if lacks and not len(row):
                raise InputError(
                    f"the latent is {latent!r}; give its number, or a row of a table of latents"
                )
            if lacks:
                raise InputError(
                    f"the row has no {lacks[0]!r}; give a row of a table of latents, or the number "
                    "of the latent"
                )
            of = self._files.choose(
                encoder or latent["encoder"],
                layer or latent["layer"],
                sae or latent["sae"],
                int(latent["seed"]) if seed is None else seed,
            )
            concept = latent.get("concept")
            latent = int(latent["latent"])
        known = self._reader(of).latents
        if not 0 <= latent < known:
            raise InputError(f"the SAE has no latent {latent}; give a number from 0 to {known - 1}")
        return of, int(latent), concept

    def _reader(self, of: Identity) -> CodesReader:
        return CodesReader(self._files.codes(of))

    def _images(self) -> ImageReader:
        return ImageReader(self._files.image_stores, concept_regions(self._files.images))
