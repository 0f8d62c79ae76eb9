"""Random augmentation of training images: flips, affine maps and elastic deformations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

PROBABILITY = 0.5  # of each change, for each image
ROTATION = 20.0  # largest, degrees
TRANSLATION = 0.1  # largest, as a share of the edge
SCALE = (0.8, 1.2)
SHEAR = 20.0  # largest, degrees
ELASTIC_STRENGTH = 10.0  # pixels; multiplies the displacement field of blurred noise in [-1, 1]
ELASTIC_BLUR = 15.0  # standard deviation of the blur, pixels


def mammo_clip(pixels: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
    """Return uint8 images [n, H, W], changed as Mammo-CLIP's settings for classifiers describe.

    The changes are horizontal and vertical flips; one affine map of rotation, translation, scale
    and shear; and elastic deformation (Simard et al., ICDAR 2003). Each has probability one half.
    Pixels from outside the image are black. `generators` has a generator for each image.

    Source: https://github.com/batmanlab/Mammo-CLIP, Datasets/dataset_utils.py, `get_transforms`.
    Here the numbers of these settings are limits: angles and shifts are drawn between minus and
    plus the number. The library used there treats the numbers differently (see
    `published_mammo_clip`).
    """
    height, width = pixels.shape[1:]
    y, x = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2,
        torch.arange(width) - (width - 1) / 2,
        indexing="ij",
    )
    centred = torch.stack([x, y], dim=-1).to(pixels.device, torch.float32)
    grids = torch.stack([_source(centred, rng) for rng in generators])
    # From pixels relative to the centre to [-1, 1] between the centres of the outer pixels.
    grids = grids / torch.tensor([(width - 1) / 2, (height - 1) / 2], device=pixels.device)
    changed = functional.grid_sample(
        pixels[:, None].float(), grids, mode="bilinear", align_corners=True
    )
    return changed[:, 0].round().clamp(0, 255).to(torch.uint8)


def _source(centred: Tensor, rng: np.random.Generator) -> Tensor:
    """Return [H, W, (x, y)]: the position in the original image of each pixel of the changed image.

    Positions are relative to the image's centre, in pixels.
    """
    chosen = rng.random(4) < PROBABILITY
    flips = torch.tensor([-1.0 if flip else 1.0 for flip in chosen[:2]], device=centred.device)
    source = centred * flips
    if chosen[2]:
        matrix, shift = _affine(rng)
        height, width = centred.shape[:2]
        source = source @ torch.tensor(matrix.T, dtype=torch.float32, device=centred.device)
        source = source + torch.tensor(
            shift * [width, height], dtype=torch.float32, device=centred.device
        )
    if chosen[3]:
        source = source + _elastic(centred.shape[:2], rng).to(centred.device)
    return source


def _affine(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the matrix [2, 2] and the shift [2] (as shares of the edges) of an affine map."""
    angle, shear_x, shear_y = np.radians(
        rng.uniform([-ROTATION, -SHEAR, -SHEAR], [ROTATION, SHEAR, SHEAR])
    )
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shear = np.array([[1, math.tan(shear_x)], [math.tan(shear_y), 1]])
    return rotation @ shear / rng.uniform(*SCALE), rng.uniform(-TRANSLATION, TRANSLATION, 2)


def _elastic(shape: Sequence[int], rng: np.random.Generator) -> Tensor:
    """Draw a smooth displacement [H, W, (x, y)] in pixels."""
    noise = torch.from_numpy(rng.uniform(-1, 1, (2, 1, *shape)).astype(np.float32))
    radius = math.ceil(3 * ELASTIC_BLUR)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / ELASTIC_BLUR) ** 2)
    kernel = kernel / kernel.sum()
    noise = functional.conv2d(noise, kernel[None, None, :, None], padding=(radius, 0))
    noise = functional.conv2d(noise, kernel[None, None, None, :], padding=(0, radius))
    return ELASTIC_STRENGTH * noise[:, 0].permute(1, 2, 0)


# --- The published settings as albumentations 1.4.7 executes them --------------------------------

PUBLISHED_ANGLE = -20.0  # degrees; the library negates rotation and shear, and draws neither
CORNER_SHIFT = 50.0  # pixels; the library's elastic transform shifts three points by up to this


