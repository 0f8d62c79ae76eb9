"""Dead latents, counted in a way that never makes the CPU wait for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


class DeadLatents:
    """Counts the steps since each latent fired.

    The number of dead latents decides the shapes of the next step, so the CPU has to know it. If
    the CPU asked the GPU for the number, it would wait for all submitted work, and the GPU would
    then be idle. Therefore the number is copied to the CPU asynchronously, as soon as a step knows
    which latents fired. The next step reads the copy while the GPU still runs the optimiser.

    Parameters
    ----------
    latents
        Number of latents.
    patience
        A latent that has not fired for this many steps is dead.
    device
        Device of the SAE.

    Attributes
    ----------
    steps [latents] int64
        Steps since each latent fired.
    """

    def __init__(self, latents: int, patience: int, device: torch.device) -> None:
        self.steps = torch.zeros(latents, dtype=torch.int64, device=device)
        self._patience = patience
        gpu = device.type == "cuda"
        self._count = torch.zeros((), dtype=torch.int64, pin_memory=gpu)
        self._arrived = torch.cuda.Event() if gpu else None

    def indices(self) -> Tensor:
        """Return the dead latents [m] int64, ascending."""
        if self._arrived is not None:
            self._arrived.synchronize()
        # `nonzero` would make the CPU wait until the GPU has counted the dead latents.
        dead = self._is_dead().to(torch.int8)
        order = torch.sort(dead, descending=True, stable=True).indices
        return order[: int(self._count)]

    def update(self, fired: Tensor) -> None:
        """Count one step, in which the latents `fired`, bool [latents], were active."""
        self.steps.add_(1).masked_fill_(fired, 0)
        self._send()

    def restore(self, steps: Tensor) -> None:
        """Set the counts to `steps` [latents] of a checkpoint."""
        self.steps.copy_(steps)
        self._send()

    def share(self) -> float:
        """Return the share of dead latents."""
        return float(self._is_dead().double().mean())

    def _is_dead(self) -> Tensor:
        return self.steps >= self._patience

    def _send(self) -> None:
        self._count.copy_(self._is_dead().sum(), non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
