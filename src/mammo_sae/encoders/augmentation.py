"""Random changes of training images: flips, affine maps and elastic deformations."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

PROBABILITY = 0.5  # of each change, for each image
ROTATION = 20.0  # largest, degrees
TRANSLATION = 0.1  # largest, share of the edge
SCALE = (0.8, 1.2)
SHEAR = 20.0  # largest, degrees
ELASTIC_STRENGTH = 10.0  # pixels: the displacement field is noise in [-1, 1], blurred, times this
ELASTIC_BLUR = 15.0  # standard deviation of that blur, pixels


def mammo_clip(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Change uint8 images [n, H, W] as Mammo-CLIP does when it trains classifiers.

    Horizontal and vertical flip; rotation, translation, scale and shear together; elastic
    deformation (Simard et al., ICDAR 2003): each with probability one half. What comes from
    outside the image is black.

    Source: https://github.com/batmanlab/Mammo-CLIP, Datasets/dataset_utils.py, `get_transforms`.
    """
    count, height, width = pixels.shape
    y, x = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2,
        torch.arange(width) - (width - 1) / 2,
        indexing="ij",
    )
    centred = torch.stack([x, y], dim=-1).to(pixels.device, torch.float32)
    grids = torch.stack([_source(centred, rng) for _ in range(count)])
    # From pixels around the centre to the [-1, 1] between the outer pixels' centres.
    grids = grids / torch.tensor([(width - 1) / 2, (height - 1) / 2], device=pixels.device)
    changed = functional.grid_sample(
        pixels[:, None].float(), grids, mode="bilinear", align_corners=True
    )
    return changed[:, 0].round().clamp(0, 255).to(torch.uint8)


def _source(centred: Tensor, rng: np.random.Generator) -> Tensor:
    """Return where in the image each pixel [H, W, (x, y)] of the changed one comes from."""
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
    """Draw the matrix [2, 2] and the shift [2], a share of the edges, of an affine map."""
    angle, shear_x, shear_y = np.radians(
        rng.uniform([-ROTATION, -SHEAR, -SHEAR], [ROTATION, SHEAR, SHEAR])
    )
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shear = np.array([[1, math.tan(shear_x)], [math.tan(shear_y), 1]])
    return rotation @ shear / rng.uniform(*SCALE), rng.uniform(-TRANSLATION, TRANSLATION, 2)


def _elastic(shape: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Draw a smooth displacement [H, W, (x, y)] in pixels."""
    noise = torch.from_numpy(rng.uniform(-1, 1, (2, 1, *shape)).astype(np.float32))
    radius = math.ceil(3 * ELASTIC_BLUR)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / ELASTIC_BLUR) ** 2)
    kernel = kernel / kernel.sum()
    noise = functional.conv2d(noise, kernel[None, None, :, None], padding=(radius, 0))
    noise = functional.conv2d(noise, kernel[None, None, None, :], padding=(0, radius))
    return ELASTIC_STRENGTH * noise[:, 0].permute(1, 2, 0)
