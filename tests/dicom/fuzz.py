"""Fuzz the DICOM reader: files with damaged headers or streams must convert or be refused.

    python tests/dicom/fuzz.py --count 20000

Seeds are small mammograms in every transfer syntax, and small grey files of the pydicom wheel. Each
file is damaged in one to five random ways: changed bytes, another length, elements that are
removed, have another VR or have meaningless values. The number of the file is the random seed, so
`--first NUMBER --count 1` repeats a failure. Files are read in child processes with limited memory
and a time limit per file. An error that is not a refusal, or a hang, is a failure: it is printed,
and the exit status is 1. If a decoder crashes its process, the file is read again in the same way
as in the `images` step, which must refuse it. These files are counted as `died, refused`.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from mammo_sae.cohorts.facts import read_facts
from mammo_sae.dicom.canonical import canonical_image
from mammo_sae.dicom.pixels import read_pixels
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.settings import ClinicalSettings, MammoClipSettings, TriageSettings
from mammo_sae.dicom.triage import Expected, judge_header, judge_image
from mammo_sae.images.convert import isolated

ROWS, COLUMNS = 60, 40
SECONDS = 10  # of processor time per file, before it counts as a hang
MEMORY = 3 << 30  # bytes of address space of a child, libraries included
CHUNK = 500  # files read by one child
PREPROCESSINGS = (ClinicalSettings(height=48, width=32), MammoClipSettings(height=48, width=32))

# Streams that pydicom's plugins do not write, made once with imagecodecs from `picture`; a file's
# name is its transfer syntax and bits.
STREAMS = Path(__file__).with_name("streams")
ENCODED = {
    uid.RLELossless: "pydicom",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
}
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
VALUES = {
    "Rows": (0, 1, 61, 65535),
    "Columns": (0, 1, 41, 65535),
    "BitsAllocated": (0, 1, 8, 16, 32, 64),
    "BitsStored": (0, 1, 8, 13, 16, 17),
    "HighBit": (0, 7, 15, 16),
    "PixelRepresentation": (0, 1, 2),
    "SamplesPerPixel": (0, 1, 3),
    "NumberOfFrames": ("0", "1", "2", "99999999999", "-1"),
    "PhotometricInterpretation": ("MONOCHROME1", "RGB", "YBR_FULL", "", "PALETTE COLOR"),
    "RescaleSlope": ("0", "-1", "1e300", "1e-300", "nan"),
    "RescaleIntercept": ("-1e300", "99999999", "nan", "inf"),
    "WindowCenter": ("0", "1e300", "nan", "-5", ["1", "2"]),
    "WindowWidth": ("0", "-1", "1e-300", "inf", ["1", "2"]),
    "VOILUTFunction": ("SIGMOID", "LINEAR_EXACT", "LINEAR", "CUBIC"),
    "PixelPaddingValue": (0, 65535, 4095),
    "PixelPaddingRangeLimit": (0, 65535),
    "PresentationLUTShape": ("INVERSE", "IDENTITY", "ODD"),
    "PixelSpacing": (["0", "0"], ["1e300", "1e-300"], ["-1", "1"], ["1"]),
    "ImagerPixelSpacing": (["0", "0"], ["nan", "nan"], ["1", "1", "1"]),
    "EstimatedRadiographicMagnificationFactor": ("0", "-2", "1e308"),
    "PatientAge": ("999Y", "-01Y", "abc", "1" * 300),
    "PixelData": (b"", b"\0", b"\0\1" * 7000),
}
WARN = TriageSettings(
    **dict.fromkeys((r.code for r in Reason if r.code in TriageSettings.model_fields), "warn")
)
REPRESENTATIONS = (
    "AE",
    "AS",
    "CS",
    "DS",
    "FD",
    "IS",
    "LO",
    "OB",
    "PN",
    "SQ",
    "SS",
    "UN",
    "US",
    "ZZ",
)
LARGEST = 60_000  # bytes of a seed
SYNTAXES = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000,
    uid.HTJ2K,
    uid.RLELossless,
    uid.MPEG2MPML,
)


def picture(bits: int) -> np.ndarray:
    """Return stored values of a bright half-ellipse with noise, [ROWS, COLUMNS]."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    inside = ((x + 0.5) / 28) ** 2 + ((y + 0.5 - ROWS / 2) / 24) ** 2 < 1
    noise = np.random.default_rng(7).integers(0, 1 << (bits - 3), (ROWS, COLUMNS))
    shown = inside * ((1 << (bits - 1)) + noise)
    return shown.astype("u1" if bits == 8 else "<u2")


