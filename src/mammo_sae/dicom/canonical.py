"""The preprocessings that turn a file's pixels into the canonical image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from mammo_sae.dicom.breast import breast_mask, is_on_the_right
from mammo_sae.dicom.geometry import Geometry
from mammo_sae.dicom.header import Header
from mammo_sae.dicom.padding import with_believed_padding
from mammo_sae.dicom.pixels import display_values, signed_values
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.settings import (
    AsIsSettings,
    ClinicalSettings,
    ImagesSettings,
    MammoClipSettings,
)

NEARLY_ALL = 0.99  # share of an image
THUMBNAIL = 192  # pixels of the longer side of the reduced image that decides on the flip
MAMMO_CLIP_BORDER = 5  # pixels
MAMMO_CLIP_BACKGROUND = 40  # grey level, on a scale from 0 to 255


@dataclass(frozen=True)
class Canonical:
    """A canonical image: pixels uint8 [H, W], breast bool [H, W], and its geometry.

    `resized` is True if the preprocessing `as_is` had to resize the image. `notices` are
    peculiarities of the file with which it can still be converted.
    """

    pixels: np.ndarray
    breast: np.ndarray
    geometry: Geometry
    resized: bool = False
    notices: frozenset[Reason] = frozenset()

    @property
    def lies_on_the_right(self) -> bool:
        """Return whether the breast lies on the right of the original image."""
        geometry = self.geometry
        # Leave out the padding, which is always on the right.
        width = round(geometry.offset_x + geometry.scale_x * (geometry.crop[2] - geometry.crop[0]))
        return geometry.flipped != is_on_the_right(self.breast[:, :width])


def canonical_image(header: Header, stored: np.ndarray, settings: ImagesSettings) -> Canonical:
    """Preprocess one image.

    Parameters
    ----------
    header, stored
        As `mammo_sae.dicom.files.read_image` returns them.
    settings
        The preprocessing and its parameters.

    Raises
    ------
    Refusal
        If the image has no content, or the settings do not fit its header.
    """
    padding: frozenset[Reason] = frozenset()
    if isinstance(settings, MammoClipSettings):
        pixels, geometry = _mammo_clip(header, stored, settings.height, settings.width)
    else:
        shown, padding = _shown(header, stored, settings)
        if isinstance(settings, ClinicalSettings):
            pixels, geometry = _clinical(shown, stored, settings)
        else:
            pixels, geometry = _as_is(shown, stored, settings)
    resized = isinstance(settings, AsIsSettings) and stored.shape != pixels.shape
    notices = _notices(header, pixels, settings) | padding
    canonical = Canonical(pixels, breast_mask(pixels), geometry, resized, notices)
    if not _lies_as_said(header, canonical):
        canonical = replace(canonical, notices=notices | {Reason.ORIENTATION})
    return canonical


def _shown(
    header: Header, stored: np.ndarray, settings: ClinicalSettings | AsIsSettings
) -> tuple[np.ndarray, frozenset[Reason]]:
    """Return the display value of every stored value, and notices about the padding."""
    voi, voi_index = "none", 0
    if isinstance(settings, ClinicalSettings):
        voi, voi_index = settings.voi, settings.voi_index
    unpadded = display_values(replace(header, padding=None), voi=voi, voi_index=voi_index)
    if header.padding is None:
        return unpadded, frozenset()
    header, found = with_believed_padding(header, stored, unpadded)
    return display_values(header, voi=voi, voi_index=voi_index), found


def _lies_as_said(header: Header, canonical: Canonical) -> bool:
    """Return whether the breast lies on the side that PatientOrientation implies."""
    along = header.acquisition.orientation[0] if header.acquisition.orientation else ""
    if ("A" in along) == ("P" in along) or not canonical.breast.any():
        return True
    return canonical.lies_on_the_right == ("P" in along)


def _notices(header: Header, pixels: np.ndarray, settings: ImagesSettings) -> frozenset[Reason]:
    """Return notices about the range in which the image was displayed."""
    windowed = isinstance(settings, ClinicalSettings) and settings.voi == "header"
    windowed = windowed and bool(header.voi_luts or header.windows)
    found = set()
    if windowed and np.isin(pixels, (0, 255)).mean() > NEARLY_ALL:
        found.add(Reason.BESIDE_WINDOW)
    stretched = isinstance(settings, MammoClipSettings)
    if header.shown and not (windowed or stretched or header.modality_lut):
        found.add(Reason.BITS_UNUSED)
    return frozenset(found)


def _clinical(
    shown: np.ndarray, stored: np.ndarray, settings: ClinicalSettings
) -> tuple[np.ndarray, Geometry]:
    step = max(1, max(stored.shape) // THUMBNAIL)
    thumbnail = shown[stored[::step, ::step]]
    if thumbnail.min() == thumbnail.max():
        _check_content(shown, stored)
    flipped = is_on_the_right(breast_mask(np.rint(thumbnail * 255).astype(np.uint8)))
    geometry = _whole_image(stored, settings.height, settings.width, flipped=flipped)
    return _resampled(geometry, stored, shown), geometry


def _as_is(
    shown: np.ndarray, stored: np.ndarray, settings: AsIsSettings
) -> tuple[np.ndarray, Geometry]:
    _check_content(shown, stored)
    geometry = _whole_image(stored, settings.height, settings.width, flipped=False)
    return _resampled(geometry, stored, shown), geometry


def _check_content(shown: np.ndarray, stored: np.ndarray) -> None:
    if np.ptp(shown[stored]) == 0:
        raise Refusal(Reason.BLANK)


def _whole_image(stored: np.ndarray, height: int, width: int, *, flipped: bool) -> Geometry:
    """Return the geometry that shows the whole image as large as possible, at mid-height, left."""
    rows, columns = stored.shape
    scale = min(height / rows, width / columns)
    return Geometry(
        crop=(0, 0, columns, rows),
        flipped=flipped,
        scale_x=scale,
        scale_y=scale,
        offset_x=0.0,
        offset_y=float(int((height - rows * scale) / 2)),
        height=height,
        width=width,
    )


def _resampled(geometry: Geometry, stored: np.ndarray, shown: np.ndarray) -> np.ndarray:
    resized = geometry.resample(stored, shown)
    resized *= 255
    return np.rint(resized, out=resized).astype(np.uint8)


def _mammo_clip(
    header: Header, stored: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, Geometry]:
    """Preprocess as Mammo-CLIP (Ghosh et al., MICCAI 2024) did for its published weights.

    Every step follows the published code in float32, so that the pixels are the same; see
    `docs/cohorts.md`. The resize differs from OpenCV's by at most one grey level.
    """
    header.need("RescaleSlope", "RescaleIntercept")
    border = MAMMO_CLIP_BORDER
    inner = stored[border:-border, border:-border]
    if inner.size == 0:
        raise Refusal(Reason.SIZE)
    # Rescaling is monotonic, so the extremes of stored values give the extremes of rescaled ones.
    sign = inner.dtype.type(1 << (header.bits_stored - 1) if header.signed else 0)
    values = (signed_values(header) * header.slope + header.intercept).astype(np.float32)
    ends = values[[(inner ^ sign).min() ^ sign, (inner ^ sign).max() ^ sign]]
    values = ends.max() - values if header.photometric == "MONOCHROME1" else values - ends.min()
    largest = ends.max() - ends.min()
    if largest == 0:
        raise Refusal(Reason.BLANK)
    grey = np.clip(values / largest * np.float32(255), 0, 255).astype(np.uint8)
    image = grey[inner]

    left, right, top, bottom = _mammo_clip_breast(image)
    geometry = Geometry(
        crop=(left + border, top + border, right + border, bottom + border),
        flipped=False,
        scale_x=width / (right - left),
        scale_y=height / (bottom - top),
        offset_x=0.0,
        offset_y=0.0,
        height=height,
        width=width,
    )
    return _resize_like_opencv(image[top:bottom, left:right], height, width), geometry


def published_boxes(boxes: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the boxes [m, 4] that Mammo-CLIP's published script makes of `boxes` [n, 4].

    Both are in pixels of the original image. After cropping the border, the script limits x by the
    number of rows and y by the number of columns. In an upright image this truncates boxes near the
    lower edge. Boxes whose minimum then exceeds their maximum are left out here.
    """
    inner_rows, inner_columns = rows - 2 * MAMMO_CLIP_BORDER, columns - 2 * MAMMO_CLIP_BORDER
    inside = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) - MAMMO_CLIP_BORDER
    low = np.maximum(inside[:, :2], 0)
    high = np.minimum(inside[:, 2:], [inner_rows, inner_columns])
    kept = (low < high).all(axis=1)
    return np.hstack([low, high])[kept] + MAMMO_CLIP_BORDER


