from __future__ import annotations

import numpy as np
import torch

from mammo_sae.encoders import augmentation


def images(count: int = 64, height: int = 48, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, height, width), generator=generator).to(torch.uint8)


def test_the_same_seed_gives_the_same_images_and_another_seed_others():
    first, again, other = (
        augmentation.mammo_clip(images(), np.random.default_rng(seed).spawn(64))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.uint8
    assert first.shape == (64, 48, 32)


def test_one_image_in_sixteen_stays_and_as_many_are_only_flipped_either_way(monkeypatch):
    original = images(count=400)
    changed = augmentation.mammo_clip(original, np.random.default_rng(0).spawn(400))
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


def test_the_published_affine_map_is_that_of_albumentations():
    # Affine of albumentations 1.4.7 with scikit-image, for 152 x 92 and scales .9 and 1.1.
    expected = [
        [0.571856025, 0.7524443153, -28.1289949434],
        [-0.6342005078, 0.896728216, 51.8531427986],
        [0, 0, 1],
    ]
    found = augmentation.published_affine(152, 92, np.array([0.9, 1.1]))
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_the_published_change_always_turns_and_moves_the_same_way(monkeypatch):
    monkeypatch.setattr(augmentation, "PROBABILITY", 1.0)
    monkeypatch.setattr(augmentation, "SCALE", (1.0, 1.0))
    monkeypatch.setattr(augmentation, "CORNER_SHIFT", 0.0)
    monkeypatch.setattr(augmentation, "ELASTIC_STRENGTH", 0.0)
    point = torch.zeros(2, 152, 92, dtype=torch.uint8)
    point[:, 80:83, 50:53] = 255
    changed = augmentation.published_mammo_clip(point, np.random.default_rng(0).spawn(2))
    assert torch.equal(changed[0], changed[1])
    # Flipped both ways, then carried by the map: (40, 70) is the block's centre after the flips.
    x, y, _ = augmentation.published_affine(152, 92, np.ones(2)) @ [40, 70, 1]
    rows, columns = np.nonzero(changed[0].numpy() > 127)
    assert abs(columns.mean() - x) < 0.7
    assert abs(rows.mean() - y) < 0.7


def test_outside_of_the_published_elastic_change_the_image_is_mirrored_not_black(monkeypatch):
    white = torch.full((8, 60, 40), 200, dtype=torch.uint8)
    monkeypatch.setattr(augmentation, "published_affine", lambda *_: np.eye(3))
    changed = augmentation.published_mammo_clip(white, np.random.default_rng(1).spawn(8))
    assert (changed == 200).all()
    first = augmentation.published_mammo_clip(images(), np.random.default_rng(0).spawn(64))
    again = augmentation.published_mammo_clip(images(), np.random.default_rng(0).spawn(64))
    assert torch.equal(first, again)
