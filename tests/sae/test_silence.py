from __future__ import annotations

import torch

from mammo_sae.sae.silence import Silence


def fired(*latents: int) -> torch.Tensor:
    return torch.isin(torch.arange(4), torch.tensor(latents))


def test_a_latent_is_dead_when_it_was_silent_for_so_many_steps_and_until_it_fires():
    silence = Silence(4, 2, torch.device("cpu"))
    found = [silence.dead().tolist()]
    for latents in ((0, 1), (0,), (0,), (0, 3)):
        silence.heard(fired(*latents))
        found.append(silence.dead().tolist())
    assert found == [[], [], [2, 3], [1, 2, 3], [1, 2]]
    assert silence.dead_share() == 0.5


def test_restored_silence_has_the_same_dead_latents():
    one, two = (Silence(4, 2, torch.device("cpu")) for _ in range(2))
    for _ in range(3):
        one.heard(fired(1))
    two.restore(one.steps)
    assert two.dead().tolist() == one.dead().tolist() == [0, 2, 3]
