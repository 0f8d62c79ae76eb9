"""Step: compare each trained SAE with its controls, dictionaries that were not learnt.

A difference between a trained SAE and a control has an interval that is computed from the intervals
of both (`proportions.interval_of_difference`). The trained SAE *wins* if this interval lies on the
better side of 0, *loses* if it lies on the other side, and *does not differ* if it contains 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.analysis.verdict import ALIGNED, CONFOUNDED, associated
from mammo_sae.proportions import clopper_pearson, interval_of_difference
from mammo_sae.report.verdicts import ON, TOP
from mammo_sae.stores.tables import read_table, write_table

WINS, LOSES, EQUAL, UNKNOWN = "wins", "loses", "does not differ", "not estimable"
# Measures of which a lower value is better.
LOWER = {"share_confounded", "auroc_off"}
COLUMNS = [
    *("encoder", "layer", "concept", "trained", "control", "analysis", "measure", "k", "split"),
    *("better", "trained_value", "trained_low", "trained_high"),
    *("control_value", "control_low", "control_high"),
    *("difference", "difference_low", "difference_high", "outcome", "reason"),
]


@dataclass(frozen=True)
class Value:
    """A value of one SAE with its interval; NaN with a reason if it is not estimable."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    reason: str = ""


# Analysis, measure, k or None, split or "" (the confirmation split).
Key = tuple[str, str, int | None, str]
Values = dict[Key, Value]  # of one SAE and one concept


def run(
    *,
    probes: Path,
    latents: Path,
    alignment: Path,
    verdicts: Path,
    control_saes: Sequence[str],
    csv: Path,
    parquet: Path,
    interventions: Path | None = None,
) -> list[Path]:
    """Compare each trained SAE with the controls of the same encoder and layer, first seeds only.

    Parameters
    ----------
    probes, latents, alignment, verdicts
        Tables of all SAEs.
    control_saes
        The controls among the SAEs, each as layer/name.
    csv, parquet
        The table to write: encoder, layer, concept, names of the trained SAE and the control,
        analysis, measure, k, split (empty: the confirmation split of the analysis), better (higher
        or lower), values and intervals of both, difference (trained - control) and its interval,
        outcome, reason.
    interventions
        Table of all SAEs at the layers with interventions. None: the run has no such layer.
    """
    tables = {
        "probes": read_table(probes),
        "latents": read_table(latents),
        "alignment": read_table(alignment),
        "verdicts": read_table(verdicts),
    }
    if interventions is not None:
        tables["interventions"] = read_table(interventions)
    table = compared(tables, control_saes)
    write_table(table, csv)
    write_table(table, parquet)
    return [csv, parquet]


def compared(tables: dict[str, pd.DataFrame], controls: Sequence[str]) -> pd.DataFrame:
    """Return the table of comparisons, see `run`. `tables` has the tables by name."""
    latents = tables["latents"]
    first = latents.groupby(["encoder", "layer", "sae"])["seed"].min()
    rows = []
    for (encoder, layer, trained), seed in first.items():
        if f"{layer}/{trained}" in controls:
            continue
        for (other, place, control), control_seed in first.items():
            if (other, place) != (encoder, layer) or f"{layer}/{control}" not in controls:
                continue
            for concept in sorted(latents["concept"].unique()):
                pair = (
                    values(tables, (encoder, layer, name, number), concept)
                    for name, number in ((trained, seed), (control, control_seed))
                )
                start = [encoder, layer, concept, trained, control]
                rows += [[*start, *row] for row in _rows(*pair)]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"k": "Int32"})


def values(tables: dict[str, pd.DataFrame], sae: tuple[str, str, str, int], concept: str) -> Values:
    """Return the measures of one SAE (encoder, layer, name, seed) for one concept."""
    mine = {name: _of(table, sae) for name, table in tables.items()}
    result: Values = {}
    for key, value in (
        *_probing(mine["probes"], concept),
        *_best(mine["latents"], mine["alignment"], concept),
        *_verdicts(mine["verdicts"], concept),
        *(_interventions(mine["interventions"], concept) if "interventions" in mine else ()),
    ):
        result[key] = value
    return result


def _rows(trained: Values, control: Values) -> Iterator[list[object]]:
    """Yield the rest of a row for each measure that both SAEs have."""
    for key in trained:
        if key not in control:
            continue
        _, measure, k, _ = key
        one, other = trained[key], control[key]
        better = "lower" if measure in LOWER else "higher"
        outcome, difference, low, high, reason = outcome_of(one, other, better)
        yield [
            *(key[0], measure, k, key[3], better),
            *(one.value, one.low, one.high, other.value, other.low, other.high),
            *(difference, low, high, outcome, reason),
        ]


