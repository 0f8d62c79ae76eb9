"""Export an SAE of a run in SAELens's layout, with a model card, as a folder for a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mammo_sae.analysis.cases import Identity
from mammo_sae.encoders.network import load_description
from mammo_sae.errors import InputError
from mammo_sae.library.card import card
from mammo_sae.library.files import RunFiles
from mammo_sae.sae.formats import saelens
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.publish import atomic_file, read_json, read_plain_json, write_plain_json

CARD = "README.md"
# The rules for active latents -> the architecture of SAELens with the same codes. The SAE of every
# variant is saved with one of these rules, whatever rule trained it.
ARCHITECTURES = {"topk": "topk", "threshold": "jumprelu"}
# The first version of SAELens whose layout this is. Without it SAELens takes a file for an older
# one and guesses keys.
LAYOUT = "6.0.0"


def export(files: RunFiles, of: Identity, output: Path) -> list[Path]:
    """Write an SAE as `<output>/<layer>/` in SAELens's layout, and `<output>/README.md`.

    Parameters
    ----------
    files
        The run.
    of
        The SAE.
    output
        A new or empty folder.

    Returns
    -------
    The files, the card last.

    Raises
    ------
    InputError
        If the folder is not empty, SAELens has no architecture for the SAE, or a file of the run is
        missing or damaged.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} is not an empty folder; give a new one")
    description = files.sae(of)
    rule = read_json(description).get("activation")
    if rule not in ARCHITECTURES:
        raise InputError(
            f"{description}: SAELens has no architecture for SAEs with the activation {rule!r}, "
            f"only for {' and '.join(ARCHITECTURES)}; save it as mammo-sae does (`Sae.save`)"
        )
    model = SparseAutoencoder.load(description)
    encoder = load_description(files.encoder(of.encoder))
    text = card(files, of, model, encoder)  # before anything is written
    folder = output / of.layer
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"{output} can't be made ({error.strerror}); give another folder"
        ) from None
    saelens.write(model, folder)
    config: dict[str, Any] = read_plain_json(folder / saelens.CONFIG)
    config["metadata"] = {
        "sae_lens_version": LAYOUT,
        "model_name": encoder.architecture,
        "hook_name": of.layer,
    }
    write_plain_json(folder / saelens.CONFIG, config)
    with atomic_file(output / CARD) as aside:
        aside.write_text(text, encoding="utf-8")
    return [folder / saelens.WEIGHTS, folder / saelens.CONFIG, output / CARD]
