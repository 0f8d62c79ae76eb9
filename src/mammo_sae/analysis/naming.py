"""Step: name the latents of an SAE in words, and test every name.

Which phrase a latent gets is decided on the discovery split:

- ``direction``: for the SAE of the joint space's own encoder, where its features are linear in the
  codes. A code moves the image by W d_t, the projection of its atom, exactly; the score of a phrase
  is the cosine of W d_t with the phrase's vector, minus the mean of the vocabulary.
- ``images``: for all others. The score is soft-WPMI over the images (`mammo_sae.analysis.wpmi`),
  with the image embeddings of the joint space's encoder.

Whether it may be called so is decided on other patients. Two null hypotheses must be rejected, and
p is the larger of both p-values (a union of null hypotheses, Berger 1982):

- ``p_chance``: the latent's direction in the joint space is no nearer to the phrase than random
  directions are to their nearest phrase. Any latent is associated with any phrase a little.
- ``p_images``: the latent's score is independent of whether an image is among those most similar to
  the phrase. Patients are exchanged (`mammo_sae.analysis.exchange`).

Every latent is tested with its best phrase and with its best decoy. The family of q are all latents
with both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis.joint_images import (
    associations,
    chance,
    cosine_blocks,
    embedded_images,
    mean_vector,
)
from mammo_sae.analysis.mean_codes import MeanCodes
from mammo_sae.analysis.phrase_images import PhraseTests, similarities, zero_shot
from mammo_sae.analysis.wpmi import best_images, log_likelihoods, phrase_probabilities
from mammo_sae.regression.features import DenseRows
from mammo_sae.sae.files import read_decoder
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import write_table
from mammo_sae.texts.joint import Joint, load_joint

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import NamingSettings

DIRECTION, IMAGES = "direction", "images"
KINDS = 2  # of phrases that every latent is tested with: phrases and decoys
KEPT = ("auroc", "auroc_low", "auroc_high")


def run(
    settings: NamingSettings,
    *,
    identity: case.Identity,
    images: Path,
    codes: Path,
    phrases: Path,
    vectors: Path,
    embeddings: Sequence[Path],
    labels: Mapping[str, str],
    names: Path,
    by_phrase: Path,
    sae: Path | None = None,
) -> list[Path]:
    """Name the latents of an SAE by phrases, with a test of every name.

    Parameters
    ----------
    images
        Image table.
    codes
        Manifest of the SAE's codes.
    phrases, vectors
        Files that the step `embed_phrases` wrote.
    embeddings
        Manifests of the embeddings of the joint space's encoder, at the layer `pooled`.
    labels
        Concept of the image table -> its category, which the vocabulary names as a label.
    names
        Table to write (.parquet): a row per latent.
    by_phrase
        Table to write (.parquet): a row per phrase.
    sae
        `sae.json` of the SAE, if its atoms are directions of the joint space's features. None: the
        latents are named by images alone.

    Raises
    ------
    InputError
        If the phrases are of another space than the embeddings.
    """
    joint = load_joint(phrases, vectors)
    reader = CodesReader(codes)
    cases = case.read_cases(images, reader.image_ids)
    found, tested = (
        Images.of(reader, cases, split, settings.score, joint, embeddings, names.parent)
        for split in (settings.discovery, settings.confirmation)
    )
    atoms = None if sae is None else read_decoder(sae)[0]
    latents = describe(settings, joint, found, tested, atoms)
    similarity = similarities(tested.embedded, joint.contrasts, names.parent)
    tests = PhraseTests(settings, similarity, tested.scores, tested.patients, tested.sides)
    known = zero_shot(settings, joint.table, similarity, cases.iloc[tested.rows], labels)
    table = name_latents(settings, joint, latents, tests, known)
    table.insert(1, "method", IMAGES if sae is None else DIRECTION)
    write_table(identity.label(table), names)
    write_table(identity.label(count_phrases(settings, joint, table, known)), by_phrase)
    return [names, by_phrase]


@dataclass(frozen=True)
class Images:
    """The n images of a split.

    Attributes
    ----------
    rows : [n]
        Their positions among the images of the codes.
    scores : n images, h latents
        The latents' scores.
    embedded : n images, d dimensions
        The images in the joint space.
    patients, sides : [n]
    """

    rows: np.ndarray
    scores: MeanCodes
    embedded: DenseRows
    patients: np.ndarray
    sides: np.ndarray

    @classmethod
    def of(
        cls,
        reader: CodesReader,
        cases: pd.DataFrame,
        split: str,
        score: str,
        joint: Joint,
        embeddings: Sequence[Path],
        folder: Path,
    ) -> Images:
        """Return the images of `split`. Their scores lie in a temporary file in `folder`."""
        rows = np.flatnonzero((cases["split"] == split).to_numpy(dtype=bool))
        ids = [reader.image_ids[row] for row in rows]
        blocks = (reader.pooled(score, some) for some in reader.image_blocks(ids))
        scores = MeanCodes.write(blocks, len(ids), folder)
        return cls(
            rows,
            scores if len(ids) else replace(scores, latents=reader.latents),
            embedded_images(embeddings, ids, joint),
            cases["patient_id"].to_numpy()[rows],
            cases["side"].astype(str).to_numpy()[rows],
        )


@dataclass(frozen=True)
class Latents:
    """What is known of h latents before their names are tested.

    Attributes
    ----------
    scores : [h, V]
        The scores of all phrases, from the discovery split or from the atoms.
    directions : [h, d]
        The latents in the joint space: their projected atoms, or `associations` over the
        confirmation split.
    reason : [h]
        Why a latent is not tested, or "".
    """

    scores: np.ndarray
    directions: np.ndarray
    reason: np.ndarray


def describe(
    settings: NamingSettings,
    joint: Joint,
    found: Images,
    tested: Images,
    atoms: np.ndarray | None,
) -> Latents:
    """Return the phrases' scores and the directions of all latents."""
    reason = np.full(found.scores.latents, "", dtype=object)
    for split, some in ((settings.discovery, found), (settings.confirmation, tested)):
        few = _patients_that_fire(some) < st.MIN_POSITIVES
        reason[few & (reason == "")] = (
            f"{split}: it fires in images of fewer than {st.MIN_POSITIVES} patients"
        )
    if atoms is not None:
        directions = joint.directions(atoms)
        return Latents(directions @ joint.contrasts.T, directions, reason)
    # Images and phrases lie in different parts of the space (modality gap), so both are centred.
    centre = mean_vector(found.embedded)
    probabilities = (
        (images, phrase_probabilities(cosines, settings.sharpness))
        for images, cosines in cosine_blocks(found.embedded, joint.contrasts, centre)
    )
    best = best_images(found.scores, settings.top_images)
    likelihood, prior = log_likelihoods(best, probabilities, len(joint.vectors))
    likelihood -= prior
    return Latents(likelihood, associations(tested.scores, tested.embedded), reason)


