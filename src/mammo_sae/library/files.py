"""The files of a finished run, found by their names (docs/stores.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mammo_sae.analysis.cases import Identity
from mammo_sae.encoders.description import read_description
from mammo_sae.encoders.plans.plan import HEAD
from mammo_sae.errors import InputError
from mammo_sae.provenance import record_path
from mammo_sae.sae.files import DESCRIPTION
from mammo_sae.sae.settings import ComputedVariant, RandomVariant, SaeTraining
from mammo_sae.settings import parse_settings
from mammo_sae.stores.publish import read_json


class RunFiles:
    """Paths of one run.

    Parameters
    ----------
    folder
        The folder of the run, `results/<name>`.

    Raises
    ------
    InputError
        If the folder is not that of a run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not self.images.is_file():
            raise InputError(
                f"{folder} is not the folder of a run (it has no cohort/images.parquet); "
                "give results/<name>"
            )

    @property
    def images(self) -> Path:
        """The table of images."""
        return self.folder / "cohort" / "images.parquet"

    @property
    def image_stores(self) -> list[Path]:
        """Manifests of the cohort's canonical images, by shard.

        Raises
        ------
        InputError
            If there is none.
        """
        found = [path for path in self.folder.glob("images/*.json") if path.stem.isdecimal()]
        if not found:
            raise InputError(f"{self.folder}/images has no store of images; run the workflow first")
        return sorted(found, key=lambda path: int(path.stem))

    @cached_property
    def saes(self) -> list[Identity]:
        """The SAEs of the run, sorted."""
        found = []
        for path in self.folder.glob(f"sae/*/*/*/seed*/{DESCRIPTION}"):
            encoder, layer, sae, seed = path.parts[-5:-1]
            if re.fullmatch(r"seed\d+", seed):
                found.append(Identity(encoder, layer, sae, int(seed.removeprefix("seed"))))
        return sorted(found, key=lambda of: (of.encoder, of.layer, of.sae, of.seed))

    def sae(self, of: Identity) -> Path:
        """Return the description of an SAE."""
        return self.folder / "sae" / _below(of) / DESCRIPTION

    def codes(self, of: Identity) -> Path:
        """Return the manifest of an SAE's codes."""
        at = self.folder / "codes" / _below(of)
        return at.with_name(f"{at.name}.json")

    def analysis(self, of: Identity, table: str) -> Path:
        """Return the path of a table of one SAE."""
        return self.folder / "analysis" / _below(of) / f"{table}.parquet"

    def encoder(self, name: str) -> Path:
        """Return the folder of an encoder."""
        return self.folder / "encoders" / name

    def head(self, encoder: str) -> Path:
        """Return the folder of an encoder's head."""
        return self.folder / "heads" / encoder

    def settings_of(self, first_output: Path) -> dict[str, Any]:
        """Return the settings of the step that wrote a file, from its record.

        Raises
        ------
        StoreError
            If there is no record.
        """
        settings = json.loads(read_json(record_path(first_output))["config"])
        assert isinstance(settings, dict)  # those of a step always are
        return settings

    def precision(self, encoder: str) -> str:
        """Return the number type in which the embeddings of an encoder were computed.

        Raises
        ------
        InputError
            If the encoder has no embeddings.
        """
        for manifest in sorted(self.folder.glob(f"embeddings/{encoder}/*/*.json")):
            if manifest.stem.isdecimal():
                return str(self.settings_of(manifest)["precision"])
        raise InputError(f"{self.folder} has no embeddings of encoder {encoder}; run the workflow")

    def is_control(self, of: Identity) -> bool:
        """Return whether an SAE is a control, a dictionary that was not learnt as a whole."""
        path = self.sae(of)
        training = json.dumps(read_json(path).get("training"))
        variant = parse_settings(SaeTraining, training, str(path)).variant
        return isinstance(variant, RandomVariant | ComputedVariant)

    def choose(
        self,
        encoder: str | None = None,
        layer: str | None = None,
        sae: str | None = None,
        seed: int | None = None,
    ) -> Identity:
        """Return the SAE with these values.

        A value that is None is chosen if the run leaves a choice: the fine-tuned encoder, the layer
        `head`, the SAE that is no control, the lowest seed.

        Raises
        ------
        InputError
            If there is no such SAE, or several are left. The message lists them.
        """
        given = {"encoder": encoder, "layer": layer, "sae": sae, "seed": seed}
        given = {key: value for key, value in given.items() if value is not None}
        found = [of for of in self.saes if all(getattr(of, k) == v for k, v in given.items())]
        if not found:
            asked = ", ".join(f"{key} {value}" for key, value in given.items())
            raise InputError(
                f"{self.folder} has no SAE with {asked or 'codes'}; there are {_listed(self.saes)}"
            )
        if len({of.encoder for of in found}) > 1:
            found = self._fine_tuned(found) or found
        if len({of.layer for of in found}) > 1:
            found = [of for of in found if of.layer == HEAD] or found
        if len({of.sae for of in found}) > 1:
            found = [of for of in found if not self.is_control(of)] or found
        if len({(of.encoder, of.layer, of.sae) for of in found}) > 1:
            raise InputError(f"say which SAE by encoder, layer and sae: {_listed(found)}")
        return min(found, key=lambda of: of.seed)

    def _fine_tuned(self, found: Sequence[Identity]) -> list[Identity]:
        kinds = {
            name: read_description(self.encoder(name) / "encoder.json").kind
            for name in {of.encoder for of in found}
        }
        return [of for of in found if kinds[of.encoder] == "finetuned"]


def _below(of: Identity) -> Path:
    return Path(of.encoder, of.layer, of.sae, f"seed{of.seed}")


def _listed(found: Sequence[Identity]) -> str:
    return ", ".join(_below(of).as_posix() for of in found) or "none"
