"""Values for a cohort's tables from the headers of image files.

Datasets whose own tables lack these values use this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from mammo_sae.cohorts.ages import age_in_years
from mammo_sae.cohorts.tables import age_bin
from mammo_sae.dicom.acquisition import READ, read_acquisition
from mammo_sae.dicom.elements import Elements
from mammo_sae.dicom.header import MOST_SIDE, spacing_mm
from mammo_sae.dicom.raster import raster_kind, raster_size
from mammo_sae.dicom.reading import open_nameless, parse_dicom
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.progress import progress

TAGS = (
    *READ,
    "Columns",
    "ImagerPixelSpacing",
    "Manufacturer",
    "ManufacturerModelName",
    "NominalScannedPixelSpacing",
    "PatientAge",
    "PatientOrientation",
    "PixelSpacing",
    "Rows",
)
ORIGIN = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
# Larger than any mammogram, so that every valid box lies inside.
LARGE = 1 << 20
THREADS = 8  # Reading headers waits for the disk most of the time.


@dataclass(frozen=True)
class Facts:
    """Values from a header, None if missing. Spacing is in mm in the plane of the breast.

    `orientation` is the direction of a row of pixels: A (anterior) or P (posterior), as in the
    DICOM standard.
    """

    rows: int
    columns: int
    side: str | None
    view: str | None
    spacing_mm: float | None
    manufacturer: str | None
    model: str | None
    age: int | None
    orientation: str | None = None


_UNREAD: ContextVar[bool] = ContextVar("_UNREAD", default=False)


@contextmanager
def files_unread() -> Iterator[None]:
    """Read no header inside the block: every existing file counts as a large image, left CC.

    This serves checks of a cohort's tables. Reading tables takes seconds, but reading headers may
    take hours.
    """
    token = _UNREAD.set(True)
    try:
        yield
    finally:
        _UNREAD.reset(token)


def read_facts(paths: Sequence[Path], label: str) -> list[Facts | None]:
    """Return the facts of each file, None if the file is missing or is not a readable image."""
    if _UNREAD.get():
        large = Facts(LARGE, LARGE, "L", "CC", None, None, None, None)
        return [large if path.is_file() else None for path in paths]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(progress(pool.map(_facts, paths), total=len(paths), label=label))


def read_origins(paths: Sequence[Path]) -> list[tuple[str, ...]]:
    """Return PatientID, StudyInstanceUID and SeriesInstanceUID of each DICOM file, if present.

    These ids are compared with the ids of a source's tables. They are not stored or printed. If a
    folder's name is the UID of the study or the series, only one of its files is read.
    """
    found: dict[Path, tuple[str, ...]] = {}
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    with ThreadPoolExecutor(THREADS) as pool:
        first = [files[0] for files in folders.values()]
        for path, origin in zip(first, pool.map(_origin, first), strict=True):
            found[path] = origin
        others = []
        for folder, (path, *rest) in folders.items():
            if folder.name in found[path][1:]:
                found.update(dict.fromkeys(rest, found[path]))
            else:
                others += rest
        found.update(zip(others, pool.map(_origin, others), strict=True))
    return [found[path] for path in paths]


def _origin(path: Path) -> tuple[str, ...]:
    try:
        with open_nameless(path) as stream:
            elements = Elements(parse_dicom(stream, ORIGIN, pixels=False))
        return tuple(str(elements.value(keyword) or "").strip() for keyword in ORIGIN)
    except Exception:  # For any error of the parser, the file counts as no image.
        return ("", "", "")


def header_columns(paths: Sequence[Path]) -> dict[str, list[Any]]:
    """Return the columns of the images table that come from headers, one value per file.

    For a file that is missing or is not a readable image all values are None.
    """
    return fact_columns(read_facts(paths, "read headers"))


def fact_columns(headers: Sequence[Facts | None]) -> dict[str, list[Any]]:
    """Return the columns of the images table from `headers`, one value per header.

    The values are None for a header that is None.
    """
    names = {
        "rows": "rows",
        "columns": "columns",
        "pixel_spacing_mm": "spacing_mm",
        "manufacturer": "manufacturer",
        "model": "model",
        "age": "age",
    }
    table = {
        column: [None if header is None else getattr(header, name) for header in headers]
        for column, name in names.items()
    }
    return {**table, "age_bin": [age_bin(age) for age in table.pop("age")]}


def _facts(path: Path) -> Facts | None:
    try:
        if raster_kind(path):
            rows, columns = raster_size(path)
            return Facts(rows, columns, None, None, None, None, None, None)
        # The parser skips elements that are not requested, so a long header needs no memory.
        with open_nameless(path) as stream:
            elements = Elements(parse_dicom(stream, TAGS, pixels=False))
        taken = read_acquisition(elements)
        spacing, _ = spacing_mm(elements)
        return Facts(
            rows=_matrix(elements, "Rows"),
            columns=_matrix(elements, "Columns"),
            side=taken.side,
            view=taken.view,
            spacing_mm=None if isnan(spacing) else spacing,
            manufacturer=_name(elements, "Manufacturer"),
            model=_name(elements, "ManufacturerModelName"),
            age=_age(elements),
            orientation=_orientation(elements),
        )
    except Exception:  # For any error of the parser, the file counts as no image.
        return None


def _matrix(elements: Elements, keyword: str) -> int:
    value = elements.number(keyword)
    if value is None or not 1 <= value <= MOST_SIDE or value != int(value):
        raise Refusal(Reason.HEADER, keyword)
    return int(value)


def _name(elements: Elements, keyword: str) -> str | None:
    value = elements.value(keyword)
    return str(value).strip() or None if value is not None else None


def _age(elements: Elements) -> int | None:
    value = elements.value("PatientAge")
    try:
        return age_in_years(str(value)) if value is not None else None
    except ValueError:
        return None


def _orientation(elements: Elements) -> str | None:
    found = elements.value("PatientOrientation")
    first = found if isinstance(found, str) else next(iter(found or ()), "")
    return str(first).strip() or None
