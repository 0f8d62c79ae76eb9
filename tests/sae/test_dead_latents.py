from __future__ import annotations

import torch

from mammo_sae.sae.dead_latents import DeadLatents


def fired(*latents: int) -> torch.Tensor:
    return torch.isin(torch.arange(4), torch.tensor(latents))


def test_a_latent_is_dead_when_it_has_not_fired_for_so_many_steps_and_until_it_fires():
    latents = DeadLatents(4, 2, torch.device("cpu"))
    found = [latents.indices().tolist()]
    for active in ((0, 1), (0,), (0,), (0, 3)):
        latents.update(fired(*active))
        found.append(latents.indices().tolist())
    assert found == [[], [], [2, 3], [1, 2, 3], [1, 2]]
    assert latents.share() == 0.5


def test_restored_steps_give_the_same_dead_latents():
    one, two = (DeadLatents(4, 2, torch.device("cpu")) for _ in range(2))
    for _ in range(3):
        one.update(fired(1))
    two.restore(one.steps)
    assert two.indices().tolist() == one.indices().tolist() == [0, 2, 3]
