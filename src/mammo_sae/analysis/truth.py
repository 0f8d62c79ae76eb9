"""Step: compare verdicts with the ground truth of a phantom.

The ground truth comes from pairs of images that differ in one finding or artefact (the step
`responses`). A response counts only if its interval does not contain 0. A latent *responds* to a
finding or artefact if its response is at least `least_response` standard deviations, in either
direction. It responds *weakly* if the response is smaller and at least `weak_response`. Only
latents that are associated with the concept have a truth:

====================  ====================  ====================================
..                    responds to concept   does not respond to concept
====================  ====================  ====================================
to an artefact        ``both``              the artefact with the largest response
only weakly           ``unclear``           ``unclear``
to no artefact        ``clean``             ``neither``
====================  ====================  ====================================

The rows of the table count only the artefacts that are associated with the concept (`planted`). A
latent is *called* for an artefact if its verdict for this confounder is confounded or mixed. Both
verdicts mean that its association with the concept may come from the artefact. The verdicts are
computed without the images of the pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae.analysis import cases as case
from mammo_sae.analysis.verdict import CONFOUNDED, INSUFFICIENT, MIXED, associated
from mammo_sae.phantom.settings import COMPONENTS
from mammo_sae.proportions import clopper_pearson
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
        The finding of the phantom that the concept `settings.concept` describes.
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

    Columns: ``latent`` and ``responds_concept``. For each confounder c of the settings,
    ``responds_c``, ``responds_weakly_c`` (true also if the latent responds more than weakly),
    ``called_c`` and ``tested_c`` (whether a latent was tested for c; the same for all latents).
    ``called``: for any planted artefact. ``truth``: see the module.
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
        result[f"tested_{name}"] = bool((verdicts != INSUFFICIENT).any())
    result["called"] = result[[f"called_{name}" for name in settings.planted]].any(axis=1)
    planted = np.stack([size[artefact] for artefact in settings.planted.values()], axis=1)
    largest = planted.max(axis=1)
    strongest = np.array(list(settings.planted), dtype=object)[planted.argmax(axis=1)]
    alone = np.select([largest >= least, largest >= weak], [strongest, UNCLEAR], NEITHER)
    beside = np.select([largest >= least, largest >= weak], [BOTH, UNCLEAR], CLEAN)
    result["truth"] = np.where(result["responds_concept"], beside, alone)
    return result


def _sizes(responses: pd.DataFrame, latents: np.ndarray) -> dict[str, np.ndarray]:
    """Return component -> size of each latent's response, [m]; 0 if the interval contains 0."""
    one_sign = responses["response_low"] * responses["response_high"] > 0
    size = responses["response"].abs().where(one_sign, 0.0)
    table = responses.assign(size=size).pivot(index="latent", columns="component", values="size")
    table = table.reindex(index=latents, columns=COMPONENTS, fill_value=0.0).fillna(0.0)
    return {name: table[name].to_numpy() for name in COMPONENTS}


def summary(settings: TruthSettings, truth: pd.DataFrame) -> pd.DataFrame:
    """Return the table: for each artefact and measure the share, its counts and its interval.

    ``recall``
        Among the latents that do not respond to the concept and respond to the artefact more than
        to any other planted artefact: the share called for the artefact.
    ``precision``
        Among the latents called for the artefact: the share that responds to it, at least weakly.
        These latents may also respond to the concept.
    ``false_positive_rate``
        Among the clean latents: the share called for the artefact. Controls are artefacts that are
        not associated with the concept. For a control: the share called for the control among all
        latents without a response to it, not even a weak one.
    ``both_called``
        Among the latents that respond to the concept and to a planted artefact: the share called
        for any planted artefact. For these latents, being called and not being called are both
        defensible.

    In the row ``any``, a response to any planted artefact and a call for any of them count.
    If no latent was tested for an artefact, its rows and those of ``any`` have a reason in place of
    a share.

    Intervals are Clopper-Pearson intervals over latents.
    """
    rows = []
    clean = truth["truth"] == CLEAN
    of_any = truth[[f"responds_{name}" for name in settings.planted]].any(axis=1)
    weakly = truth[[f"responds_weakly_{name}" for name in settings.planted]].any(axis=1)
    for name in (*settings.planted, *settings.controls, "any"):
        role = "control" if name in settings.controls else "planted"
        called = truth["called"] if name == "any" else truth[f"called_{name}"]
        responds = weakly if name == "any" else truth[f"responds_weakly_{name}"]
        if role == "control":
            group = f"associated latent is without a response to {name}"
            rows.append((name, role, "false_positive_rate", *_share(called[~responds], group)))
            continue
        mine = ~truth["responds_concept"] & of_any if name == "any" else truth["truth"] == name
        what = "a planted artefact" if name == "any" else name
        most = what if name == "any" else f"{name} more than to other artefacts"
        group = f"associated latent responds to {most} and not to the concept"
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
    for name in (*settings.planted, *settings.controls):
        if not truth[f"tested_{name}"].all():
            of = [name, "any"] if name in settings.planted else [name]
            here = result["confounder"].isin(of)
            result.loc[here, ["value", "low", "high"]] = np.nan
            result.loc[here, "reason"] = f"no latent was tested for {name}; see the table confounds"
    result.insert(0, "concept", settings.concept)
    result.insert(1, "associated_latents", len(truth))
    return result


def _share(hit: pd.Series, group: str) -> tuple[int, int, float, float, float, str]:
    n, k = len(hit), int(hit.sum())
    if not n:
        return 0, 0, np.nan, np.nan, np.nan, f"no {group}"
    return n, k, k / n, *clopper_pearson(k, n), ""
