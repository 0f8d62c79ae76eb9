"""How often latents keep their verdicts, in SAEs of other seeds or on images of other patients."""

from __future__ import annotations

import numpy as np
import pandas as pd

ALL = "all"  # all verdicts of associated latents together


def kept_verdicts(own: pd.Series, found: pd.Series) -> pd.DataFrame:
    """Return a row per verdict, and one for all of them.

    Parameters
    ----------
    own
        Verdict of each associated latent (the index).
    found
        The verdict with which it is compared, in the same order; missing if there is none.

    Returns
    -------
    table
        ``latents`` have the verdict, and ``tested`` of them have one to compare with. ``repeated``
        of these have the same verdict. ``share`` is ``repeated`` / ``tested``, and ``chance`` is
        its expectation if the verdicts in `found` were permuted.
    """
    tested = found.notna().to_numpy()
    frequency = found[tested].value_counts(normalize=True)
    same = (own == found).to_numpy() & tested
    rows = []
    for verdict in (ALL, *sorted(own.unique())):
        mine = np.ones(len(own), bool) if verdict == ALL else (own == verdict).to_numpy()
        here = mine & tested
        expected = own[here].map(frequency).fillna(0.0)
        count, kept = int(here.sum()), int((same & mine).sum())
        rows.append(
            {
                "verdict": verdict,
                "latents": int(mine.sum()),
                "tested": count,
                "repeated": kept,
                "share": kept / count if count else np.nan,
                "chance": float(expected.mean()) if count else np.nan,
            }
        )
    return pd.DataFrame(rows)
