"""What conversion costs on top of a bare decode-and-resize loop, and the memory it takes.

    python benchmarks/bench_images.py [--images 8] [--turns 4]

Both read the same 3518 x 2800 16-bit files one after the other in one process, in turns, and the
best turn of each counts: what is computed once per size of matrix and then kept is a shard's cost,
not an image's. CPU seconds are compared, since they hold on a busy machine too; `ratio` is bare
over converted: 1 is no overhead.
Memory is the peak of the process that converts a whole shard through the step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from pydicom import dcmread, uid
from pydicom.dataset import FileDataset, FileMetaDataset

ROWS, COLUMNS = 3518, 2800
HEIGHT, WIDTH = 1520, 912
SYNTAXES = {
    "uncompressed": (uid.ExplicitVRLittleEndian, None),
    "JPEG-LS": (uid.JPEGLSLossless, "pyjpegls"),
    "JPEG 2000": (uid.JPEG2000Lossless, "pylibjpeg"),
}


def write(path: Path, seed: int, syntax: str) -> None:
    y, x = np.mgrid[:ROWS, :COLUMNS]
    depth = 1 - (x / (0.7 * COLUMNS)) ** 2 - ((y - ROWS / 2) / (0.4 * ROWS)) ** 2
    noise = np.random.default_rng(seed).normal(0, 40, (ROWS, COLUMNS))
    stored = np.where(depth > 0, 1500 + 2000 * np.clip(depth, 0, 1) + noise, 0).astype("<u2")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = f"2.25.{seed + 1}"
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PhotometricInterpretation = "MG", "MONOCHROME2"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = ROWS, COLUMNS, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = stored.tobytes()
    target, plugin = SYNTAXES[syntax]
    if plugin:
        dataset.compress(target, encoding_plugin=plugin, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def make_folder(folder: Path, images: int, syntax: str) -> None:
    """Write a shard of one syntax in VinDr-Mammo's form."""
    rows = []
    for n in range(images):
        write(folder / "images" / f"s{n}" / f"i{n}.dicom", n, syntax)
        rows.append((f"s{n}", f"i{n}", "L", "CC", ROWS, COLUMNS, "BI-RADS 1", "DENSITY B"))
    names = "study_id image_id laterality view_position height width breast_birads breast_density"
    table = pd.DataFrame(rows, columns=names.split()).assign(split="training")
    table.to_csv(folder / "breast-level_annotations.csv", index=False)
    columns = ["image_id", "finding_categories", "xmin", "ymin", "xmax", "ymax"]
    pd.DataFrame(columns=columns).to_csv(folder / "finding_annotations.csv", index=False)
    pd.DataFrame({"SOP Instance UID": table["image_id"]}).to_csv(
        folder / "metadata.csv", index=False
    )


def bare(folder: Path) -> float:
    """Decode and resize every file, nothing else; return CPU seconds."""
    from mammo_sae.dicom.pixels import DECODERS

    before = time.process_time()
    for path in sorted(folder.rglob("*.dicom")):
        dataset = dcmread(path)
        plugin = DECODERS.get(dataset.file_meta.TransferSyntaxUID, "")
        dataset.pixel_array_options(decoding_plugin=plugin)
        pixels = Image.fromarray(dataset.pixel_array.astype(np.float32), mode="F")
        np.asarray(pixels.resize((WIDTH, HEIGHT), Image.Resampling.BOX)).astype(np.uint8)
    return time.process_time() - before


def converted(folder: Path) -> float:
    """Convert every file as the step does, without its store; return CPU seconds."""
    from mammo_sae.dicom.canonical import canonical_image
    from mammo_sae.dicom.pixels import read_pixels
    from mammo_sae.dicom.settings import ClinicalSettings

    settings = ClinicalSettings(height=HEIGHT, width=WIDTH)
    before = time.process_time()
    for path in sorted(folder.rglob("*.dicom")):
        canonical_image(*read_pixels(path), settings)
    return time.process_time() - before


def shard_memory(folder: Path, out: Path) -> float:
    """Convert the shard through its step in this process; return its peak memory, MB."""
    from mammo_sae.cohorts.settings import PhantomCohort
    from mammo_sae.dicom import convert
    from mammo_sae.dicom.settings import ClinicalSettings, ConversionSettings

    settings = ConversionSettings(
        images=ClinicalSettings(height=HEIGHT, width=WIDTH), concepts=PhantomCohort().concepts
    )
    convert.run(settings, [folder], 0, out / "0.zarr", out / "0.json")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        with tempfile.TemporaryDirectory() as out:
            print(json.dumps(shard_memory(Path(given.memory), Path(out))))
        return
    for syntax in SYNTAXES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_folder(folder, given.images, syntax)
            turns = [(bare(folder), converted(folder)) for _ in range(given.turns)]
            first, second = map(min, zip(*turns, strict=True))
            child = [sys.executable, __file__, "--memory", name]
            peak = float(subprocess.run(child, capture_output=True, check=True).stdout)
            print(
                f"{syntax:13} bare {first / given.images * 1e3:5.0f} ms"
                f"  converted {second / given.images * 1e3:5.0f} ms"
                f"  ratio {first / second:4.2f}  peak {peak:4.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
