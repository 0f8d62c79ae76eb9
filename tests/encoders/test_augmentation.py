from __future__ import annotations

import numpy as np
import torch

from mammo_sae.encoders import augmentation


def images(count: int = 64, height: int = 48, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, height, width), generator=generator).to(torch.uint8)


def test_the_same_seed_gives_the_same_images_and_another_seed_others():
    first, again, other = (
        augmentation.mammo_clip(images(), np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.uint8
    assert first.shape == (64, 48, 32)


def test_one_image_in_sixteen_stays_and_as_many_are_only_flipped_either_way(monkeypatch):
    original = images(count=400)
    changed = augmentation.mammo_clip(original, np.random.default_rng(0))
    for flip in ((), (1,), (2,), (1, 2)):
        same = (changed == original.flip(flip) if flip else changed == original).all((1, 2))
        # Of four changes, each made with probability one half: binomial(400, 1/16).
        assert 10 <= int(same.sum()) <= 42


def test_affine_maps_stay_within_their_bounds():
    rng = np.random.default_rng(0)
    drawn = [augmentation._affine(rng) for _ in range(2000)]
    areas = np.array([1 / np.linalg.det(matrix) for matrix, _ in drawn])
    shear = np.tan(np.radians(20)) ** 2
    assert areas.min() >= 0.8**2 / (1 + shear)
    assert areas.max() <= 1.2**2 / (1 - shear)
    shifts = np.abs([shift for _, shift in drawn])
    assert 0.09 < shifts.max() <= 0.1


def test_elastic_displacements_are_smooth_and_a_few_pixels_at_most():
    field = augmentation._elastic((200, 150), np.random.default_rng(0))
    assert field.shape == (200, 150, 2)
    assert 0.05 < field.abs().max() < 10
    assert field.diff(dim=0).abs().max() < 0.1 * field.abs().max()