def _patients_that_fire(images: Images) -> np.ndarray:
    """Return [h]: the number of patients with an image in which each latent fires."""
    result = np.zeros(images.scores.latents, np.int64)
    if not len(images.patients):
        return result
    order = np.argsort(images.patients, kind="stable")
    starts = np.flatnonzero(np.r_[True, images.patients[order][1:] != images.patients[order][:-1]])
    for latents, scores in images.scores.blocks():
        fires = np.logical_or.reduceat(scores[:, order] > 0, starts, axis=1)
        result[latents] = fires.sum(axis=1)
    return result


@dataclass(frozen=True)
class Tested:
    """The best phrase of each of m latents among phrases of one kind, and its tests.

    Attributes
    ----------
    first, second : [m]
        The phrases of highest and second highest score.
    table
        `cosine`, `chance_cosine`, `p_chance`, the columns of `PhraseTests.of`, and `p`. A row per
        latent.
    """

    first: np.ndarray
    second: np.ndarray
    table: pd.DataFrame


def best_phrases(
    settings: NamingSettings,
    contrasts: np.ndarray,
    latents: Latents,
    rows: np.ndarray,
    among: np.ndarray,
    tests: PhraseTests,
) -> Tested:
    """Return the best of the phrases `among` for each latent of `rows` [m], and test it.

    The images are asked only where chance does not come as near to the phrase (p <= alpha). For the
    other latents p is `p_chance`; it can't become smaller, and they get no name.
    """
    order = among[np.argsort(-latents.scores[np.ix_(rows, among)], axis=1, kind="stable")]
    first, second = order[:, 0], order[:, min(1, len(among) - 1)]
    directions = latents.directions[rows]
    cosine = np.einsum("td,td->t", directions, contrasts[first])
    family = KINDS * len(rows)
    by_chance = chance(
        directions,
        contrasts[among],
        cosine,
        draws=settings.directions,
        seed=settings.seed,
        tests=family,
    )
    near = np.flatnonzero(by_chance.p <= settings.alpha)
    asked = tests.of(rows[near], first[near], family)
    asked.index = pd.Index(near)
    table = asked.reindex(np.arange(len(rows)))
    table["why"] = table["why"].fillna("")
    table["cosine"], table["p_chance"] = cosine, by_chance.p
    table["chance_cosine"] = by_chance.typical
    p = np.fmax(by_chance.p, table["p_images"].to_numpy())
    # A latent that could not be tested is in no family.
    table["p"] = np.where(np.isin(np.arange(len(rows)), near) & table["p_images"].isna(), np.nan, p)
    return Tested(first, second, table)


