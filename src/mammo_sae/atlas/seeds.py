"""Whether a latent exists in the SAEs of other seeds: its most similar latent there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mammo_sae.analysis.cases import Identity
from mammo_sae.analysis.verdict_stability import CLOSE
from mammo_sae.atlas.sentences import address
from mammo_sae.atlas.tables import Tables

NAMES = (
    *("sae", "latent", "cosine", "found_again", "share_of_all_latents_found_again"),
    *("verdict_here", "verdict_there"),
)


def other_seeds(
    tables: Tables,
    identity: Identity,
    others: Sequence[Identity],
    nearest: Mapping[int, Sequence[tuple[str, int, float]]],
) -> dict[int, dict[str, Any]]:
    """Return latent -> its most similar latent in the SAE of each other seed, as a table.

    The latent is found again if the cosine of both atoms is at least `CLOSE`. Beside it stands the
    share of all live latents that are (table `sae_stability`, which pairs latents one to one). The
    result is empty if the SAE has one seed.

    Parameters
    ----------
    others
        All SAEs of the same space.
    nearest
        Latent -> (SAE, latent, cosine), the largest cosine of an SAE first.
    """
    alike = [
        other
        for other in others
        if other != identity and replace(other, seed=identity.seed) == identity
    ]
    if not alike:
        return {}
    here = _verdicts(tables, identity)
    there = {other: _verdicts(tables, other) for other in alike}
    shares = {other: _share(tables, identity, other) for other in alike}
    found: dict[int, dict[str, Any]] = {}
    for latent, known in nearest.items():
        rows = []
        for other in alike:
            mine = [one for one in known if one[0] == address(other)]
            match, cosine = mine[0][1:] if mine else (None, None)
            again = cosine is not None and cosine >= CLOSE
            verdicts = here.get(latent), None if match is None else there[other].get(match)
            rows.append([address(other), match, cosine, again, shares[other], *verdicts])
        found[latent] = {"names": NAMES, "rows": rows}
    return found


def _verdicts(tables: Tables, identity: Identity) -> dict[int, str]:
    """Return latent -> its verdict for each concept, in words."""
    found: dict[int, list[str]] = {}
    for row in tables.of("verdicts", identity).to_dict("records"):
        found.setdefault(int(row["latent"]), []).append(f"{row['concept']}: {row['verdict']}")
    return {latent: ", ".join(parts) for latent, parts in found.items()}


def _share(tables: Tables, identity: Identity, other: Identity) -> float | None:
    """Return the share of latents that two seeds have in common; None without the table."""
    for one, two in ((identity, other), (other, identity)):
        rows = tables.of("sae_stability", one)
        if len(rows):
            mine = rows[rows["other_seed"] == two.seed]
            if len(mine):
                return float(mine[f"share_above_{CLOSE}"].iloc[0])
    return None
