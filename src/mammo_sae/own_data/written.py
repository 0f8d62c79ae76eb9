"""Writes the proposed tables and configuration: all files or none."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from mammo_sae.cohorts.table import FINDINGS, IMAGES
from mammo_sae.config import Name, load_config
from mammo_sae.errors import InputError
from mammo_sae.own_data.proposal import Proposal
from mammo_sae.yaml_files import read_yaml

PREPROCESSED = (1520, 912)  # rows and columns after Mammo-CLIP's preprocessing
IMAGES_PER_SHARD = 500
KEY_BYTES = 32

TEXT = """\
# A run on your own images, written by `mammo-sae init`. Keys that are not here have their defaults:
# config/config.yaml explains every key. Check this file with `mammo-sae doctor`.
name: {name}

cohort:
  kind: table
  # the folder of images.csv, findings.csv and the image files
  source: {source}
  # the secret key of the pseudonyms; keep it, and keep it out of the results
  key_file: {key}
  # {concept_comment}
  concepts:{concepts}
  # {covariate_comment}
  covariates:{covariates}
  # parts into which the images are divided; they are converted in parallel
  shards: {shards}

images:
  # {preprocessing_comment}
  preprocessing: {preprocessing}
  height: {height}
  width: {width}

{encoders}
# The layers that are explained. `head` is what predictions are made from.
layers: [blocks.10, blocks.14, head]

# The sparse autoencoders to train on each layer.
saes:
  topk:
    variant: {{name: topk, k: 32}}
"""


ENCODER = """\
# The network to analyse. `pretrained` is a small network trained on photographs, which needs no
# download. docs/encoders.md shows how to use a mammography model, such as Mammo-CLIP.
encoders:
  pretrained:
    kind: pretrained
"""
ENCODERS = """\
# The networks to analyse. `pretrained` is a small network trained on photographs, which needs no
# download; `finetuned` is the same network trained on your training images.
# docs/encoders.md shows how to use a mammography model, such as Mammo-CLIP.
encoders:
  pretrained:
    kind: pretrained
  finetuned:
    kind: finetuned
    base: pretrained
    freeze: blocks.4
"""


def config_text(proposal: Proposal, name: str, source: Path, key: Path) -> str:
    """Return the configuration as YAML with comments.

    Raises
    ------
    InputError
        If the workflow would refuse it, for example because of a character in a path.
    """
    as_is = proposal.sizes == {PREPROCESSED} and set(proposal.kinds) <= {"PNG", "JPEG"}
    named = [f"    {concept}: {concept}" for concept in proposal.concepts]
    covariates = [f"    {covariate}: {covariate}" for covariate in proposal.covariates]
    text = TEXT.format(
        name=name,
        source=_quoted(source.resolve()),
        key=_quoted(key.resolve()),
        concept_comment="what to explain: name in the results -> column of images.csv"
        if named
        else "the images have no labels, so the run ends with embeddings, SAEs and codes",
        concepts="\n" + "\n".join(named) if named else " {}",
        encoders=ENCODERS if named else ENCODER,
        covariate_comment="further columns of images.csv, which are tested as confounders",
        covariates="\n" + "\n".join(covariates) if covariates else " {}",
        shards=max(2, -(-len(proposal.images) // IMAGES_PER_SHARD)),
        preprocessing="as_is" if as_is else "clinical",
        preprocessing_comment="the files have the size of Mammo-CLIP's preprocessing and are used "
        "as they are"
        if as_is
        else "display values, breast on the left, resized",
        height=PREPROCESSED[0] if as_is else 384,
        width=PREPROCESSED[1] if as_is else 256,
    )
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder) / "proposed.yaml"
        aside.write_text(text, encoding="utf-8")
        load_config(read_yaml(aside), "the proposed configuration")
    return text


def _quoted(path: Path) -> str:
    return yaml.safe_dump(str(path), width=1 << 20).removesuffix("...\n").strip()


def make_key() -> bytes:
    """Return a new secret key: 64 hexadecimal digits."""
    return (secrets.token_hex(KEY_BYTES) + "\n").encode()


def contents(proposal: Proposal, folder: Path, configuration: Path, text: str) -> dict[Path, bytes]:
    """Return the files to write with their content.

    Without boxes there is no table of findings, unless an earlier one has to be replaced.
    """
    files = {folder / IMAGES: proposal.images.to_csv(index=False, lineterminator="\n").encode()}
    if len(proposal.findings) or (folder / FINDINGS).exists():
        boxes = proposal.findings.to_csv(index=False, lineterminator="\n")
        files[folder / FINDINGS] = boxes.encode()
    files[configuration] = text.encode()
    return files


def check_output(configuration: Path) -> None:
    """Refuse a place for the configuration that can't be written, or whose name can't be a run's.

    Raises
    ------
    InputError
        If the folder is missing or the name is not fit. The message names the option.
    """
    if configuration.suffix not in {".yaml", ".yml"}:
        raise InputError(f"--output {configuration}: give a name that ends with .yaml")
    try:
        TypeAdapter(Name).validate_python(configuration.stem)
    except ValidationError:
        raise InputError(
            f"--output {configuration}: the name of the file becomes the name of the run; use at "
            "most 64 letters, digits, - and _, a letter or digit first"
        ) from None
    if not configuration.parent.is_dir():
        raise InputError(
            f"--output {configuration}: the folder {configuration.parent} is missing; make it, or "
            "give another place"
        )


def check_free(paths: list[Path], overwrite: bool) -> None:
    """Refuse to write over files, unless told.

    Raises
    ------
    InputError
        If files exist. The message names all of them.
    """
    there = [str(path) for path in paths if path.exists()]
    if there and not overwrite:
        what = "exists" if len(there) == 1 else "exist"
        raise InputError(
            f"{', '.join(there)} {what}; nothing is written; rename them, or write over them with "
            "--overwrite"
        )


def write_all(files: Mapping[Path, bytes], secret: Mapping[Path, bytes]) -> None:
    """Write all files or none.

    Each file is first written beside its place. If one can't be written or moved into its place,
    those that were moved get their earlier content again.

    Parameters
    ----------
    files
        Path -> content.
    secret
        Path -> content of files that only their owner may read.

    Raises
    ------
    InputError
        If a folder can't be written. The message names it.
    """
    every = {**files, **secret}
    aside = {path: path.with_name(f".{path.name}.partial") for path in every}
    before: dict[Path, bytes | None] = {}
    try:
        for path, content in every.items():
            mode = 0o600 if path in secret else 0o666
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with os.fdopen(os.open(aside[path], flags, mode), "wb") as stream:
                stream.write(content)
        for path in every:
            before[path] = path.read_bytes() if path.exists() else None
            aside[path].replace(path)
    except OSError as error:
        for path, earlier in before.items():
            if earlier is not None:
                path.write_bytes(earlier)
            elif not aside[path].exists():  # else it was not moved
                path.unlink(missing_ok=True)
        raise InputError(
            f"{error.filename}: {error.strerror}; nothing is written; get permission to write "
            "there, or make room"
        ) from None
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)
