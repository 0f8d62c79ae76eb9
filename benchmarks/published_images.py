"""Check that our pixels equal those of Mammo-CLIP's own preprocessing and of OpenCV.

    python benchmarks/published_images.py [--peers DIR]

`--peers` is an environment with mammoclip 0.1.8, dicomsdl and opencv-python. There OpenCV resizes
random images (INTER_AREA: both sides shrink, both grow, one of each; every width and height on the
way to 1520 x 912), and mammoclip's `preprocessing.preprocess_image_to_png_vindr` makes PNGs of 16
DICOM files of a phantom, large and small. Our code resizes and converts the same images, and reads
the PNGs with `as_is`. The script ends with status 1 if a pixel differs by more than one grey level.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

HEIGHT, WIDTH = 1520, 912
SIZES = (
    (2100, 1300),
    (1100, 720),
)  # sizes of the DICOM files' matrices, each for half of the files
FILES = 8  # number of images of each size
STUBS = (
    "IPython",
    "IPython.core",
    "IPython.core.display",
    "nvidia",
    "nvidia.dali",
    "nvidia.dali.types",
    "timm",
)


def main() -> int:
    """Make the same images with their code and with ours, and compare. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=Path(".venv-bench"))
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make(arguments.make)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_phantoms(folder)
        python = str(arguments.peers / "bin/python")
        subprocess.run([python, __file__, "--make", name], check=True, stdout=subprocess.DEVNULL)
        worst = [compare_resized(folder), compare_converted(folder)]
    return int(max(worst) > 1)


def shapes() -> list[tuple[int, int, int, int]]:
    """Return rows, columns and target rows, columns of the images to resize."""
    random = np.random.default_rng(0)
    found = [(3, width, 3, WIDTH) for width in range(300, 1300)]
    found += [(height, 3, HEIGHT, 3) for height in range(700, 2000)]
    found += [tuple(random.integers(1, 120, 4)) for _ in range(500)]
    found += [(*random.integers(200, 3600, 2), HEIGHT, WIDTH) for _ in range(40)]
    return [tuple(map(int, shape)) for shape in found]


def picture(number: int, rows: int, columns: int) -> np.ndarray:
    """Return the random image of this number: uint8 [rows, columns]."""
    random = np.random.default_rng(number)
    return random.integers(0, 256, (rows, columns), dtype=np.uint8)


def write_phantoms(folder: Path) -> None:
    """Write DICOM files in VinDr-Mammo's layout, one folder per size."""
    from mammo_sae.phantom import archive
    from mammo_sae.phantom.settings import PatientCounts, PhantomSettings

    for height, width in SIZES:
        patients = PatientCounts(training=1, test=FILES // 2, external=1)
        settings = PhantomSettings(height=height, width=width, patients=patients)
        part = folder / f"{height}x{width}"
        archive.run(settings.part("test"), part, folder / f"{part.name}.json")


def make(folder: Path) -> None:
    """Write the images that their code makes, in the environment of the other libraries."""
    import cv2

    resized = {}
    for number, (rows, columns, height, width) in enumerate(shapes()):
        image = picture(number, rows, columns)
        resized[str(number)] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    np.savez(folder / "resized.npz", **resized)
    # Their module imports packages that only its command line and its GPU code need.
    sys.modules.update({name: mock.MagicMock() for name in STUBS})
    from preprocessing.preprocess_image_to_png_vindr import save_imgs

    for path in dicom_files(folder):
        save_imgs(str(path), str(path.with_suffix(".png")), SIZE=(WIDTH, HEIGHT))


def dicom_files(folder: Path) -> list[Path]:
    """Return the phantoms' files."""
    return [
        path
        for height, width in SIZES
        for path in sorted((folder / f"{height}x{width}").rglob("*.dicom"))
    ]


def compare_resized(folder: Path) -> int:
    """Print and return the largest difference from OpenCV, by which axes shrink or grow."""
    from mammo_sae.dicom.canonical import _resize_like_opencv

    expected = np.load(folder / "resized.npz")
    worst: dict[str, list[int]] = {}
    for number, (rows, columns, height, width) in enumerate(shapes()):
        ours = _resize_like_opencv(picture(number, rows, columns), height, width)
        grows = (height > rows) + (width > columns)
        kind = {0: "no side grows", 1: "one side grows", 2: "both sides grow"}[grows]
        difference = np.abs(ours.astype(int) - expected[str(number)])
        worst.setdefault(kind, []).append(int(difference.max()))
    for kind, found in sorted(worst.items()):
        print(f"OpenCV, {kind:16s} {len(found):5d} sizes, largest difference {max(found)}")
    return max(max(found) for found in worst.values())


def compare_converted(folder: Path) -> int:
    """Print and return the largest difference from Mammo-CLIP's PNGs."""
    from mammo_sae.dicom.canonical import canonical_image
    from mammo_sae.dicom.files import read_image
    from mammo_sae.dicom.settings import AsIsSettings, MammoClipSettings

    converted, read, grown = [], [], 0
    for path in dicom_files(folder):
        canonical = canonical_image(*read_image(path), MammoClipSettings())
        header, png = read_image(path.with_suffix(".png"))
        as_is = canonical_image(header, png, AsIsSettings())
        converted.append(np.abs(canonical.pixels.astype(int) - as_is.pixels))
        read.append(np.abs(as_is.pixels.astype(int) - png))
        grown += max(canonical.geometry.scale_x, canonical.geometry.scale_y) > 1
    largest = max(int(difference.max()) for difference in converted)
    differing = np.mean([difference > 0 for difference in converted])
    print(
        f"Mammo-CLIP's PNGs of {len(converted)} DICOM files ({grown} enlarged): largest difference "
        f"{largest}, {differing:.2%} of the pixels differ"
    )
    print(f"the same PNGs read as they are: largest difference {max(d.max() for d in read)}")
    return max(largest, max(int(difference.max()) for difference in read))


if __name__ == "__main__":
    sys.exit(main())