def dicom(syntax: str, bits: int, stored: bytes) -> Dataset:
    """Return a mammogram whose header has every element that the reader reads."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "2.25.11"
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset(
        None,
        {},
        file_meta=meta,
        preamble=b"\0" * 128,
        is_implicit_VR=uid.UID(syntax).is_implicit_VR,
        is_little_endian=uid.UID(syntax).is_little_endian,
    )
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, "2.25.11"
    dataset.Modality, dataset.PhotometricInterpretation = "MG", "MONOCHROME2"
    dataset.Manufacturer, dataset.PatientAge = "ACME", "061Y"
    dataset.ImageLaterality, dataset.ViewPosition = "L", "CC"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = ROWS, COLUMNS, 1
    dataset.BitsAllocated = 8 if bits == 8 else 16
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0
    dataset.ImagerPixelSpacing = ["0.1", "0.1"]
    dataset.WindowCenter, dataset.WindowWidth = [f"{1 << (bits - 1)}"] * 2, [f"{1 << bits}"] * 2
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
    view = code("399162004")
    view.ViewModifierCodeSequence = [Dataset()]
    dataset.ViewCodeSequence = [view]
    dataset.PixelData = stored
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    return dataset


def code(value: str) -> Dataset:
    """Return a code of SNOMED CT."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "x"
    return item


@lru_cache(maxsize=1)
def corpus() -> list[bytes]:
    """Return the seeds: one file per transfer syntax, and three more with lookup tables."""
    found = []
    for bits in (8, 12):
        stored = picture(bits)
        for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian):
            found.append(dicom(syntax, bits, stored.tobytes()))
        found.append(dicom(uid.DeflatedExplicitVRLittleEndian, bits, stored.tobytes()))
        big = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
        found.append(dicom(uid.ExplicitVRBigEndian, bits, big))
        for syntax, plugin in ENCODED.items():
            dataset = dicom(uid.ExplicitVRLittleEndian, bits, stored.tobytes())
            dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
            found.append(dataset)
    for name in ("VOILUTSequence", "ModalityLUTSequence"):
        dataset = dicom(uid.ExplicitVRLittleEndian, 12, picture(12).tobytes())
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [256, 0, 12])
        item.add_new("LUTData", "OW", np.arange(0, 4096, 16, dtype="<u2").tobytes())
        setattr(dataset, name, [item])
        found.append(dataset)
    for path in sorted(STREAMS.glob("*.bin")):
        syntax, bits = path.stem.split("-")
        dataset = dicom(uid.ExplicitVRLittleEndian, int(bits), b"")
        dataset.PixelData = pydicom.encaps.encapsulate([path.read_bytes()])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
        found.append(dataset)
    wheel = Path(pydicom.__file__).parent / "data" / "test_files"
    paths = [path for path in sorted(wheel.glob("*.dcm")) if path.stat().st_size < LARGEST]
    grey = (content for path in paths if b"MONOCHROME" in (content := path.read_bytes()))
    return [*(written(dataset) for dataset in found), *grey]


def written(dataset: Dataset) -> bytes:
    """Return a file's bytes; elements that are bytes stay as they are."""
    syntax = dataset.file_meta.TransferSyntaxUID
    encoding = syntax.is_implicit_VR, syntax.is_little_endian
    # The writer parses bytes that it takes for another encoding, and there may be no value.
    dataset.set_original_encoding(*encoding, dataset._character_set)
    out = BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def mutated(seed: bytes, random: np.random.Generator) -> bytes:
    """Return `seed` damaged: values of its header, then its bytes."""
    draw = random.random()
    if draw < 0.35:
        seed = with_other_values(seed, random)
    elif draw < 0.6:
        seed = with_other_elements(seed, random)
    content = bytearray(seed)
    # Half of those keep their bytes, so that they are read to the end.
    least = int(draw >= 0.6 or random.random() < 0.5)
    for _ in range(int(random.integers(least, 3 * least + 1))):
        damage(content, random)
    return bytes(content)


def with_other_elements(seed: bytes, random: np.random.Generator) -> bytes:
    """Return a file without some of its elements, and with some of another VR."""
    try:
        dataset = pydicom.dcmread(BytesIO(seed))
        dataset.file_meta.TransferSyntaxUID  # noqa: B018  (it must exist to be written)
        tags = [tag for tag in dataset.keys() if tag != 0x7FE00010]  # noqa: SIM118
        for tag in random.choice(tags, min(len(tags), 4), replace=False):
            tag = pydicom.tag.Tag(int(tag))
            raw = dataset.get_item(tag)
            if random.random() < 0.5 or not isinstance(raw, RawDataElement):
                del dataset[tag]
            else:
                dataset[tag] = raw._replace(VR=str(random.choice(REPRESENTATIONS)))
        return written(dataset)
    except Exception:  # what can't be read or written is damaged enough
        return seed


def with_other_values(seed: bytes, random: np.random.Generator) -> bytes:
    """Return a well-formed file with extreme values, or with another transfer syntax's name."""
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    names = random.choice(list(VALUES), size=2, replace=False)
    chosen = [int(random.integers(len(VALUES[name]))) for name in names]
    try:
        dataset = pydicom.dcmread(BytesIO(seed))
        for name, choice in zip(names, chosen, strict=True):
            setattr(dataset, str(name), VALUES[name][choice])
        content = written(dataset)
        old = str(dataset.file_meta.TransferSyntaxUID)
    except Exception:  # what can't be written is not a file
        return seed
    if random.random() < 0.2:
        new = str(SYNTAXES[int(random.integers(len(SYNTAXES)))])
        if len(new) <= len(old):
            content = content.replace(old.encode(), new.ljust(len(old), "\0").encode(), 1)
    return content


