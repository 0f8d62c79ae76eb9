"""Step: compare verdicts with the ground truth of a phantom.

The ground truth is an experiment: the pairs of images that differ in one finding or artefact (the
step `responses`). A latent *responds* to a finding or artefact if its mean response is at least
`least_response` standard deviations, in either direction, and the interval of the response does not
contain 0. It responds *weakly* if the response is smaller than that and at least `weak_response`.
The truth of a latent that is associated with the concept is

====================  ====================  ====================================
..                    responds to concept   does not
====================  ====================  ====================================
to an artefact        ``both``              the artefact with the largest response
weakly to one         ``unclear``           ``unclear``
to no artefact        ``clean``             ``neither``
====================  ====================  ====================================

Only the artefacts that are associated with the concept (`planted`) count as artefacts here. A
latent is *called* for an artefact if its verdict for it is confounded or mixed. Both mean that its
association with the concept may come from the artefact. Verdicts use no image of the pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from mammo_sae.analysis import cases as case
from mammo_sae.analysis.verdict import CONFOUNDED, MIXED, associated
from mammo_sae.phantom.settings import COMPONENTS
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import TruthSettings

CALLED = (CONFOUNDED, MIXED)
CLEAN, BOTH, NEITHER, UNCLEAR = "clean", "both", "neither", "unclear"


def run(
    settings: TruthSettings,
    *,
    identity: case.Identity,
    responses: Path,
    confounds: Path,
    component: str,
    output: Path,
) -> list[Path]:
    """Write one SAE's truth table: recall, precision and false-positive rate of its verdicts.

    Parameters
    ----------
    responses, confounds
        Tables of the same SAE, written by the steps of these names.
    component
        The finding of the phantom that is the concept of the settings.
    output
        Table to write (.parquet), see `summary`.
    """
    truth = ground_truth(settings, read_table(responses), read_table(confounds), component)
    write_table(identity.label(summary(settings, truth)), output)
    return [output]


def ground_truth(
    settings: TruthSettings, responses: pd.DataFrame, confounds: pd.DataFrame, component: str
) -> pd.DataFrame:
    """Return one row per latent that is associated with the concept: its responses and its calls.

    Columns: latent, ``responds_concept``; for each artefact c of the settings ``responds_c``,
    ``responds_weakly_c`` (at least weakly) and ``called_c``; ``called`` (for any planted artefact)
    and ``truth`` (see the module).
    """
    judged = associated(confounds[confounds["concept"] == settings.concept])
    chosen = np.unique(judged["latent"].to_numpy(dtype=np.int64))
    size = _sizes(responses, chosen)
    least, weak = settings.least_response, settings.weak_response
    result = pd.DataFrame({"latent": chosen, "responds_concept": size[component] >= least})
    for name, artefact in {**settings.planted, **settings.controls}.items():
        result[f"responds_{name}"] = size[artefact] >= least
        result[f"responds_weakly_{name}"] = size[artefact] >= weak
        verdicts = judged[judged["confounder"] == name].set_index("latent")["verdict"]
        result[f"called_{name}"] = verdicts.reindex(chosen).isin(CALLED).to_numpy()
    result["called"] = result[[f"called_{name}" for name in settings.planted]].any(axis=1)
    planted = np.stack([size[artefact] for artefact in settings.planted.values()], axis=1)
    largest = planted.max(axis=1)
    strongest = np.array(list(settings.planted), dtype=object)[planted.argmax(axis=1)]
    alone = np.select([largest >= least, largest >= weak], [strongest, UNCLEAR], NEITHER)
    beside = np.select([largest >= least, largest >= weak], [BOTH, UNCLEAR], CLEAN)
    result["truth"] = np.where(result["responds_concept"], beside, alone)
    return result


def _sizes(responses: pd.DataFrame, latents: np.ndarray) -> dict[str, np.ndarray]:
    """Return component -> [m]: the size of each latent's response, 0 if its interval contains 0."""
    one_sign = responses["response_low"] * responses["response_high"] > 0
    size = responses["response"].abs().where(one_sign, 0.0)
    table = responses.assign(size=size).pivot(index="latent", columns="component", values="size")
    table = table.reindex(index=latents, columns=COMPONENTS, fill_value=0.0).fillna(0.0)
    return {name: table[name].to_numpy() for name in COMPONENTS}


def summary(settings: TruthSettings, truth: pd.DataFrame) -> pd.DataFrame:
    """Return the table: for each artefact and measure the share, its counts and its interval.

    ``recall``
        Share called for the artefact among the latents that respond to it and not to the concept;
        in the row ``any``, the share called for any planted artefact among the latents that respond
        to one and not to the concept.
    ``precision``
        Share that responds to the artefact, at least weakly, among the latents called for it; in
        the row ``any``, to any planted artefact. They may respond to the concept too.
    ``false_positive_rate``
        Share called among the clean latents; for a control, which is not associated with the
        concept, among all latents that do not respond to it, not even weakly.
    ``both_called``
        Share called for any planted artefact among the latents that respond to the concept and to a
        planted artefact. Either verdict is defensible for them.

    Intervals are Clopper-Pearson intervals over latents.
    """
    rows = []
    clean = truth["truth"] == CLEAN
    of_any = truth[[f"responds_{name}" for name in settings.planted]].any(axis=1)
    weakly = truth[[f"responds_weakly_{name}" for name in settings.planted]].any(axis=1)
    for name in (*settings.planted, *settings.controls, "any"):
        role = "null" if name in settings.controls else "planted"
        called = truth["called"] if name == "any" else truth[f"called_{name}"]
        responds = weakly if name == "any" else truth[f"responds_weakly_{name}"]
        if role == "null":
            group = f"associated latent does not respond to {name}"
            rows.append((name, role, "false_positive_rate", *_share(called[~responds], group)))
            continue
        mine = ~truth["responds_concept"] & of_any if name == "any" else truth["truth"] == name
        what = "a planted artefact" if name == "any" else name
        group = f"associated latent responds to {what} and not to the concept"
        rows.append((name, role, "recall", *_share(called[mine], group)))
        group = f"associated latent is called for {what}"
        rows.append((name, role, "precision", *_share(responds[called], group)))
        group = "associated latent responds to the concept and to no artefact"
        rows.append((name, role, "false_positive_rate", *_share(called[clean], group)))
    group = "associated latent responds to the concept and to an artefact"
    both = truth["called"][truth["truth"] == BOTH]
    rows.append(("any", "planted", "both_called", *_share(both, group)))
    columns = ["confounder", "role", "measure", "latents", "hits", "value", "low", "high"]
    result = pd.DataFrame(rows, columns=[*columns, "reason"])
    result.insert(0, "concept", settings.concept)
    result.insert(1, "associated_latents", len(truth))
    return result


def _share(hit: pd.Series, group: str) -> tuple[int, int, float, float, float, str]:
    n, k = len(hit), int(hit.sum())
    if not n:
        return 0, 0, np.nan, np.nan, np.nan, f"no {group}"
    interval = binomtest(k, n).proportion_ci()
    return n, k, k / n, float(interval.low), float(interval.high), ""
