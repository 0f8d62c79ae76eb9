"""No result contains anything that identifies a patient: canaries are planted and searched for.

Every attribute of DICOM's data dictionary that can contain a text, a date or a UID gets a canary.
This is a superset of the list in PS3.15 table E.1-1. File meta information, private elements,
sequences, preamble and padding, the names of folders and files, and the ids in the tables get
canaries too.
"""

from __future__ import annotations

import base64
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import zarr
from PIL import Image, PngImagePlugin
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from mammo_sae.cohorts.facts import TAGS
from mammo_sae.dicom.header import READ
from mammo_sae.phantom import archive
from mammo_sae.phantom.settings import PatientCounts, PhantomSettings

pytestmark = pytest.mark.workflow

TEXT, UID_ROOT, DATE, TIME, WHOLE, DECIMAL = (
    *("ZQCANARYZQ", "2.25.7618230954417", "19010203", "010203.918273"),
    *("-918273645", "91827.36451"),
)
CANARIES = [canary.encode() for canary in (TEXT, UID_ROOT, DATE, TIME, WHOLE, DECIMAL)]
BY_VR = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"), TEXT),
    "PN": f"{TEXT}^JANE",
    "UI": f"{UID_ROOT}.1",
    "DA": DATE,
    "DT": f"{DATE}{TIME}",
    "TM": TIME,
    "IS": WHOLE,
    "DS": DECIMAL,
    **dict.fromkeys(("OB", "OW", "UN"), TEXT.encode()),
}
ENCODING = {"SpecificCharacterSet", "TimezoneOffsetFromUTC"}  # needed to read all other elements
TABLES = {
    "breast-level_annotations": ("study_id", "series_id", "image_id"),
    "finding_annotations": ("study_id", "series_id", "image_id"),
    "metadata": ("SOP Instance UID",),
}


def plant(dataset: Dataset) -> int:
    """Put a canary into every attribute that the package does not read. Return their number."""
    read = {*READ, *TAGS, *ENCODING}
    planted = 0
    for number, (vrs, _, _, _, keyword) in DicomDictionary.items():
        tag, vr = Tag(number), vrs.split(" or ")[0]
        if keyword in read or not keyword or tag.group < 8 or tag.group == 0x7FE0:
            continue
        if vr == "SQ":
            item = Dataset()
            item.PatientName, item.PatientID, item.StudyInstanceUID = (
                BY_VR[vr] for vr in ("PN", "LO", "UI")
            )
            dataset.add_new(tag, "SQ", [item])
        elif vr in BY_VR:
            dataset.add_new(tag, vr, BY_VR[vr])
        else:
            continue
        planted += 1
    for group in (0x0009, 0x0019, 0x0029):
        block = dataset.private_block(group, f"{TEXT} HEADER", create=True)
        block.add_new(1, "LO", TEXT)
        block.add_new(2, "UN", TEXT.encode())
    dataset.add_new(0x60000022, "LO", TEXT)  # of an overlay
    # Attributes that the package reads and that can have any text.
    dataset.PaddleDescription = TEXT
    dataset.ImageType = [*dataset.ImageType[:2], "", TEXT]
    for item in dataset.ViewCodeSequence:
        item.CodeMeaning = TEXT
    meta = dataset.file_meta
    meta.SourceApplicationEntityTitle = meta.SendingApplicationEntityTitle = TEXT
    meta.ImplementationVersionName = TEXT
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = f"{UID_ROOT}.2", TEXT.encode()
    dataset.preamble = TEXT.encode().ljust(128, b"\0")
    return planted


def write_dataset(folder: Path) -> None:
    """Write a folder with VinDr-Mammo's layout in which everything is a canary."""
    settings = PhantomSettings(
        height=96, width=64, patients=PatientCounts(training=12, test=12, external=1)
    )
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    for part in ("training", "test"):
        aside = folder.with_name(part)
        archive.run(settings.part(part), aside, folder.with_name(f"{part}.json"))
        for name, ids in TABLES.items():
            table = pd.read_csv(aside / f"{name}.csv")
            for column in ids:
                table[column] = f"{TEXT}-" + table[column].astype(str)
            parts[name].append(table)
        for number, path in enumerate(sorted((aside / "images").rglob("*.dicom"))):
            dataset = pydicom.dcmread(path)
            assert plant(dataset) > 3000
            dataset.SOPInstanceUID = f"{UID_ROOT}.{part == 'test':d}.{number + 1}"
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            target = folder / "images" / f"{TEXT}-{path.parent.name}" / f"{TEXT}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            dataset.save_as(target, enforce_file_format=True)
    stray = folder / "images" / f"{TEXT}-nobody" / f"{TEXT}.dicom"
    stray.parent.mkdir()
    stray.write_bytes(target.read_bytes())
    # A test image is truncated and a training image is missing, because messages name refused
    # images too.
    target.write_bytes(target.read_bytes()[:-4000])
    gone = parts["metadata"][0][TABLES["metadata"][0]][0]
    next((folder / "images").rglob(f"{gone}.dicom")).unlink()
    for name, tables in parts.items():
        pd.concat(tables).to_csv(folder / f"{name}.csv", index=False)


