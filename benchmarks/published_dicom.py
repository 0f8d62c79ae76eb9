"""Compare our DICOM reader with DCMTK and GDCM: stored values and displayed images.

    python benchmarks/published_dicom.py [--peers DIR]

It needs DCMTK's programs on the PATH (Debian's package `dcmtk`); `--peers` is not used. The script
writes small mammograms: those of the phantom, and pictures with every kind of VOI and modality
transformation. DCMTK (`dcmconv`, `dcmcrle`, `dcmcjpeg`, `dcmcjpls`) and GDCM write each file again
in other transfer syntaxes. Pixels, header and canonical images must stay the same. GDCM reads each
file's stored values. DCMTK's `dcm2pnm` displays each picture with each of its windows and tables in
16 bits, and the uncompressed files of the pydicom wheels with their first window. Our results must
equal theirs.

The script ends with status 1 if stored values or canonical images differ. It also ends with status
1 if a display value differs by more than one of 65535 in a window, or by more than one step of n
bits in a table or a nominal range of n bits, which DCMTK extends to 16 bits by appending zeros.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

ROWS, COLUMNS = 64, 48
CENTERS, WIDTHS = [1900, 900.5, 2500], [1500, 1200.25, 3000]

DCMTK = {
    "implicit VR": ("dcmconv", "+ti"),
    "big endian": ("dcmconv", "+tb"),
    "deflated": ("dcmconv", "+td"),
    "sequences of explicit length": ("dcmconv", "+e"),
    "sequences of undefined length": ("dcmconv", "-e"),
    "group lengths, trailing padding": ("dcmconv", "+g=", "+p", "512", "64"),
    "RLE": ("dcmcrle",),
    "JPEG lossless, first order": ("dcmcjpeg", "+e1"),
    "JPEG lossless": ("dcmcjpeg", "+el"),
    "JPEG-LS lossless": ("dcmcjpls", "+el"),
    "JPEG-LS lossless, fragments of 1 KiB": ("dcmcjpls", "+el", "+fs", "1"),
}
"""Programs that rewrite a file, and their options."""

GDCM = ("JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless")
GDCM += ("ImplicitVRLittleEndian", "DeflatedExplicitVRLittleEndian", "ExplicitVRBigEndian")


def main() -> int:
    """Write files, rewrite and display them with DCMTK and GDCM. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=Path(".venv-bench"))
    parser.parse_args()
    missing = {program for program, *_ in DCMTK.values() if shutil.which(program) is None}
    if missing or shutil.which("dcm2pnm") is None:
        print("DCMTK is not installed (Debian's package dcmtk)", file=sys.stderr)
        return 1
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = list(written(folder))
        for label, arguments in DCMTK.items():
            failures += compare_rewritten(
                f"DCMTK, {label}", files, lambda a, b, c=arguments: run(*c, str(a), str(b))
            )
        for syntax in GDCM:
            failures += compare_rewritten(
                f"GDCM, {syntax}", files, lambda a, b, s=syntax: gdcm_again(a, b, s)
            )
        failures += compare_stored(files)
        failures += compare_shown(files)
        failures += compare_public()
    return int(failures > 0)


def run(*command: str) -> bytes:
    """Run a program and return what it prints."""
    return subprocess.run(command, check=True, capture_output=True).stdout


# Files.


def written(folder: Path) -> Iterator[Path]:
    """Write the phantom's images of both manufacturers and every picture; yield their paths."""
    from mammo_sae.phantom import archive
    from mammo_sae.phantom.settings import PatientCounts, PhantomSettings

    patients = PatientCounts(training=1, test=6, external=1)
    settings = PhantomSettings(height=ROWS, width=COLUMNS, breasts="both", patients=patients)
    archive.run(settings.part("test"), folder / "phantom", folder / "phantom.json")
    yield from sorted((folder / "phantom").rglob("*.dicom"))
    for number, (bits, signed, photometric, elements) in enumerate(pictures()):
        path = folder / f"{number:03d}.dcm"
        picture(bits, signed, photometric, elements).save_as(path, enforce_file_format=True)
        yield path


def pictures() -> Iterator[tuple[int, bool, str, dict]]:
    """Yield bits, sign, photometric interpretation and the elements of the display."""
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        for bits, signed in ((8, False), (10, False), (12, False), (12, True), (14, False)):
            scale = 2.0 ** (bits - 12)
            centers = [round(scale * c, 2) for c in CENTERS]
            widths = [round(scale * w, 2) for w in WIDTHS]
            window = {"WindowCenter": centers, "WindowWidth": widths}
            rescaling = {"RescaleSlope": 1, "RescaleIntercept": (1 << bits - 1) if signed else 0}
            for elements in (
                {},
                window,
                {**window, "VOILUTFunction": "SIGMOID"},
                {"VOILUTSequence": [curve(bits, 8), curve(bits, 12), curve(bits, 16)]},
                {**window, "RescaleSlope": 2, "RescaleIntercept": -rescaling["RescaleIntercept"]},
                {**window, "ModalityLUTSequence": [curve(bits, bits, signed=signed)]},
            ):
                yield bits, signed, photometric, {**rescaling, **elements}


