"""The model card of an exported SAE, in the form that model hubs show (README.md)."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import yaml

from mammo_sae.analysis.cases import IDENTITY, Identity
from mammo_sae.encoders.description import EncoderDescription
from mammo_sae.errors import counted
from mammo_sae.library.files import RunFiles
from mammo_sae.report import style
from mammo_sae.sae.high_norm import LIMIT
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.tables import read_table

LATENTS = 5  # latents named per concept
# Names of licences in a hub's list. Any other licence is `other` there, with its own name.
LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit"}

USE = """## Use

```python
from sae_lens import SAE

sae = SAE.load_from_disk("{layer}")  # or SAE.from_pretrained("owner/name", "{layer}") from a hub
codes = sae.encode(cells)  # [n, {channels}] -> [n, {latents}]
```

The input is the raw map of layer `{layer}` of the encoder below, one row per cell: neither centred
nor scaled. Images are preprocessed as `{preprocessing}` to {height} x {width} pixels before the
encoder. {codes}"""

TUNED = (
    "The encoder was trained further on the cohort. The SAE fits the weights after this training, "
    "which are `encoder.safetensors` of the run and are not in this folder.\n\n"
)
CAVEATS = (
    "For research only, not for clinical use.",
    "A latent that responds to a finding need not detect it. It may respond to a scanner, a marker "
    "or the density. The verdicts above say what was tested on these images, and nothing about "
    "images of other sources.",
    "Latents are ranked on patients of the training split and scored on other patients of the same "
    "cohort. Other hospitals may give other numbers.",
    "The codes depend on the preprocessing and on the encoder's weights. With other weights or "
    "another image size they mean something else.",
)


def card(
    files: RunFiles, of: Identity, model: SparseAutoencoder, encoder: EncoderDescription
) -> str:
    """Return the model card of an SAE as Markdown.

    It has counts and scores of the cohort, but no id of an image or patient and no path.

    Parameters
    ----------
    files
        The run.
    of
        The SAE.
    model
        Its weights.
    encoder
        The description of its encoder.

    Raises
    ------
    InputError
        If a table or record of the run is missing or damaged.
    """
    images = files.settings_of(files.image_stores[0])
    preprocessing = images["images"]
    codes = "A code is the length of its atom's part of the embedding."
    if model.selection is not None:
        codes = (
            "Codes and atoms are scaled so that the largest codes are the active ones. A code "
            "times the norm of its atom is the length of the atom's part of the embedding."
        )
    used = USE.format(
        layer=of.layer,
        channels=model.channels,
        latents=model.latents,
        preprocessing=preprocessing["preprocessing"],
        height=preprocessing["height"],
        width=preprocessing["width"],
        codes=codes,
    )
    sections = [
        _front(encoder),
        f"# SAE of layer `{of.layer}` of {encoder.architecture} ({encoder.kind})",
        _what(of, model),
        used,
        _data(files, str(images["kind"])),
        _encoder(encoder),
        _quality(files, of),
        _latents(files, of),
        _caveats(files, of, model),
    ]
    return "\n\n".join(sections) + "\n"


def _front(encoder: EncoderDescription) -> str:
    """Return the header that a hub reads."""
    known = LICENCES.get(encoder.licence)
    licence = {"license": known} if known else {"license": "other", "license_name": encoder.licence}
    tags = ["sparse-autoencoder", "mammography", "mammo-sae"]
    text = yaml.safe_dump({**licence, "library_name": "saelens", "tags": tags}, sort_keys=False)
    return f"---\n{text}---"


def _what(of: Identity, model: SparseAutoencoder) -> str:
    training = model.description.get("training", {})
    variant = training.get("variant", {})
    rule = (
        f"The {model.k} largest positive pre-activations of a cell are its codes."
        if model.k is not None
        else "A latent is active if its pre-activation is above its threshold."
    )
    trained = ", ".join(
        f"{name} {training[name]}" for name in ("steps", "batch", "lr", "seed") if name in training
    )
    own = ", ".join(
        f"{name} {value}" for name, value in variant.items() if name not in {"name", "path"}
    )
    lines = [
        f"A sparse autoencoder with {model.latents} latents for {model.channels} channels. {rule}",
        f"Variant `{variant.get('name', 'unknown')}`" + (f" ({own})." if own else "."),
        f"Training: {trained}." if trained else "",
        f"Its name in the run of mammo-sae is `{of.sae}`, seed {of.seed}.",
    ]
    return " ".join(line for line in lines if line)


def _data(files: RunFiles, kind: str) -> str:
    """Return the section on the cohort: its kind, and counts of each split."""
    cohort = read_table(files.images)
    concepts = _concepts(files, cohort)
    rows = []
    for split in style.splits_of(cohort["split"]):
        mine = cohort[cohort["split"] == split]
        positive = (int((mine[concept] == 1).sum()) for concept in concepts)
        rows.append([split, len(mine), mine["patient_id"].nunique(), *positive])
    named = [f"images with {style.words(concept)}" for concept in concepts]
    simulated = (
        " The images are simulated (a phantom with known truth). They contain no patient's data."
        if kind == "phantom"
        else ""
    )
    return (
        f"## Data\n\nThe SAE was trained on the training split of a cohort of kind `{kind}`."
        f"{simulated}\n\n{_table(['split', 'images', 'patients', *named], rows)}"
    )


def _concepts(files: RunFiles, cohort: pd.DataFrame) -> list[str]:
    """Return the concepts of the cohort that its record names and its table has."""
    named = files.settings_of(files.images)["concepts"]
    return [concept for concept in named if concept in cohort]


def _encoder(encoder: EncoderDescription) -> str:
    tuned = encoder.kind == "finetuned"
    rows = [
        ["architecture", encoder.architecture],
        ["kind", encoder.kind],
        ["fine-tuned from" if tuned else "weights", encoder.source],
        [f"SHA-256 of {'that' if tuned else 'the weights'} file", encoder.sha256 or "none"],
        ["trained on", encoder.data],
        ["licence of the weights", encoder.licence],
        ["the licence forbids", encoder.forbids],
    ]
    return (
        f"## Encoder and licence\n\n{_table(['', ''], rows)}\n\n"
        f"{TUNED if tuned else ''}The SAE is made from the encoder's embeddings. Check that the "
        "licence of the encoder's weights and the terms of the images allow you to publish it."
    )


def _quality(files: RunFiles, of: Identity) -> str:
    path = files.analysis(of, "sae_quality")
    if not path.is_file():
        return "## Quality\n\nNot measured."
    row = read_table(path).iloc[0]
    rows = [
        ["explained variance", _number(row["explained_variance"], 3)],
        [
            "explained variance of as many principal components",
            _number(row["explained_variance_pca"], 3),
        ],
        ["active latents per cell (L0)", _number(row["l0"], 1)],
        ["dead latents", style.percent(row["dead_share"])],
    ]
    for column in row.index:
        concept = column.removeprefix("auroc_lost_")
        if column == concept or concept.endswith(("_low", "_high")):
            continue
        lost = style.estimate(row[column], row[f"{column}_low"], row[f"{column}_high"], 3)
        rows.append([f"AUROC for {style.words(concept)}", _number(row[f"auroc_{concept}"], 3)])
        rows.append(["lost with reconstructions in place of embeddings", lost])
    split = f"On {counted(int(row['images']), 'image')} of the {row['split']} split"
    return f"## Quality\n\n{split}, with 95 % intervals over patients:\n\n{_table(['', ''], rows)}"


def _latents(files: RunFiles, of: Identity) -> str:
    """Return the section on the latents with the best ranks, with their verdicts if there are."""
    path = files.analysis(of, "latents")
    if not path.is_file():
        return "## Latents\n\nNot tested."
    verdicts = _verdicts(files, of)
    ranked = read_table(path)
    rows = []
    for concept in sorted(ranked["concept"].unique()):
        best = ranked[(ranked["concept"] == concept) & (ranked["rank_auroc"] <= LATENTS)]
        for row in best.sort_values("rank_auroc").to_dict("records"):
            verdict, where = verdicts.get((concept, row["latent"]), ("not tested", ""))
            auroc = style.estimate(row["auroc"], row["auroc_low"], row["auroc_high"])
            rows.append([style.words(concept), row["latent"], auroc, verdict, where])
    if not rows:
        return "## Latents\n\nNo latent could be ranked."
    head = ["concept", "latent", "AUROC of its highest code [95 %]", "verdict", "where it fires"]
    return (
        f"## Latents\n\nThe {LATENTS} latents of each concept with the best AUROC in the training "
        f"split, scored on other patients:\n\n{_table(head, rows)}"
    )


def _verdicts(files: RunFiles, of: Identity) -> dict[tuple[str, int], tuple[str, str]]:
    """Return (concept, latent) -> (verdict, where it fires) of the run's tested latents."""
    path = files.folder / "tables" / "verdicts.parquet"
    if not path.is_file():
        return {}
    table = read_table(path)
    for name in IDENTITY:
        table = table[table[name] == getattr(of, name)]
    return {
        (row["concept"], row["latent"]): (row["verdict"], row["where"].removeprefix("where: "))
        for row in table.to_dict("records")
    }


def _caveats(files: RunFiles, of: Identity, model: SparseAutoencoder) -> str:
    caveats = list(CAVEATS)
    limit = model.description.get(LIMIT)
    if limit is not None:
        caveats.insert(
            1,
            f"Cells whose embedding is longer than {limit:g} are artefacts of the encoder. They "
            "were left out of the training and of all scores above. Leave them out too: the "
            "exported SAE gives codes for them.",
        )
    if files.is_control(of):
        caveats.insert(1, "This dictionary is a control. It was not learnt as a whole.")
    return "## Caveats\n\n" + "\n".join(f"- {caveat}" for caveat in caveats)


def _number(value: float, digits: int) -> str:
    return "not estimable" if math.isnan(value) else f"{value:.{digits}f}"


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