def published_mammo_clip(pixels: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
    """Return uint8 images [n, H, W], changed as Mammo-CLIP's published training did.

    The published call is ``Affine(rotate=20, translate_percent=0.1, scale=[0.8, 1.2], shear=20)``.
    albumentations takes a single number as a constant, not as a range. So every changed image is
    rotated by 20 degrees, sheared by 20 degrees along both axes, and shifted by a tenth of its
    edges, always in the same direction. Only the scale is random, and differs between the axes.

    ``ElasticTransform`` first shifts three points by up to 50 pixels each (``alpha_affine``), and
    the whole image with them. Pixels from outside are mirrored. Each change has probability one
    half, and the image is rounded to 8 bits after each change. `generators` has a generator for
    each image.

    Source: https://github.com/albumentations-team/albumentations, version 1.4.7,
    augmentations/geometric/transforms.py, `Affine`, `ElasticTransform`.
    """
    changed = map(_published_change, pixels, generators)
    return torch.stack(list(changed))


def _published_change(image: Tensor, rng: np.random.Generator) -> Tensor:
    chosen = rng.random(4) < PROBABILITY
    height, width = image.shape
    for axis, flip in ((1, chosen[0]), (0, chosen[1])):
        image = image.flip(axis) if flip else image
    if chosen[2]:
        forward = published_affine(height, width, rng.uniform(*SCALE, size=2))
        image = _sampled(image, _mapped(height, width, np.linalg.inv(forward)), "zeros")
    if chosen[3]:
        moved = _corner_map(height, width, rng)
        image = _sampled(image, _mapped(height, width, np.linalg.inv(moved)), "reflection")
        grid = _mapped(height, width, np.eye(3)) + _elastic((height, width), rng).numpy()
        image = _sampled(image, grid, "reflection")
    return image


def published_affine(height: int, width: int, scale: np.ndarray) -> np.ndarray:
    """Return the matrix [3, 3] that maps pixels (x, y, 1) of an image to the changed image."""
    angle = math.radians(PUBLISHED_ANGLE)
    cos, sin, tan = math.cos(angle), math.sin(angle), math.tan(angle)
    shear_y = np.array([[1, 0, 0], [tan, 1, 0], [0, 0, 1]])
    rest = np.array(
        [
            [scale[0] * cos, -scale[1] * (tan * cos + sin), TRANSLATION * width],
            [scale[0] * sin, -scale[1] * (tan * sin - cos), TRANSLATION * height],
            [0, 0, 1],
        ]
    )
    centre = np.eye(3)
    centre[:2, 2] = (width - 1) / 2, (height - 1) / 2
    return centre @ rest @ shear_y @ np.linalg.inv(centre)


def _corner_map(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the affine map [3, 3] that shifts three points around the centre independently."""
    size = min(height, width) // 3
    # As in the published code, the centre's first coordinate is that of the rows.
    centre = np.array([height // 2, width // 2], dtype=float)
    start = centre + size * np.array([[1, 1], [1, -1], [-1, -1]])
    stop = start + rng.uniform(-CORNER_SHIFT, CORNER_SHIFT, start.shape)
    known = np.column_stack([start, np.ones(3)])
    return np.vstack([np.linalg.solve(known, stop).T, [0, 0, 1]])


def _mapped(height: int, width: int, matrix: np.ndarray) -> np.ndarray:
    """Return [H, W, (x, y)]: the position to which `matrix` maps each pixel."""
    y, x = np.mgrid[:height, :width].astype(float)
    return np.stack([x, y, np.ones_like(x)], axis=-1) @ matrix[:2].T


def _sampled(image: Tensor, source: np.ndarray, outside: str) -> Tensor:
    """Return the uint8 image [H, W], read bilinearly at the positions `source` [H, W, (x, y)]."""
    height, width = image.shape
    grid = source / np.array([(width - 1) / 2, (height - 1) / 2]) - 1
    found = functional.grid_sample(
        image[None, None].float(),
        torch.from_numpy(grid.astype(np.float32))[None].to(image.device),
        mode="bilinear",
        padding_mode=outside,
        align_corners=True,
    )
    return found[0, 0].round().clamp(0, 255).to(torch.uint8)
