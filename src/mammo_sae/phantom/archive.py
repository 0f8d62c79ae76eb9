"""Step: write one part of the phantom cohort as an archive with the layout of VinDr-Mammo.

Layout of the published directory::

    images/<study_id>/<image_id>.dicom   Digital Mammography X-Ray Image, For Presentation
    breast-level_annotations.csv         one row per image
    finding_annotations.csv              one row per finding; `No Finding`: an image without one
    metadata.csv                         one row per image: header values under DICOM's names
    masks/<image_id>.png                 bit planes of `BIT_PLANES`, geometry of the image
    truth.csv                            one row per image: artefacts and findings, their strength
    truth.json                           odds ratios, bit planes, all settings

VinDr-Mammo also has the first four. The other three exist because the ground truth is known.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydicom.dataset import Dataset

from mammo_sae.errors import InputError
from mammo_sae.phantom.header import (
    dicom_dataset,
    image_id,
    series_id,
    study_id,
)
from mammo_sae.phantom.image import BIT_PLANES, PhantomImage, render
from mammo_sae.phantom.plan import (
    VIEWS,
    Patient,
    Side,
    View,
    conditional_probabilities,
    plan_patient,
)
from mammo_sae.phantom.settings import CATEGORIES, PhantomPartSettings
from mammo_sae.phantom.vendors import VENDORS
from mammo_sae.progress import progress
from mammo_sae.stores.publish import create_store
from mammo_sae.stores.tables import write_table

Row = dict[str, Any]

TABLES = ("breast-level_annotations", "finding_annotations", "metadata", "truth")
# Column of metadata.csv -> keyword of the header's attribute.
METADATA = {
    "Patient's Age": "PatientAge",
    "View Position": "ViewPosition",
    "Image Laterality": "ImageLaterality",
    "Rows": "Rows",
    "Columns": "Columns",
    "Imager Pixel Spacing": "ImagerPixelSpacing",
    "Pixel Spacing": "PixelSpacing",
    "Manufacturer": "Manufacturer",
    "Manufacturer's Model Name": "ManufacturerModelName",
    "Photometric Interpretation": "PhotometricInterpretation",
    "Bits Stored": "BitsStored",
    "Window Center": "WindowCenter",
    "Window Width": "WindowWidth",
    "Rescale Intercept": "RescaleIntercept",
    "Rescale Slope": "RescaleSlope",
    "Rescale Type": "RescaleType",
}


def run(
    settings: PhantomPartSettings,
    archive: Path,
    manifest: Path,
    *,
    threads: int = 1,
) -> list[Path]:
    """Write one part of the phantom archive: DICOM files, annotation tables, masks, truth.

    Parameters
    ----------
    settings
        The settings of the part, made by `PhantomSettings.part`.
    archive
        The directory to write.
    manifest
        The manifest of the archive, written last.
    threads
        Number of processes that draw images. The files do not depend on this number.

    Raises
    ------
    InputError
        If `threads` is not positive.
    """
    if threads < 1:
        raise InputError(f"threads is {threads}; give at least 1")
    with create_store(archive, manifest, kind="archive") as folder:
        (folder / "masks").mkdir()
        tables: dict[str, list[Row]] = {name: [] for name in TABLES}
        for rows in progress(
            _patients(settings, folder, threads),
            total=settings.patients,
            label=f"phantom {settings.part}",
        ):
            for name, table in tables.items():
                table.extend(rows[name])
        for name, table in tables.items():
            write_table(pd.DataFrame(table), folder / f"{name}.csv")
        _write_truth(settings, folder / "truth.json")
    return [manifest]


def _patients(
    settings: PhantomPartSettings, folder: Path, threads: int
) -> Iterator[dict[str, list[Row]]]:
    write = partial(_write_patient, settings, folder)
    numbers = range(settings.patients)
    if threads == 1:
        yield from map(write, numbers)
        return
    # Processes are spawned, not forked: a fork copies the locks of the parent's running threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(threads, mp_context=context) as pool:
        yield from pool.map(write, numbers, chunksize=4)


def _write_patient(
    settings: PhantomPartSettings, folder: Path, number: int
) -> dict[str, list[Row]]:
    """Write the images and masks of one patient; return the patient's rows of each table."""
    patient = plan_patient(settings, number)
    study = folder / "images" / study_id(settings, patient)
    study.mkdir(parents=True)
    tables: dict[str, list[Row]] = {name: [] for name in TABLES}
    for side in patient.sides:
        for view in VIEWS:
            image = render(settings, patient, side, view)
            data = dicom_dataset(settings, patient, side, view, image)
            name = image_id(settings, patient, side, view)
            data.save_as(study / f"{name}.dicom", enforce_file_format=True)
            Image.fromarray(image.bit_planes).save(
                folder / "masks" / f"{name}.png", compress_level=3
            )
            breast = _breast_row(settings, patient, side, view)
            tables["breast-level_annotations"].append(breast)
            tables["finding_annotations"].extend(_finding_rows(patient, side, breast, image))
            tables["metadata"].append(_metadata_row(name, data))
            tables["truth"].append(_truth_row(settings, patient, side, view, image))
    return tables