def views(name: str, content: bytes) -> Iterator[bytes]:
    """Yield the content of a file, and all files that are packed in it."""
    yield content
    if name.endswith(".parquet"):
        table = pd.read_parquet(io.BytesIO(content))
        yield table.to_csv().encode()
    elif name.endswith(".png"):
        with Image.open(io.BytesIO(content)) as image:
            yield repr(image.info).encode()
    for start in (found.start() for found in re.finditer(rb"\x1f\x8b\x08", content)):
        try:
            unpacked = zlib.decompressobj(wbits=31).decompress(content[start:])
        except zlib.error:
            continue
        yield from views("", unpacked)
    # A report contains its files in its scripts.
    for packed in re.findall(rb"[A-Za-z0-9+/]{64,}={0,2}", content):
        try:
            unpacked = base64.b64decode(packed, validate=True)
        except ValueError:
            continue
        yield from views(".png" if unpacked.startswith(b"\x89PNG") else "", unpacked)


def leaks(folder: Path, canaries: list[bytes]) -> list[str]:
    """Return the places below `folder` with one of `canaries`, in names or contents."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(canary in name.encode() for canary in canaries):
            found.append(name)
        if path.is_file():
            for view in views(path.name, path.read_bytes()):
                if any(canary.lower() in view.lower() for canary in canaries):
                    found.append(name)
                    break
        if path.name.endswith(".zarr"):
            for key, array in zarr.open_group(path, mode="r").members(max_depth=None):
                if isinstance(array, zarr.Array):
                    content = np.asarray(array[:])
                    text = repr(content.tolist()) if content.dtype.kind in "OTU" else ""
                    if any(c in content.tobytes() or c in text.encode() for c in canaries):
                        found.append(f"{name}/{key}")
    return found


def test_a_canary_is_found_in_every_kind_of_file(tmp_path):
    """The search itself: each kind of file, with a canary packed in it."""
    text = TEXT.encode()
    (tmp_path / "plain.log").write_bytes(b"... " + text)
    (tmp_path / f"{TEXT}.json").write_text("{}")
    packed = base64.b64encode(gzip.compress(bytes(range(128)) + text))
    (tmp_path / "report.html").write_bytes(b"<script>'" + packed + b"'</script>")
    pd.DataFrame({"a": [TEXT] * 1000}).to_parquet(tmp_path / "a.parquet", compression="zstd")
    about = PngImagePlugin.PngInfo()
    about.add_text("Source", TEXT, zip=True)
    Image.new("L", (4, 4)).save(tmp_path / "a.png", pnginfo=about)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("names", data=np.array([TEXT] * 50, dtype="U32"))
    (tmp_path / "clean.txt").write_text("nothing")
    found = {name.split("/")[0] for name in leaks(tmp_path, CANARIES)}
    names = {"plain.log", f"{TEXT}.json", "report.html", "a.parquet", "a.png", "a.zarr"}
    assert found == names


@pytest.fixture(scope="module")
def private(tmp_path_factory, micro_project):
    """The finished run, report included, on a cohort in which everything is a canary."""
    project = micro_project(tmp_path_factory.mktemp("private"))
    clinic = tmp_path_factory.mktemp("sources") / f"{TEXT}-clinic"
    write_dataset(clinic / "archive")
    key = clinic / f"{TEXT}.key"
    key.write_text(f"{TEXT}-an-unguessable-secret")
    (project.folder / "private.yaml").write_text(
        f"""name: private
cohort: {{kind: vindr, source: {clinic}/archive, key_file: {key}}}
images: {{triage: {{most_refused: 0.2}}}}
"""
    )
    project.config = (*project.config, "private.yaml")
    project.snakemake()
    results = project.folder / "results" / "private"
    project.snakemake("--report", str(results / "report.html"))
    return results


def test_no_canary_reaches_a_result(private):
    assert (private / "report.html").stat().st_size > 100_000
    assert len([path for path in private.rglob("*.log") if path.stat().st_size]) > 5
    assert leaks(private.parent, CANARIES) == []


def test_images_left_out_are_listed_by_pseudonym_and_the_run_continues(private):
    table = pd.read_csv(private / "tables" / "quarantine.csv")
    left_out = table[table["action"] == "left out"]
    assert sorted(left_out["reason"]) == ["missing", "truncated", "unannotated"]
    assert table["image_id"].str.fullmatch("[0-9a-f]{16}").all()
    assert len(pd.read_csv(private / "tables" / "sae_quality.csv")) == 1
