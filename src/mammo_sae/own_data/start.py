"""Look at a person's folder, say what is there, and write the tables and a configuration."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from mammo_sae.cohorts.pseudonyms import LEAST_KEY_BYTES, Pseudonyms
from mammo_sae.cohorts.table import FINDINGS, IMAGES
from mammo_sae.errors import InputError
from mammo_sae.own_data.proposal import propose
from mammo_sae.own_data.scan import scan
from mammo_sae.own_data.summary import found_lines, proposal_lines
from mammo_sae.own_data.written import (
    check_free,
    check_output,
    config_text,
    contents,
    make_key,
    write_all,
)


def start(folder: Path, asked: Mapping[str, str], configuration: Path, overwrite: bool) -> None:
    """Print what a folder holds and how it is read, then write the files.

    Parameters
    ----------
    folder
        The folder of image files and tables.
    asked
        Role or label -> name of its column.
    configuration
        The configuration to write. The key of the pseudonyms is beside it, with the suffix `.key`.
    overwrite
        Whether existing tables and configuration may be written over. A key is never.

    Raises
    ------
    InputError
        If something needed is missing or not certain. Nothing is written then.
    """
    key_file = configuration.with_suffix(".key")
    check_output(configuration)
    check_free([folder / IMAGES, folder / FINDINGS, configuration], overwrite)
    key = key_file.read_bytes() if key_file.exists() else make_key()
    if len(key.strip()) < LEAST_KEY_BYTES:
        raise InputError(
            f"{key_file} is shorter than a key of {LEAST_KEY_BYTES} bytes; move it, and a new key "
            "is made"
        )
    found = scan(folder, (IMAGES, FINDINGS))
    for line in found_lines(found):
        print(line)
    proposal = propose(found, asked, Pseudonyms(key.strip()))
    print()
    for line in proposal_lines(proposal):
        print(line)
    text = config_text(proposal, configuration.stem, folder, key_file)
    files = contents(proposal, folder, configuration, text)
    write_all(files, {} if key_file.exists() else {key_file: key})
    print(f"\nwritten: {', '.join(map(str, files))}")
    print(f"the key of the pseudonyms is {key_file}; keep it, and give it to nobody")
    word = shlex.quote(str(configuration))
    print(
        f"next: `python -m mammo_sae doctor {word} --pixels` says what would be refused, and "
        f"`python -m mammo_sae run {word} --report` leads to the report"
    )
