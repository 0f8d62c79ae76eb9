"""The vocabulary: a file of phrases that may become names of latents.

The columns are `phrase`, `group` and `label`. Only `phrase` is required. The group `decoy` marks
phrases that describe no mammogram; they are never a name, and show how often a wrong phrase passes
the tests. A `label` is the category of a concept (`cohort.concepts`) or a column of the image table
with 0 and 1. The similarity of the images to the phrase is then compared with this column.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mammo_sae.errors import InputError
from mammo_sae.stores.tables import read_table

DECOY = "decoy"
COLUMNS = ("phrase", "group", "label")


def read_vocabulary(path: Path) -> pd.DataFrame:
    """Return the columns `phrase`, `group` and `label`, as text, a row per phrase.

    Raises
    ------
    InputError
        If the file is missing, lacks the column `phrase`, has an empty phrase or the same phrase
        twice, or has fewer than two phrases that are no decoys.
    """
    table = read_table(path)
    if "phrase" not in table:
        raise InputError(f"{path} has no column phrase; name its columns {', '.join(COLUMNS)}")
    table = table.reindex(columns=list(COLUMNS)).astype(object)
    table = table.where(table.notna(), "").astype(str).apply(lambda column: column.str.strip())
    phrases = table["phrase"]
    if (phrases == "").any():
        row = int((phrases == "").to_numpy().argmax()) + 2
        raise InputError(f"{path}, line {row}: the phrase is empty; write it or delete the line")
    if phrases.duplicated().any():
        twice = phrases[phrases.duplicated()].iloc[0]
        raise InputError(f"{path}: the phrase {twice!r} is there twice; delete one of them")
    if (table["group"] != DECOY).sum() < 2:
        raise InputError(f"{path} has fewer than two phrases that are no decoys; add phrases")
    return table