def _breast_row(settings: PhantomPartSettings, patient: Patient, side: Side, view: View) -> Row:
    return {
        "study_id": study_id(settings, patient),
        "series_id": series_id(settings, patient),
        "image_id": image_id(settings, patient, side, view),
        "laterality": side,
        "view_position": view,
        "height": settings.height,
        "width": settings.width,
        "breast_birads": f"BI-RADS {patient.breast_birads(side)}",
        "breast_density": f"DENSITY {patient.density}",
        "split": settings.part,
    }


def _finding_rows(patient: Patient, side: Side, breast: Row, image: PhantomImage) -> list[Row]:
    """Return a row per finding: its category, and the box at the pixel edges of its mask."""
    shared = {name: value for name, value in breast.items() if name != "split"}
    findings = {
        "mass": patient.breast_mass(side),
        "suspicious_calcification": patient.breast_cluster(side),
    }
    rows = []
    for concept, finding in findings.items():
        if finding is None:
            continue
        y, x = np.nonzero(image.regions[concept])
        rows.append(
            {
                **shared,
                "finding_categories": str([CATEGORIES[concept]]),
                "finding_birads": f"BI-RADS {finding.birads}",
                "xmin": float(x.min()),
                "ymin": float(y.min()),
                "xmax": float(x.max() + 1),
                "ymax": float(y.max() + 1),
                "split": breast["split"],
            }
        )
    if not rows:
        empty = dict.fromkeys(("finding_birads", "xmin", "ymin", "xmax", "ymax"))
        rows.append(
            {**shared, "finding_categories": "['No Finding']", **empty, "split": breast["split"]}
        )
    return rows


def _metadata_row(name: str, data: Dataset) -> Row:
    row: Row = {"SOP Instance UID": name}
    for column, keyword in METADATA.items():
        element = data[keyword]
        values = element.value if element.VM > 1 else [element.value]
        plain = [float(value) if element.VR == "DS" else value for value in values]
        row[column] = str(plain) if element.VM > 1 else plain[0]
    return row


def _truth_row(
    settings: PhantomPartSettings, patient: Patient, side: Side, view: View, image: PhantomImage
) -> Row:
    mass, cluster = patient.breast_mass(side), patient.breast_cluster(side)
    planted = image.planted
    return {
        "study_id": study_id(settings, patient),
        "image_id": image_id(settings, patient, side, view),
        "mass": int(mass is not None),
        "suspicious_calcification": int(cluster is not None),
        **{name: int(name in patient.artefacts) for name in settings.confounders.drawn},
        "density": patient.density,
        "dense_share": planted["dense_share"],
        "mass_kind": mass.kind if mass else None,
        "mass_radius": mass.radius if mass else None,
        "mass_contrast": mass.contrast if mass else None,
        "n_specks": cluster.specks if cluster else 0,
        "cluster_radius": cluster.radius if cluster else None,
        "calcification_contrast": cluster.contrast if cluster else None,
        "n_islands": planted["islands"],
        "n_vessels": planted["vessels"],
        "n_single_specks": planted["single_specks"],
        "marker_grey": planted.get("marker_grey"),
        **{
            f"{name}_contrast": planted.get(f"{name}_contrast")
            for name in ("paddle", "skin_fold", "wire", "implant")
            if name in settings.confounders.drawn
        },
    }


def _write_truth(settings: PhantomPartSettings, path: Path) -> None:
    confounders = settings.confounders
    truth = {
        "part": settings.part,
        "concept": confounders.concept,
        "confounders": {
            name: {
                **artefact.model_dump(),
                "probability_given_concept": conditional_probabilities(
                    getattr(settings.prevalence, confounders.concept),
                    artefact.rate,
                    artefact.odds_ratio,
                ),
            }
            for name, artefact in confounders.drawn.items()
        },
        "bit_planes": {
            name: bit for name, bit in BIT_PLANES.items() if name in settings.components
        },
        "manufacturers": [vendor.manufacturer for vendor in VENDORS],
        "settings": settings.model_dump(mode="json"),
    }
    path.write_text(json.dumps(truth, indent=1, sort_keys=True) + "\n", encoding="utf-8")
