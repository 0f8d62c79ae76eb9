"""The vocabulary: a file of phrases that may become names of latents.

The columns are `phrase`, `group` and `label`. Only `phrase` is required. The group `decoy` marks
phrases that describe no mammogram; they are never a name, and show how often a wrong phrase passes
the tests. A `label` is the category of a concept (`cohort.concepts`) or a column of the image table
with 0 and 1. The similarity of the images to the phrase is then compared with this column.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mammo_sae.cohorts.rows import table_rows
from mammo_sae.errors import InputError
from mammo_sae.texts.joint import DECOY

COLUMNS = ("phrase", "group", "label")


def read_vocabulary(path: Path) -> pd.DataFrame:
    """Return the columns `phrase`, `group` and `label`, as text, a row per phrase.

    The file is CSV as any common program saves it. Empty lines are skipped.

    Raises
    ------
    InputError
        If the file is missing or has a damaged line, lacks the column `phrase`, has an empty phrase
        or the same phrase twice, or has fewer than two phrases that are no decoys.
    """
    try:
        rows = table_rows(path.read_bytes(), ",")
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"vocabulary {path} can't be read ({reason}); correct text.vocabulary"
        ) from None
    if rows.header is None:
        raise InputError(f"vocabulary {path}: {rows.refused}")
    if "phrase" not in rows.header:
        raise InputError(f"{path} has no column phrase; name its columns {', '.join(COLUMNS)}")
    if rows.bad:
        line, reason = rows.bad[0]
        raise InputError(
            f"{path}, line {line}: {reason}; correct it, and put a phrase with a comma between "
            "quotation marks"
        )
    table = pd.DataFrame([cells for _, cells in rows.good], columns=rows.header, dtype=object)
    table = table.reindex(columns=list(COLUMNS), fill_value="")
    phrases = table["phrase"]
    if (phrases == "").any():
        line, _ = rows.good[int((phrases == "").to_numpy().argmax())]
        raise InputError(f"{path}, line {line}: the phrase is empty; write it or delete the line")
    if phrases.duplicated().any():
        twice = phrases[phrases.duplicated()].iloc[0]
        raise InputError(f"{path}: the phrase {twice!r} is there twice; delete one of them")
    table.loc[table["group"].str.casefold() == DECOY, "group"] = DECOY
    if (table["group"] != DECOY).sum() < 2:
        raise InputError(f"{path} has fewer than two phrases that are no decoys; add phrases")
    return table