def curve(bits: int, output: int, *, signed: bool = False) -> Dataset:
    """Return a table from values of `bits` to values of `output` bits, bent upwards."""
    item = Dataset()
    entries = 1 << bits
    first = -(entries // 2) if signed else 0
    item.add_new("LUTDescriptor", "SS" if signed else "US", [entries, first, output])
    top = (1 << output) - 1
    values = np.rint((np.arange(entries) / (entries - 1)) ** 1.5 * top).astype("<u2")
    item.add_new("LUTData", "OW", values.tobytes())
    return item


def picture(bits: int, signed: bool, photometric: str, elements: dict) -> Dataset:
    """Return a bright half-ellipse that uses all values of `bits`."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    depth = 1 - ((x + 0.5) / 36) ** 2 - ((y + 0.5 - ROWS / 2) / 26) ** 2
    noise = np.random.default_rng(bits).uniform(0, 0.1, depth.shape)
    display = np.where(depth > 0, np.clip(0.2 + 0.7 * depth + noise, 0, 1), 0)
    display[ROWS // 2, 2] = 1
    if photometric == "MONOCHROME1":
        display = 1 - display
    stored = np.rint(display * ((1 << bits) - 1)).astype(int) - ((1 << bits - 1) if signed else 0)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "2.25.11"
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, "2.25.11"
    data.StudyInstanceUID, data.SeriesInstanceUID = "2.25.12", "2.25.13"
    data.Modality, data.ImageLaterality, data.ViewPosition = "MG", "L", "CC"
    data.PatientName, data.PatientID = "A^B", "1"
    data.Rows, data.Columns, data.SamplesPerPixel = ROWS, COLUMNS, 1
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = 8 if bits == 8 else 16
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, int(signed)
    data.ImagerPixelSpacing = [0.1, 0.1]
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    kind = "u1" if bits == 8 else f"<{'i' if signed else 'u'}2"
    data.PixelData = stored.astype(kind).tobytes()
    data["PixelData"].VR = "OB" if bits == 8 else "OW"
    return data


# The same image in another transfer syntax.


def gdcm_again(path: Path, target: Path, syntax: str) -> None:
    """Rewrite a file in another transfer syntax with GDCM."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise RuntimeError("GDCM can't read the file")
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise RuntimeError("GDCM can't write the syntax")
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    if not writer.Write():
        raise RuntimeError("GDCM can't write the file")


def seen(path: Path) -> tuple:
    """Return all that we read from a file: stored values, their description, canonical images."""
    from mammo_sae.dicom.canonical import canonical_image
    from mammo_sae.dicom.pixels import display_values, read_pixels, signed_values
    from mammo_sae.dicom.settings import ClinicalSettings, MammoClipSettings

    header, read = read_pixels(path)
    size = {"height": ROWS, "width": COLUMNS}
    images = [canonical_image(header, read, kind(**size)) for kind in (ClinicalSettings,)]
    images.append(canonical_image(header, read, MammoClipSettings(**size)))
    values = signed_values(header)[read], display_values(header)[read]
    facts = (header.acquisition, header.windows, header.padding, header.spacing_mm, header.notices)
    return [*values, *(image.pixels for image in images)], facts


def compare_rewritten(label: str, files: list[Path], again: Callable[[Path, Path], object]) -> int:
    """Print and return the number of files that changed when a program rewrote them."""
    differing, refused = 0, 0
    for path in files:
        plain = path.with_suffix(".plain")
        if not plain.exists():
            decompressed(path, plain)
        target = path.with_suffix(".again")
        try:
            again(plain, target)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            refused += 1
            print(f"  {path.name}: {getattr(error, 'stderr', error)!r:.200}")
            continue
        before, after = seen(path), seen(target)
        same = all(map(np.array_equal, before[0], after[0])) and str(before[1]) == str(after[1])
        differing += not same
        if not same:
            print(f"  {path.name} ({dcmread(target).file_meta.TransferSyntaxUID.name}) differs")
    done = len(files) - refused
    print(f"{label:45s} {done:3d} files, {differing} differ, {refused} not written")
    return differing + refused


def decompressed(path: Path, target: Path) -> None:
    """Write a file in explicit VR little endian, without compression."""
    data = dcmread(path)
    if data.file_meta.TransferSyntaxUID.is_compressed:
        data.decompress(generate_instance_uid=False)
    data.save_as(target, enforce_file_format=True)


# Values.


def compare_stored(files: list[Path]) -> int:
    """Print and return the number of files in which GDCM's stored values differ from ours."""
    import gdcm

    from mammo_sae.dicom.pixels import read_pixels, signed_values

    differing = 0
    for path in files:
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        reader.Read()
        image = reader.GetImage()
        kind = {
            gdcm.PixelFormat.UINT8: "u1",
            gdcm.PixelFormat.UINT16: "<u2",
            gdcm.PixelFormat.INT16: "<i2",
        }[image.GetPixelFormat().GetScalarType()]
        content = image.GetBuffer().encode("utf-8", errors="surrogateescape")
        header, read = read_pixels(path)
        theirs = np.frombuffer(content, kind).reshape(read.shape)
        differing += not np.array_equal(theirs, signed_values(header)[read])
    print(f"{'GDCM, stored values':45s} {len(files):3d} files, {differing} differ")
    return differing


def compare_shown(files: list[Path]) -> int:
    """Print and return the number of pictures that DCMTK displays differently, by kind of VOI."""
    from mammo_sae.dicom.pixels import display_values, read_pixels

    worst: dict[str, list[tuple[float, bool]]] = {}
    for path in files:
        header, read = read_pixels(path)
        # Without a window, DCMTK extends n bits to 16 by appending zeros.
        step = 65536 / (1 << header.bits_stored)
        if header.voi_luts:
            ways = [
                ("table", ["+Wl", str(i + 1)], {"voi_index": i}, 65536 / (1 << table.bits))
                for i, table in enumerate(header.voi_luts)
            ]
        else:
            ways = [
                (header.voi_function, ["+Wi", str(i + 1)], {"voi_index": i}, 1.0)
                for i in range(len(header.windows))
            ]
        ways.append(("nominal range", ["-W"], {"voi": "none"}, step))
        for name, options, ours, allowed in ways:
            shown = display_values(header, **ours)[read] * 65535
            plain = str(path.with_suffix(".plain"))
            theirs = pnm(run("dcm2pnm", "-O", "+opw", *options, plain))
            off = float(np.abs(shown - theirs).max())
            worst.setdefault(name, []).append((off / allowed, off > allowed + 0.01))
            if off > allowed + 0.01:
                print(f"  {path.name}: {name} {options}, off by {off:.1f} of 65535")
    for name, found in sorted(worst.items()):
        largest = max(off for off, _ in found)
        print(f"DCMTK shows, {name:32s} {len(found):3d} pictures, off by {largest:.2f} steps")
    return sum(is_off for found in worst.values() for _, is_off in found)


def compare_public() -> int:
    """Print and return the number of pydicom's files that DCMTK displays differently.

    The first window is used. Only uncompressed files without padding are compared, because DCMTK
    displays padding. DCMTK rounds fractions that result from rescaling.
    """
    from mammo_sae.dicom.pixels import display_values, read_pixels
    from mammo_sae.dicom.refusal import Refusal

    differing, found = 0, 0
    for path in public_files():
        try:
            header, read = read_pixels(path)
        except Refusal:
            continue
        compressed = getattr(uid, header.syntax).is_compressed
        if compressed or not header.windows or header.padding or header.voi_luts:
            continue
        theirs = pnm(run("dcm2pnm", "-O", "+opw", "+Wi", "1", str(path)))
        whole = float(header.slope).is_integer() and float(header.intercept).is_integer()
        allowed = 1.01 if whole else 1.01 + 65535 / header.windows[0].width
        off = np.abs(display_values(header)[read] * 65535 - theirs).max()
        differing += off > allowed
        found += 1
        if off > allowed:
            print(f"  {path.name}: off by {off:.1f} of 65535")
    print(f"{'DCMTK shows, public files':45s} {found:3d} files, {differing} differ")
    return differing


def public_files() -> Iterator[Path]:
    """Yield the files in the wheels of pydicom and pydicom-data that may be DICOM."""
    import data_store
    import pydicom

    for folder in (Path(pydicom.__file__).parent, Path(data_store.__file__).parent):
        for path in sorted((folder / "data").rglob("*")):
            if path.is_file() and path.suffix in {"", ".dcm"}:
                yield path


def pnm(content: bytes) -> np.ndarray:
    """Return the grey levels of a PGM file in ASCII, [rows, columns]."""
    lines = (line.split(b"#")[0] for line in content.splitlines())
    words = b" ".join(lines).split()
    assert words[0] == b"P2"
    assert words[3] == b"65535"
    return np.array(words[4:], float).reshape(int(words[2]), int(words[1]))


if __name__ == "__main__":
    sys.exit(main())
