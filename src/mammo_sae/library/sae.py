"""An SAE for arrays of embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mammo_sae.compute.devices import fastest_device
from mammo_sae.errors import InputError
from mammo_sae.sae.files import DESCRIPTION
from mammo_sae.sae.formats.published import FOLDERS
from mammo_sae.sae.model import SparseAutoencoder

CELLS_PER_BATCH = 8192
WEIGHTS = "sae.safetensors"


class Sae:
    """A sparse autoencoder that takes and returns arrays.

    Parameters
    ----------
    model
        The weights. `mammo_sae.sae.model` describes what they compute.
    """

    def __init__(self, model: SparseAutoencoder) -> None:
        self.model = model.to(fastest_device())
        self._encoder = self.model.encoder()

    @classmethod
    def load(cls, path: str | Path) -> Sae:
        """Read an SAE.

        Parameters
        ----------
        path
            A folder that `save` has written, a folder of a run (`sae/<encoder>/...`), or a folder
            of SAELens or dictionary_learning.

        Raises
        ------
        InputError
            If the folder has no SAE, or its files are damaged.
        """
        path = Path(path)
        if path.suffix == ".json" or (path / DESCRIPTION).is_file():
            return cls(SparseAutoencoder.load(path))
        for weights, library in FOLDERS.items():
            if (path / weights).is_file():
                return cls(library.read(path))
        raise InputError(
            f"{path} has no SAE; give a folder with one of {', '.join((DESCRIPTION, *FOLDERS))}"
        )

    def save(self, folder: str | Path) -> Path:
        """Write the SAE into a folder, which is made if it is missing. Return the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save(folder / WEIGHTS, folder / DESCRIPTION)
        return folder

    @property
    def latents(self) -> int:
        """Number of latents h."""
        return self.model.latents

    @property
    def channels(self) -> int:
        """Number of channels d of an embedding."""
        return self.model.channels

    @property
    def atoms(self) -> np.ndarray:
        """The atoms, float32 [h, d]."""
        return self.model.decoder_weight.cpu().numpy()

    @torch.inference_mode()
    def encode(self, cells: np.ndarray) -> np.ndarray:
        """Return the codes, float32 [..., h], of raw embeddings `cells` [..., d].

        The codes are dense, so a whole cohort does not fit into memory. A run stores its codes
        sparsely (`Run.codes`).

        Raises
        ------
        InputError
            If the embeddings have another number of channels.
        """
        flat = self._flat(cells, self.channels, "channels")
        codes = np.zeros((len(flat), self.latents), np.float32)
        for start in range(0, len(flat), CELLS_PER_BATCH):
            part = torch.from_numpy(flat[start : start + CELLS_PER_BATCH]).to(self.model.device)
            index, value = self._encoder(part)
            dense = torch.zeros(len(part), self.latents, device=part.device)
            # Unused slots have index 0 and value 0, which adds nothing to latent 0.
            codes[start : start + len(part)] = dense.scatter_add_(1, index, value).cpu().numpy()
        return codes.reshape(*np.shape(cells)[:-1], self.latents)

    @torch.inference_mode()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the reconstructions, float32 [..., d], of codes [..., h].

        Raises
        ------
        InputError
            If the codes have another number of latents.
        """
        flat = self._flat(codes, self.latents, "latents")
        cells = np.empty((len(flat), self.channels), np.float32)
        for start in range(0, len(flat), CELLS_PER_BATCH):
            part = torch.from_numpy(flat[start : start + CELLS_PER_BATCH]).to(self.model.device)
            found = part @ self.model.decoder_weight + self.model.decoder_bias
            cells[start : start + len(part)] = found.cpu().numpy()
        return cells.reshape(*np.shape(codes)[:-1], self.channels)

    def _flat(self, values: np.ndarray, size: int, what: str) -> np.ndarray:
        given = np.asarray(values)
        if given.ndim < 1 or given.shape[-1] != size:
            raise InputError(
                f"an array of shape {given.shape} does not fit the SAE; its last axis should be "
                f"the {size} {what}"
            )
        return np.ascontiguousarray(given.reshape(-1, size), np.float32)

    def __repr__(self) -> str:
        rule = "thresholds" if self.model.k is None else f"k = {self.model.k}"
        return f"Sae({self.latents} latents, {self.channels} channels, {rule})"
