"""The training loop, shared by all variants."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from mammo_sae.errors import InputError
from mammo_sae.sae.dead_latents import DeadLatents
from mammo_sae.sae.loader import Batches, Cells
from mammo_sae.sae.variants.base import Step, TrainingSAE

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining

LOG_ROWS = 100
SAVE_SECONDS = 60.0


def learning_rate(settings: SaeTraining, step: int) -> float:
    """Return the learning rate of `step` (from 0): linear warm-up, constant, linear decay to 0."""
    rising = (step + 1) / max(settings.warm_up * settings.steps, 1)
    falling = (settings.steps - step) / max(settings.decay * settings.steps, 1)
    return settings.lr * min(1.0, rising, falling)


@dataclass(eq=False)
class Training:
    """One SAE, its optimiser, and the counts of its dead latents.

    Parameters
    ----------
    settings
        Settings of the run.
    sae
        The SAE at its initial weights.
    mean, scale
        The SAE is trained on scale (x - mean) for each embedding x.
    """

    settings: SaeTraining
    sae: TrainingSAE
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    scale: float = 1.0
    step: int = 0
    log: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        parameters = list(self.sae.parameters.values())
        self.optimiser = torch.optim.Adam(
            parameters, lr=self.settings.lr, betas=(0.9, 0.999), fused=True
        )
        patience = max(1, round(self.settings.dead_after * self.settings.steps))
        self._dead = DeadLatents(self.settings.latents, patience, parameters[0].device)
        self._every = max(1, self.settings.steps // LOG_ROWS)

    @property
    def done(self) -> bool:
        """Whether the last step was taken."""
        return self.step == self.settings.steps

    def advance(self, u: Tensor) -> None:
        """Take one step on a centred and scaled batch u [n, d].

        Raises
        ------
        InputError
            If the loss is not finite. The message names the step.
        """
        rate = learning_rate(self.settings, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        dead = self._dead.indices()
        found = self.sae.gradients(u, dead)
        self._dead.update(found.fired)
        self.optimiser.step()
        self.sae.constrain()
        self.step += 1
        self.sae.revive(u, dead, self.optimiser, self.step / self.settings.steps)
        logged = self.step % self._every == 0 or self.done
        # Reading the loss makes the CPU wait for a GPU, so on a GPU only logged losses are checked.
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
            "parameters": self.sae.parameters,
            "buffers": self.sae.buffers,
            "optimiser": self.optimiser.state_dict(),
            "silent": self._dead.steps,
            "log": self.log,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to an earlier `state()`."""
        for kind in ("parameters", "buffers"):
            for name, tensor in getattr(self.sae, kind).items():
                tensor.copy_(state[kind][name])
        self.sae.restored()
        self.optimiser.load_state_dict(state["optimiser"])
        self._dead.restore(state["silent"])
        self.step, self.log = state["step"], list(state["log"])

    def _row(self, found: Step, u: Tensor, rate: float) -> dict[str, float]:
        variance = (u - u.mean(dim=0)).square().mean()
        return {
            "step": self.step,
            "loss": float(found.loss),
            "error": float(found.error),
            "explained_variance": 1 - float(found.error / variance),
            "l0": float(found.active),
            "dead_share": self._dead.share(),
            "lr": rate,
        }


def centre_and_scale(sample: Tensor) -> tuple[Tensor, float]:
    """Return the mean [d] of cells [m, d] and the scale that makes E ||scale (x - mean)||^2 = d.

    Raises
    ------
    InputError
        If all cells are equal.
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
    trainings: Sequence[Training],
    cells: Cells,
    label: str,
    save: Callable[[Training], None] = lambda training: None,
) -> None:
    """Train several SAEs to their last steps on the same parts; show the rate and the time left.

    Parameters
    ----------
    trainings
        The SAEs, each with steps left. If an SAE other than the first diverges, it is dropped with
        a warning.
    save
        Function that keeps the `state()` of an SAE. It is called for each SAE every `SAVE_SECONDS`
        and after the SAE's last step.

    Raises
    ------
    InputError
        If the first SAE diverges.
    """
    batches = [t.settings.batch for t in trainings]
    seen = [t.step * batch for t, batch in zip(trainings, batches, strict=True)]
    epoch = min(seen) // cells.count
    streams = {
        position: Batches(batches[position], t.settings.seed, seen[position] - epoch * cells.count)
        for position, t in enumerate(trainings)
    }
    saved = time.monotonic()
    with (
        tqdm(
            total=sum(t.settings.steps * t.settings.batch for t in trainings),
            initial=sum(seen),
            desc=label,
            unit="cell",
            unit_scale=True,
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
            dynamic_ncols=True,
        ) as bar,
        closing(cells.parts(epoch)) as parts,
    ):
        while streams:
            part = next(parts)
            for position, stream in list(streams.items()):
                training = trainings[position]
                try:
                    for batch in stream.cut(part):
                        training.advance(batch.sub_(training.mean).mul_(training.scale))
                        bar.update(len(batch))
                        if training.done:
                            break
                        if time.monotonic() - saved >= SAVE_SECONDS:
                            for other in streams:
                                save(trainings[other])
                            saved = time.monotonic()
                except InputError as error:
                    if position == 0:
                        raise
                    bar.write(f"warning: dropped an SAE of the same pass: {error}", sys.stderr)
                    del streams[position]
                else:
                    if training.done:
                        save(training)
                        del streams[position]