def damage(content: bytearray, random: np.random.Generator) -> None:
    size = len(content)
    if size < 8:
        return
    # Half of the damage in the last bytes' part, where compressed pixels are.
    start = int(random.integers(132, size)) if size > 140 else 0
    if random.random() < 0.3 and size > 1000:
        start = int(random.integers(132, 1000))
    match int(random.integers(6)):
        case 0:
            content[start] ^= 1 << int(random.integers(8))
        case 1:
            content[start] = EXTREMES[int(random.integers(len(EXTREMES)))] & 0xFF
        case 2:
            value = EXTREMES[int(random.integers(len(EXTREMES)))]
            content[start : start + 2] = value.to_bytes(2, "little")
        case 3:
            del content[start : start + int(random.integers(1, 64))]
        case 4:
            content[start:start] = content[start : start + int(random.integers(1, 64))]
        case 5:
            if random.random() < 0.5:
                del content[start:]
            else:
                length = int(random.integers(1, 16))
                content[start : start + length] = random.bytes(length)


def outcome(path: Path) -> str:
    """Read and convert one file as the steps do: "converted" or the reason of its refusal."""
    read_facts([path], "fuzz")
    found = "converted"
    for settings in PREPROCESSINGS:
        try:
            header, read = read_pixels(path)
            judge_header(header, Expected("L", "CC"), WARN)
            canonical = canonical_image(header, read, settings)
            assert canonical.pixels.shape == (settings.height, settings.width)
            judge_image(canonical, Expected("L", "CC"), WARN)
            assert np.isfinite(canonical.geometry.affine).all()
        except Refusal as refusal:
            found = refusal.reason.code
    return found


def damaged(number: int, path: Path) -> str:
    """Read the damaged file with this number."""
    path.write_bytes(file_of(number, corpus()))
    return outcome(path)


Case = Callable[[int, Path], str]


def child(case: Case, first: int, count: int, progress: Path) -> None:
    """Run the cases `first` to `first + count` and write a line per case to `progress`."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder, progress.open("a") as lines:
        path = Path(folder) / "fuzz.dcm"
        for number in range(first, first + count):
            # The signal ends the process, in the middle of C code too.
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            try:
                found = case(number, path)
            except BaseException as error:
                found = f"FAILURE {type(error).__name__}: {str(error)[:600]}"
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            lines.write(json.dumps([number, found, peak]) + "\n")
            lines.flush()


def refused_where_it_dies(number: int) -> bool:
    """Return whether the step can read the file `number` without dying."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.dcm"
        path.write_bytes(file_of(number, corpus()))
        return list(isolated(outcome, [path], 1, lambda path: "lost", SECONDS)) == ["lost"]


def file_of(number: int, seeds: list[bytes]) -> bytes:
    """Return the damaged file with this number."""
    return mutated(seeds[number % len(seeds)], np.random.default_rng([20260, number]))


def drive(script: Path, first: int, count: int) -> dict:
    """Run all cases of a script in children. A child that dies is replaced after its last file.

    Only for damaged files a decoder may crash its process or take too long, and only if the step
    then refuses the file.
    """
    counts: collections.Counter = collections.Counter()
    failures: list[tuple[int, str]] = []
    peak = 0
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "progress"
        number, end = first, first + count
        while number < end:
            log.write_text("")
            here = min(CHUNK, end - number)
            done = subprocess.run(
                [sys.executable, str(script), "--child", str(number), str(here), str(log)],
                capture_output=True,
                check=False,
                env={**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"},
            )
            for line in log.read_text().splitlines():
                at, found, megabytes = json.loads(line)
                number, peak = at + 1, max(peak, megabytes)
                counts["FAILURE" if found.startswith("FAILURE") else found] += 1
                if found.startswith("FAILURE"):
                    failures.append((at, found))
            died = done.returncode in (-signal.SIGABRT, -signal.SIGVTALRM)
            damages = script == Path(__file__) and died
            if damages and refused_where_it_dies(number):
                counts["died, refused"] += 1
                number += 1
            elif done.returncode != 0:
                reason = f"process ended with {done.returncode}: {done.stderr[-200:]!r}"
                failures.append((number, reason))
                counts["FAILURE"] += 1
                number += 1
    return {"counts": dict(counts.most_common()), "failures": failures, "peak_mb": peak}


def main(script: Path, case: Case) -> int:
    """Run the cases of a script that the command line names. Print the counts and failures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(case, int(given.child[0]), int(given.child[1]), Path(given.child[2]))
        return 0
    report = drive(script, given.first, given.count)
    print(json.dumps(report, indent=1))
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__), damaged))