def _mammo_clip_breast(image: np.ndarray) -> tuple[int, int, int, int]:
    """Return (left, right, top, bottom) of Mammo-CLIP's breast crop of a uint8 image."""
    cleared = np.where(image <= MAMMO_CLIP_BACKGROUND, 0, image)
    left, right = _longest_run(_varies(_central(cleared), axis=0))
    part = cleared[:, left:right]
    top, bottom = _longest_run(_varies(_central(part.T), axis=0))
    return left, right, top, bottom


def _central(image: np.ndarray) -> np.ndarray:
    """Return the central 80 % of the rows, rounded as Mammo-CLIP does."""
    height = image.shape[0]
    return image[height // 2 - int(height * 0.4) : height // 2 + int(height * 0.4)]


def _varies(image: np.ndarray, axis: int) -> np.ndarray:
    if image.shape[axis] == 0:
        raise Refusal(Reason.SIZE)
    return image.max(axis=axis) != image.min(axis=axis)


def _longest_run(flags: np.ndarray) -> tuple[int, int]:
    """Return [start, stop) of the longest run of True, the first one among equals."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    starts, stops = edges[::2], edges[1::2]
    if len(starts) == 0:
        raise Refusal(Reason.BLANK)
    # Mammo-CLIP's code counts a run that touches an end of the image as one pixel shorter.
    lengths = stops - starts - (starts == 0) - (stops == len(flags))
    best = int(lengths.argmax())
    return int(starts[best]), int(stops[best])


def _resize_like_opencv(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 as `cv2.resize(..., INTER_AREA)` does.

    OpenCV averages over areas only if neither axis grows. Otherwise it interpolates linearly
    between neighbours, chosen so that an integer factor repeats pixels (`resize` in its
    modules/imgproc/src/resize.cpp).
    """
    rows, columns = image.shape
    if rows >= height and columns >= width:
        geometry = Geometry(
            (0, 0, columns, rows), False, width / columns, height / rows, 0.0, 0.0, height, width
        )
        resized = geometry.resample(image, np.arange(256, dtype=np.float32))
    else:
        vertical, horizontal = _linear_weights(rows, height), _linear_weights(columns, width)
        resized = (horizontal @ (vertical @ image.astype(np.float32)).T).T
    return np.rint(np.clip(resized, 0, 255)).astype(np.uint8)


def _linear_weights(source: int, target: int) -> sparse.csr_array:
    """Return OpenCV's two-tap weights [target, source] of INTER_AREA for an axis that grows."""
    # Use OpenCV's operations and precision. Where a source pixel's edge coincides with a target
    # pixel's edge, different rounding would choose the wrong neighbour.
    growth = target / source
    scale = 1 / growth
    to = np.arange(target)
    first = np.floor(to * scale).astype(np.int64)
    share = ((to + 1) - (first + 1) * growth).astype(np.float32)
    share = np.where(share <= 0, np.float32(0), share - np.floor(share))
    first = np.minimum(first, source - 1)
    second = np.minimum(first + 1, source - 1)
    return sparse.csr_array(
        (
            np.concatenate([1 - share, share]).astype(np.float32),
            (np.concatenate([to, to]), np.concatenate([first, second])),
        ),
        shape=(target, source),
    )
