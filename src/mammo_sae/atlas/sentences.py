"""The sentences of the start page: what carries a concept, each with a link to its evidence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup, escape

from mammo_sae.analysis.cases import Identity
from mammo_sae.atlas.tables import Tables
from mammo_sae.report import style
from mammo_sae.report.verdicts import TOP
from mammo_sae.report.words import members, repeats, rests

LATENT = re.compile(r"\blatent (\d+) \(")


@dataclass(frozen=True)
class Sentence:
    """One sentence as HTML, and the page with its evidence."""

    html: Markup
    evidence: str


@dataclass(frozen=True)
class Finding:
    """What is known of a concept in one SAE. `first` marks those that a reader sees at once."""

    identity: Identity
    address: str
    control: bool
    first: bool
    sentences: list[Sentence]


def address(identity: Identity) -> str:
    """Return the part of a permalink that names an SAE."""
    return f"{identity.encoder}/{identity.layer}/{identity.sae}/{identity.seed}"


def linked(text: str, identity: Identity) -> Markup:
    """Return `text` as HTML in which every latent that is named is a link to its page."""
    parts: list[Markup] = []
    end = 0
    for found in LATENT.finditer(text):
        name = found[0].removesuffix(" (")
        link = Markup('<a href="latent.html#{}/{}">{}</a> (').format(
            address(identity), found[1], name
        )
        parts += [escape(text[end : found.start()]), link]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


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
            found.append(Finding(identity, address(identity), control, first, lines))
    return found


def _sentences(tables: Tables, identity: Identity, concept: str) -> Iterator[Sentence]:
    def rows(name: str) -> pd.DataFrame:
        return _of_concept(tables, name, identity, concept)

    verdicts = rows("verdicts")
    best = verdicts[verdicts["rank_auroc"] <= TOP].sort_values("rank_auroc")
    where = address(identity)
    for line in members(best, rows("replication")):
        yield Sentence(linked(line, identity), f"confounders.html#{where}")
    for line in repeats(rows("verdict_replication"), rows("verdict_stability")):
        yield Sentence(escape(line), f"layer.html#{where}")
    for line in rests(rows("reliance"), rows("ablation")):
        yield Sentence(escape(line), f"interventions.html#{where}")


def _of_concept(tables: Tables, name: str, identity: Identity, concept: str) -> pd.DataFrame:
    table = tables.of(name, identity)
    return table[table["concept"] == concept] if len(table) else table


def control_saes(tables: Tables) -> set[Identity]:
    """Return the SAEs that are controls of a trained one, from the table `controls`."""
    table = tables["controls"]
    names = set() if table.empty else set(zip(table["layer"], table["control"], strict=True))
    return {identity for identity in tables.saes() if (identity.layer, identity.sae) in names}