def outcome_of(trained: Value, control: Value, better: str) -> tuple[str, float, float, float, str]:
    """Return (outcome, difference, its interval's low and high, reason) of one comparison."""
    for name, one in (("trained", trained), ("control", control)):
        if np.isnan([one.value, one.low, one.high]).any():
            difference = trained.value - control.value
            return UNKNOWN, difference, np.nan, np.nan, f"{name}: {one.reason or 'no interval'}"
    low, high = interval_of_difference(
        (trained.value, trained.low, trained.high), (control.value, control.low, control.high)
    )
    outcome = EQUAL
    if low > 0 or high < 0:
        outcome = WINS if (low > 0) == (better == "higher") else LOSES
    return outcome, trained.value - control.value, low, high, ""


def _of(table: pd.DataFrame, sae: tuple[str, str, str, int]) -> pd.DataFrame:
    for column, value in zip(("encoder", "layer", "sae", "seed"), sae, strict=True):
        table = table[table[column] == value]
    return table


def _value(row: pd.Series, column: str) -> Value:
    value, low, high = (float(row[name]) for name in (column, f"{column}_low", f"{column}_high"))
    return Value(value, low, high, str(row["reason"]))


def _probing(probes: pd.DataFrame, concept: str) -> Iterator[tuple[Key, Value]]:
    """Yield the AUROCs of the probes on codes: k latents, and L2 on all latents."""
    rows = probes[
        (probes["kind"] == "concept")
        & (probes["target"] == concept)
        & (probes["level"] == "1")
        & (probes["features"] == "codes")
        & (probes["split"] != "training")
    ]
    for _, row in rows[rows["probe"] == "sparse"].iterrows():
        yield ("probing", "auroc_sparse", int(row["k"]), row["split"]), _value(row, "auroc")
    for _, row in rows[rows["probe"] == "l2"].iterrows():
        yield ("probing", "auroc_l2", None, row["split"]), _value(row, "auroc")


def _best(
    latents: pd.DataFrame, alignment: pd.DataFrame, concept: str
) -> Iterator[tuple[Key, Value]]:
    """Yield the AUROC, the energy lift and the pooled IoU of the best latent by discovery AUROC."""
    best = latents[(latents["concept"] == concept) & (latents["rank_auroc"] == 1)]
    none = "no latent is ranked in the discovery split"
    auroc = _value(best.iloc[0], "auroc") if len(best) else Value(reason=none)
    yield ("latents", "auroc_best", None, ""), auroc
    aligned = alignment[
        (alignment["concept"] == concept)
        & (alignment["selection"] == "ranked")
        & alignment["latent"].isin(best["latent"])
    ]
    none = "the location of the best latent was not tested"
    for measure in ("energy_lift", "pooled_iou"):
        found = _value(aligned.iloc[0], measure) if len(aligned) else Value(reason=none)
        yield ("alignment", measure, None, ""), found


def _verdicts(verdicts: pd.DataFrame, concept: str) -> Iterator[tuple[Key, Value]]:
    """Yield the share of the best latents on the lesion, and shares of verdicts."""
    rows = verdicts[verdicts["concept"] == concept]
    top = rows[(rows["rank_auroc"] <= TOP) & (rows["where"] != "")]
    none = "the location of no top latent can be estimated"
    yield ("alignment", "share_on_lesion", TOP, ""), _share(top["where"] == ON, none)
    judged = associated(rows.rename(columns={"auroc": "concept_auroc"}))
    none = "no tested latent is associated with the concept"
    for measure, word in (("share_aligned", ALIGNED), ("share_confounded", CONFOUNDED)):
        yield ("confounds", measure, None, ""), _share(judged["verdict"] == word, none)


def _share(hit: pd.Series, none: str) -> Value:
    if not len(hit):
        return Value(reason=none)
    return Value(float(hit.mean()), *clopper_pearson(int(hit.sum()), len(hit)))


def _interventions(edits: pd.DataFrame, concept: str) -> Iterator[tuple[Key, Value]]:
    """Yield the AUROCs of predictions with the best k latents by AUROC kept, and dropped."""
    rows = edits[
        (edits["concept"] == concept)
        & (edits["ranking"] == "auroc")
        & (edits["selection"] == "ranked")
        & (edits["splice"] == "spliced")
        & (edits["split"] != "training")
        & (edits["k"] > 0)
    ]
    for _, row in rows.iterrows():
        key = ("interventions", f"auroc_{row['mode']}", int(row["k"]), row["split"])
        yield key, _value(row, "auroc")
