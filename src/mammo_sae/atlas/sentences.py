"""The sentences of the start page: what carries a concept, each with a link to its evidence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mammo_sae.analysis.cases import Identity
from mammo_sae.analysis.verdict import probability
from mammo_sae.atlas.tables import Tables
from mammo_sae.errors import counted
from mammo_sae.report import style
from mammo_sae.report.verdicts import TOP
from mammo_sae.report.words import NAMED, members, repeats, rests

NAMES = re.compile(r": latent \d+ \(")  # where a sentence starts to name latents


@dataclass(frozen=True)
class Sentence:
    """One sentence, and the page with its evidence."""

    text: str
    evidence: str


@dataclass(frozen=True)
class Best:
    """A latent that ranks first for a concept. Texts are empty if a value is missing."""

    latent: int
    name: str
    auroc: str
    q: str
    verdict: str
    confounders: str
    where: str
    again: str


@dataclass(frozen=True)
class Finding:
    """What is known of a concept in one SAE. `first` marks those that a reader sees at once."""

    identity: Identity
    address: str
    control: bool
    first: bool
    sentences: list[Sentence]
    best: list[Best]


def address(identity: Identity) -> str:
    """Return the part of a permalink that names an SAE."""
    return f"{identity.encoder}/{identity.layer}/{identity.sae}/{identity.seed}"


def findings(tables: Tables, concept: str) -> list[Finding]:
    """Return what is known of a concept's best latents in each SAE that was judged.

    The last layer comes first, and controls come last. The sentences are those of `report.words`.
    """
    found = []
    layers = style.layer_order(tables["latents"]["layer"].unique())
    controls = control_saes(tables)

    def place(identity: Identity) -> tuple[bool, int]:
        return identity in controls, -layers.index(identity.layer)

    for identity in sorted(tables.saes(), key=place):
        verdicts = _of_concept(tables, "verdicts", identity, concept)
        if len(verdicts):
            lines = list(_sentences(tables, identity, concept))
            control = identity in controls
            first = not control and identity.layer == layers[-1]
            again = _of_concept(tables, "replication", identity, concept)
            best = _best(verdicts, again, tables.of("names", identity))
            found.append(Finding(identity, address(identity), control, first, lines, best))
    return found


def _sentences(tables: Tables, identity: Identity, concept: str) -> Iterator[Sentence]:
    def rows(name: str) -> pd.DataFrame:
        return _of_concept(tables, name, identity, concept)

    where = address(identity)
    for line in members(_first(rows("verdicts")), rows("replication")):
        # The page has the latents that the sentence names as a table.
        yield Sentence(f"{NAMES.split(line)[0].rstrip('.')}.", f"confounders.html#{where}")
    for line in _named(_first(rows("verdicts")), tables.of("names", identity), concept):
        yield Sentence(line, f"layer.html#{where}")
    for line in repeats(rows("verdict_replication"), rows("verdict_stability")):
        yield Sentence(line, f"layer.html#{where}")
    for line in rests(rows("reliance"), rows("ablation")):
        yield Sentence(line, f"interventions.html#{where}")


def _named(best: pd.DataFrame, names: pd.DataFrame, concept: str) -> Iterator[str]:
    """Yield a sentence on the names of the latents that rank first, if the run has names."""
    if names.empty:
        return
    here = names[names["latent"].isin(best["latent"]) & (names["name"] != "")]
    line = f"{len(here)} of the {counted(len(best), 'first latent')} got a name in words"
    same = int((here["label"] == concept).sum())
    if same:
        line += f", and {same} got a phrase for {style.words(concept)}"
    yield f"{line}."


def untested(tables: Tables, concept: str) -> str:
    """Return why no latent has a rank for a concept, or an empty text."""
    rows = tables["latents"]
    rows = rows[rows["concept"] == concept]
    if rows["rank_auroc"].notna().any() or "reason" not in rows:
        return ""
    return next((str(reason) for reason in rows["reason"] if reason), "")


def _first(verdicts: pd.DataFrame) -> pd.DataFrame:
    return verdicts[verdicts["rank_auroc"] <= TOP].sort_values("rank_auroc")


def _best(verdicts: pd.DataFrame, replication: pd.DataFrame, names: pd.DataFrame) -> list[Best]:
    found = []
    named = dict(zip(names["latent"], names["name"], strict=True)) if len(names) else {}
    for row in _first(verdicts).to_dict("records"):
        again = replication
        if len(replication):
            again = replication[replication["latent"] == row["latent"]]
        causes = row["confounders"] if row["verdict"] in NAMED else ""
        found.append(
            Best(
                latent=int(row["latent"]),
                name=named.get(row["latent"], ""),
                auroc=style.estimate(row["auroc"], row["auroc_low"], row["auroc_high"]),
                q="" if pd.isna(row["q"]) else probability(row["q"]),
                verdict=str(row["verdict"]),
                confounders=style.words(str(causes)),
                where="" if pd.isna(row["where"]) else str(row["where"]).removeprefix("where: "),
                again="; ".join(_again(other) for other in again.to_dict("records")),
            )
        )
    return found


def _again(row: Mapping[str, Any]) -> str:
    auroc = style.estimate(row["split_auroc"], row["split_auroc_low"], row["split_auroc_high"])
    return f"{row['split']}: {auroc}, {row['split_verdict']}"


def _of_concept(tables: Tables, name: str, identity: Identity, concept: str) -> pd.DataFrame:
    table = tables.of(name, identity)
    return table[table["concept"] == concept] if len(table) else table


def control_saes(tables: Tables) -> set[Identity]:
    """Return the SAEs that are controls of a trained one, from the table `controls`."""
    table = tables["controls"]
    names = set() if table.empty else set(zip(table["layer"], table["control"], strict=True))
    return {identity for identity in tables.saes() if (identity.layer, identity.sae) in names}
