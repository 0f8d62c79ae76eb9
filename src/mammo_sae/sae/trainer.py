"""The training loop: one for all variants."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mammo_sae.errors import InputError
from mammo_sae.sae.settings import SaeTraining
from mammo_sae.sae.variants.base import Step, Trainee

LOG_ROWS = 100
SAVE_SECONDS = 60.0


def learning_rate(settings: SaeTraining, step: int) -> float:
    """Return the rate of `step` (from 0): linear warm-up, constant, linear decay to 0."""
    rising = (step + 1) / max(settings.warm_up * settings.steps, 1)
    falling = (settings.steps - step) / max(settings.decay * settings.steps, 1)
    return settings.lr * min(1.0, rising, falling)


@dataclass
class Training:
    """One SAE, its optimiser, and how long its latents have been silent.

    Parameters
    ----------
    settings
        Of the run.
    trainee
        The SAE at its initial weights.
    """

    settings: SaeTraining
    trainee: Trainee
    step: int = 0
    log: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        parameters = list(self.trainee.parameters.values())
        self.optimiser = torch.optim.Adam(
            parameters, lr=self.settings.lr, betas=(0.9, 0.999), fused=True
        )
        self._silent = torch.zeros(
            self.settings.latents, dtype=torch.int64, device=parameters[0].device
        )
        self._patience = max(1, round(self.settings.dead_after * self.settings.steps))
        self._every = max(1, self.settings.steps // LOG_ROWS)

    def advance(self, u: Tensor) -> None:
        """Take one step on a centred and scaled batch u [n, d].

        Raises
        ------
        InputError
            If the loss is not finite any more, saying at which step.
        """
        rate = learning_rate(self.settings, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        dead = self._silent >= self._patience
        found = self.trainee.gradients(u, dead)
        self.optimiser.step()
        self.trainee.constrain()
        self._silent += 1
        self._silent[found.fired] = 0
        self.step += 1
        self.trainee.revive(u, dead, self.optimiser, self.step / self.settings.steps)
        logged = self.step % self._every == 0 or self.step == self.settings.steps
        # Reading the loss waits for a GPU, so there it is looked at only where it is logged.
        if (logged or u.device.type == "cpu") and not torch.isfinite(found.loss):
            raise InputError(
                f"training diverged at step {self.step}: the loss is {float(found.loss)}; "
                f"lower lr = {self.settings.lr:g} or check the embeddings"
            )
        if logged:
            self.log.append(self._row(found, u, rate))

    def state(self) -> dict[str, Any]:
        """Return everything that later steps depend on."""
        return {
            "step": self.step,
            "parameters": self.trainee.parameters,
            "buffers": self.trainee.buffers,
            "optimiser": self.optimiser.state_dict(),
            "silent": self._silent,
            "log": self.log,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a `state`."""
        for kind in ("parameters", "buffers"):
            for name, tensor in getattr(self.trainee, kind).items():
                tensor.copy_(state[kind][name])
        self.trainee.restored()
        self.optimiser.load_state_dict(state["optimiser"])
        self._silent.copy_(state["silent"])
        self.step, self.log = state["step"], list(state["log"])

    def _row(self, found: Step, u: Tensor, rate: float) -> dict[str, float]:
        variance = (u - u.mean(dim=0)).square().mean()
        return {
            "step": self.step,
            "loss": float(found.loss),
            "explained_variance": 1 - float(found.error / variance),
            "l0": float(found.active),
            "dead_share": float((self._silent >= self._patience).double().mean()),
            "lr": rate,
        }


def centre_and_scale(sample: Tensor) -> tuple[Tensor, float]:
    """Return the mean [d] of cells [m, d] and the scale that makes E ||scale (x - mean)||^2 = d.

    Raises
    ------
    InputError
        If all cells are the same.
    """
    count, channels = sample.shape
    first = torch.zeros(channels, dtype=torch.float64, device=sample.device)
    for part in sample.split(1 << 16):
        first += part.sum(dim=0, dtype=torch.float64)
    mean = (first / count).float()
    spread = 0.0
    for part in sample.split(1 << 16):
        spread += float((part.float() - mean).square().sum(dtype=torch.float64))
    if spread == 0:
        raise InputError("all cells of the training images are the same; check the embeddings")
    return mean, (channels * count / spread) ** 0.5


def fit(
    training: Training,
    batches: Iterator[Tensor],
    mean: Tensor,
    scale: float,
    label: str,
    save: Callable[[], None] = lambda: None,
) -> None:
    """Train to the last step, showing cells per second and the time left.

    Parameters
    ----------
    batches
        Raw cells [n, d], from the batch numbered `training.step` on.
    save
        Called every `SAVE_SECONDS`, to keep `training.state()`.
    """
    settings = training.settings
    saved = time.monotonic()
    with tqdm(
        total=settings.steps * settings.batch,
        initial=training.step * settings.batch,
        desc=label,
        unit="cell",
        unit_scale=True,
        file=sys.stderr,
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
    ) as bar:
        while training.step < settings.steps:
            training.advance(next(batches).sub_(mean).mul_(scale))
            bar.update(settings.batch)
            if time.monotonic() - saved >= SAVE_SECONDS:
                save()
                saved = time.monotonic()
