"""Step: draw pairs of phantom images that differ in one finding or artefact.

Each image of a patient of the phantom's part `pairs` is drawn as planned. Then each finding and
artefact is switched in turn, and the image is drawn again. A switch removes what the patient has,
and adds what the patient does not have. A finding is in one breast only, so images of the other
breast are not drawn again when a finding is switched. Each image is written as a DICOM file and
converted like a file of the cohort. The images belong to no cohort and to no split, so no SAE,
probe or ranking uses them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae.dicom.canonical import canonical_image
from mammo_sae.dicom.files import read_image
from mammo_sae.dicom.settings import ImagesSettings
from mammo_sae.phantom.header import dicom_dataset
from mammo_sae.phantom.image import render
from mammo_sae.phantom.plan import VIEWS, Patient, Side, View, plan_patient, switched
from mammo_sae.phantom.settings import Component, PhantomPartSettings
from mammo_sae.progress import progress
from mammo_sae.stores.images import ImageRecord, create_image_store
from mammo_sae.stores.tables import write_table

if TYPE_CHECKING:
    from mammo_sae.images.settings import PairsSettings


@dataclass(frozen=True)
class Drawn:
    """One image to draw: as planned (`component` is None), or with `component` added or removed."""

    patient: Patient
    side: Side
    view: View
    component: Component | None

    @property
    def image_id(self) -> str:
        """The id of the image: patient, side, view, and the component that is added or removed."""
        name = f"{self.patient.number:05d}-{self.side}-{self.view}"
        return name if self.component is None else f"{name}-{self.component}"


def run(settings: PairsSettings, *, store: Path, manifest: Path, pairs: Path) -> list[Path]:
    """Draw the images, convert them, and write the table of pairs.

    Parameters
    ----------
    settings
        The settings of the phantom's part `pairs`, and of the preprocessing.
    store, manifest
        The image store to write (`mammo_sae.stores.images`), and its manifest. It has no regions.
    pairs
        Table to write (.parquet), a row per pair. `component` is the finding or artefact. `on` is
        the id of the image with it, `off` the id of the image without it. `patient` is the number
        of the patient.
    """
    phantom, images = settings.phantom, settings.images
    patients = [plan_patient(phantom, number) for number in range(phantom.patients)]
    drawn = [image for patient in patients for image in _images(phantom, patient)]
    with (
        create_image_store(
            store,
            manifest,
            image_ids=[image.image_id for image in drawn],
            height=images.height,
            width=images.width,
            regions=(),
            attributes={"preprocessing": images.preprocessing},
        ) as writer,
        tempfile.TemporaryDirectory() as folder,
    ):
        for position, image in enumerate(progress(drawn, label="pairs")):
            writer.write(position, _record(phantom, images, image, Path(folder) / "image.dicom"))
    write_table(pd.DataFrame([_pair(image) for image in drawn if image.component]), pairs)
    return [manifest, pairs]


def _images(phantom: PhantomPartSettings, patient: Patient) -> Iterator[Drawn]:
    for side in patient.sides:
        for view in VIEWS:
            yield Drawn(patient, side, view, None)
            for component in phantom.components:
                if _is_visible(phantom, patient, side, component):
                    yield Drawn(patient, side, view, component)


def _is_visible(
    phantom: PhantomPartSettings, patient: Patient, side: Side, component: Component
) -> bool:
    """Return whether a finding or artefact, if present, is in the images of the breast on `side`.

    An artefact is in all images of a patient, a finding only in the images of one breast.
    """
    with_it = patient if patient.has(component) else switched(phantom, patient, component)
    if component == "mass":
        return with_it.breast_mass(side) is not None
    if component == "suspicious_calcification":
        return with_it.breast_cluster(side) is not None
    return True


def _pair(image: Drawn) -> dict[str, object]:
    """Return the row of a pair: `image`, in which a component is switched, and the planned one."""
    assert image.component is not None
    ids = [image.image_id, Drawn(image.patient, image.side, image.view, None).image_id]
    if image.patient.has(image.component):
        ids.reverse()
    return {
        "component": image.component,
        "patient": image.patient.number,
        "on": ids[0],
        "off": ids[1],
    }


def _record(
    phantom: PhantomPartSettings, images: ImagesSettings, image: Drawn, path: Path
) -> ImageRecord:
    """Draw an image, write it as a DICOM file to `path`, and convert the file to a record."""
    patient = image.patient
    if image.component is not None:
        patient = switched(phantom, patient, image.component)
    rendered = render(phantom, patient, image.side, image.view)
    data = dicom_dataset(phantom, patient, image.side, image.view, rendered)
    data.save_as(path, enforce_file_format=True)
    header, stored = read_image(path)
    canonical = canonical_image(header, stored, images)
    return ImageRecord(
        pixels=canonical.pixels,
        breast=canonical.breast,
        regions=np.zeros((0, *canonical.pixels.shape), bool),
        affine=canonical.geometry.affine,
        flipped=canonical.geometry.flipped,
        spacing_mm=np.nan,
    )
