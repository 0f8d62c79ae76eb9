"""Measure the time of the conversion against a simple decode-and-resize loop, and its memory.

    python benchmarks/bench_images.py [--images 8] [--turns 4] [--threads 2]

Both read the same 3518 x 2800 16-bit files one after the other in one process. They run in turns,
and the best turn of each counts. The first turn is slower, because it computes values that all
images of a size share. CPU seconds are compared, because they are reliable on a busy machine too.
`ratio` is the time of the simple loop over the time of the conversion: 1 means no overhead. Memory
is the peak of the process that converts a whole shard through the step.

Then the whole step, with the store and its checks, is compared with a pool of the same number of
processes that run the simple loop, on a shard eight times as large. The CPU seconds of all
processes are compared, including their start.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
from PIL import Image
from pydicom import dcmread, uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate

ROWS, COLUMNS = 3518, 2800
HEIGHT, WIDTH = 1520, 912
SYNTAXES = {
    "uncompressed": (uid.ExplicitVRLittleEndian, None),
    "RLE": (uid.RLELossless, None),
    "JPEG-LS": (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
    "JPEG Lossless": (
        uid.JPEGLosslessSV1,
        partial(imagecodecs.jpeg_encode, lossless=True, predictor=1, bitspersample=12),
    ),
    "HTJ2K": (uid.HTJ2KLossless, partial(imagecodecs.htj2k_encode, reversible=True)),
    "JPEG 2000": (
        uid.JPEG2000Lossless,
        partial(imagecodecs.jpeg2k_encode, codecformat="j2k", reversible=True, bitspersample=12),
    ),
}
IN_STEP = "JPEG Lossless"  # the syntax of most archives


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
    target, encode = SYNTAXES[syntax]
    if target == uid.RLELossless:
        dataset.compress(target, generate_instance_uid=False)
    elif encode is not None:
        dataset.PixelData = encapsulate([bytes(encode(stored))])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = target
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def make_folder(folder: Path, images: int, syntax: str) -> None:
    """Write a shard of one transfer syntax in VinDr-Mammo's layout."""
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
    """Only decode and resize every file. Return CPU seconds."""
    before = time.process_time()
    for path in sorted(folder.rglob("*.dicom")):
        decode_and_resize(path)
    return time.process_time() - before


def decode_and_resize(path: Path) -> np.ndarray:
    from mammo_sae.dicom.pixels import DECODERS

    dataset = dcmread(path)
    plugin = DECODERS.get(dataset.file_meta.TransferSyntaxUID, "")
    dataset.pixel_array_options(decoding_plugin=plugin)
    pixels = Image.fromarray(dataset.pixel_array.astype(np.float32), mode="F")
    return np.asarray(pixels.resize((WIDTH, HEIGHT), Image.Resampling.BOX)).astype(np.uint8)


def bare_pool(folder: Path, processes: int) -> float:
    """Decode and resize every file in a pool. Return CPU seconds of all processes."""
    before = cpu_seconds()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for _ in pool.map(decode_and_resize, sorted(folder.rglob("*.dicom"))):
            pass
    return cpu_seconds() - before


def step(folder: Path, threads: int) -> float:
    """Convert the shard through its step. Return CPU seconds of all processes."""
    before = cpu_seconds()
    with tempfile.TemporaryDirectory() as out:
        run_step(folder, Path(out), threads)
    return cpu_seconds() - before


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def converted(folder: Path) -> float:
    """Convert every file as the step does, without writing a store. Return CPU seconds."""
    from mammo_sae.dicom.canonical import canonical_image
    from mammo_sae.dicom.pixels import read_pixels
    from mammo_sae.dicom.settings import ClinicalSettings

    settings = ClinicalSettings(height=HEIGHT, width=WIDTH)
    before = time.process_time()
    for path in sorted(folder.rglob("*.dicom")):
        canonical_image(*read_pixels(path), settings)
    return time.process_time() - before


def run_step(folder: Path, out: Path, threads: int, kind: str = "vindr") -> None:
    from mammo_sae.dicom.settings import ClinicalSettings
    from mammo_sae.images import convert
    from mammo_sae.images.settings import ConversionSettings

    settings = ConversionSettings(
        kind=kind,
        images=ClinicalSettings(height=HEIGHT, width=WIDTH),
    )
    convert.run(settings, [folder], 0, out / "0.zarr", out / "0.json", threads=threads)


def shard_memory(folder: Path, out: Path) -> float:
    """Convert the shard in this process alone. Return its peak memory in MB."""
    run_step(folder, out, 1, kind="phantom")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_folder(folder, 8 * given.images, IN_STEP)
        turns = [(bare_pool(folder, given.threads), step(folder, given.threads)) for _ in range(2)]
        first, second = map(min, zip(*turns, strict=True))
        print(
            f"the step, {given.threads} threads, {8 * given.images} files of {IN_STEP}:"
            f"  bare {first:5.1f} s  step {second:5.1f} s  ratio {first / second:4.2f}"
        )


if __name__ == "__main__":
    main()