def name_latents(
    settings: NamingSettings,
    joint: Joint,
    latents: Latents,
    tests: PhraseTests,
    known: pd.DataFrame,
) -> pd.DataFrame:
    """Return the rows of all latents: best phrase, its tests, and the name, if it may have one."""
    table = pd.DataFrame({"latent": np.arange(len(latents.reason)), "name": ""})
    for name in ("best", "runner_up", "decoy", "label"):
        table[name] = ""
    numbers = ("score", "runner_up_score", "cosine", "chance_cosine", *KEPT)
    for name in (*numbers, "p_chance", "p_images", "p", "q", "decoy_score", "decoy_p", "decoy_q"):
        table[name] = np.nan
    for name in known.columns.drop("column"):
        table[name] = "" if name == "zero_shot_reason" else np.nan
    table["reason"] = latents.reason
    rows = np.flatnonzero(latents.reason == "")
    if not len(rows):
        return table
    text, kinds = joint.table["phrase"].to_numpy(), (~joint.decoys, joint.decoys)
    found = [
        best_phrases(settings, joint.contrasts, latents, rows, np.flatnonzero(kind), tests)
        for kind in kinds
        if kind.any()
    ]
    q = st.family_q(np.stack([one.table["p"].to_numpy() for one in found], axis=1))
    best = found[0]
    new = best.table.assign(
        best=text[best.first],
        runner_up=text[best.second],
        label=known["column"].to_numpy()[best.first],
        score=latents.scores[rows, best.first],
        runner_up_score=latents.scores[rows, best.second],
        q=q[:, 0],
    )
    for name in known.columns.drop("column"):
        new[name] = known[name].to_numpy()[best.first]
    if len(found) > 1:
        decoy = found[1]
        new["decoy"], new["decoy_q"] = text[decoy.first], q[:, 1]
        new["decoy_score"] = latents.scores[rows, decoy.first]
        new["decoy_p"] = decoy.table["p"]
    new["reason"] = why_no_name(settings, new)
    new["name"] = new["best"].where(new["reason"] == "", "")
    for name in new.columns.drop("why"):
        table.loc[rows, name] = new[name].to_numpy()
    return table


def why_no_name(settings: NamingSettings, table: pd.DataFrame) -> np.ndarray:
    """Return why each latent has no name, or "". The first reason that holds is given."""
    why = np.full(len(table), "", dtype=object)

    def refuse(where: pd.Series, said: pd.Series | str) -> None:
        here = where.to_numpy(dtype=bool) & (why == "")
        why[here] = said if isinstance(said, str) else said.to_numpy()[here]

    if "decoy_score" in table:
        refuse(table["decoy_score"] >= table["score"], "the decoy has a higher score")
    refuse(
        table["p_chance"] > settings.alpha, "random directions come as near to a phrase (p_chance)"
    )
    refuse(table["why"] != "", table["why"])
    refuse(~(table["q"] < settings.alpha), f"not significant (q of at least {settings.alpha:g})")
    refuse(
        ~(table["auroc_low"] > 0.5),
        "the latent does not find the images most like the phrase",
    )
    refuse(
        table["zero_shot_auroc_low"] <= 0.5,
        "the phrase does not find the images with its own label (zero_shot_auroc)",
    )
    return why


def count_phrases(
    settings: NamingSettings, joint: Joint, table: pd.DataFrame, known: pd.DataFrame
) -> pd.DataFrame:
    """Return a row per phrase: how many latents have it as best phrase and as a name.

    For a decoy, `tested` counts the latents whose best decoy it is, and `passed` those that it
    passes all tests of, q < alpha.
    """
    result = joint.table[["phrase", "group"]].join(known)
    decoys = joint.decoys
    for name, column, kept in (
        ("tested", "best", table["best"] != ""),
        ("passed", "best", table["q"] < settings.alpha),
        ("named", "name", table["name"] != ""),
    ):
        counts = table.loc[kept, column].value_counts()
        result[name] = result["phrase"].map(counts).fillna(0).astype("Int64")
        if name == "named":
            result.loc[decoys, name] = 0
            continue
        kept = table["decoy"] != "" if name == "tested" else table["decoy_q"] < settings.alpha
        counts = table.loc[kept, "decoy"].value_counts()
        of_decoys = result["phrase"].map(counts).fillna(0).astype("Int64")
        result[name] = result[name].mask(pd.Series(decoys), of_decoys)
    return result
