"""Check a configuration and its archive without computing: what would be refused, what it takes."""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_sae.cohorts.annotations import Annotations, clipped
from mammo_sae.cohorts.build import check_strays, read_tables
from mammo_sae.cohorts.pseudonyms import Pseudonyms, load_pseudonyms
from mammo_sae.cohorts.readers import Sources
from mammo_sae.cohorts.source import SourceFiles
from mammo_sae.config import Config
from mammo_sae.dicom.files import why_unreadable
from mammo_sae.dicom.inspection import judge_file
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.triage import Expected
from mammo_sae.encoders.labels import concept_labels
from mammo_sae.encoders.settings import PretrainedSettings
from mammo_sae.errors import InputError, counted
from mammo_sae.images.convert import Job, Outcome, check_share, isolated
from mammo_sae.images.settings import ConversionSettings
from mammo_sae.plan import lines
from mammo_sae.progress import progress
from mammo_sae.resources import cohort_images, has_gpu
from mammo_sae.settings import Settings

SPLIT_KEYS = ("split", "discovery", "confirmation", "splits")


@dataclass
class Findings:
    """What a run would refuse: the number of files, rows and settings. Each is printed."""

    refused: int = 0

    def refuse(self, sentence: str) -> None:
        """Print a sentence on a thing that would be refused, and count it."""
        print(sentence)
        self.refused += 1


def examine(config: Config, *, pixels: bool) -> int:
    """Print what a run would refuse and what it will take; return how much would be refused.

    Parameters
    ----------
    config
        The configuration.
    pixels
        Whether to decode the pixels of every file too, as the conversion does. Without it a file
        with damaged pixels passes.
    """
    findings = Findings()
    try:
        config.check_writable()
    except InputError as error:
        findings.refuse(f"refused: {error}")
    for sentence in missing_weights(config):
        findings.refuse(f"refused: {sentence}")
    images = cohort_images(config)
    if config.cohort.kind != "phantom":
        try:
            images = _examine_cohort(config, findings, pixels=pixels)
        except InputError as error:
            findings.refuse(f"refused: {error}")
    if images:
        _say_needs(config, images, findings)
    if findings.refused:
        are = "thing would be refused", "things would be refused"
        print(f"{counted(findings.refused, *are)} or left out.")
    else:
        print("Nothing would be refused.")
    return findings.refused


def missing_weights(config: Config) -> Iterator[str]:
    """Yield a sentence per file of weights that is missing and that no rule downloads."""
    for name, encoder in config.encoders.items():
        if not isinstance(encoder, PretrainedSettings):
            continue
        parts = (encoder.source, *getattr(encoder.source, "heads", ()))
        for part in parts:
            paths: Sequence[str] = getattr(part, "files", None) or [getattr(part, "path", "")]
            for path in paths:
                if path and not getattr(part, "hub", None) and not Path(path).exists():
                    yield (
                        f"encoders.{name}.source: the file {path} is missing; put it there or "
                        "correct the path"
                    )


def _examine_cohort(config: Config, findings: Findings, *, pixels: bool) -> int:
    """Check tables and files of the user's archive, and return its number of images."""
    cohort = config.cohort
    pseudonyms = load_pseudonyms(cohort.key_file)
    opened = Sources(cohort.kind, [Path(source) for source in config.sources()])
    found, table, _, counts = read_tables(cohort, opened, pseudonyms)
    for row in found.malformed:
        findings.refuse(f"malformed: {row}")
    for patient in found.torn:
        findings.refuse(f"left out: patient {patient}, whose images are in two splits")
    for notice in found.notices:
        print(f"warning: {notice}")
    for name in ("boxes_clipped", "boxes_outside_dropped"):
        if counts[name]:
            print(f"warning: {name.replace('_', ' ')}: {counts[name]}")
    try:
        check_strays(opened, cohort.unannotated, pseudonyms)
    except InputError as error:
        findings.refuse(f"refused: {error}")
    refused = _examine_files(config, opened, found, pseudonyms, findings, pixels=pixels)
    converted = table[~table["image_id"].isin(refused)]
    _say_splits(config, converted)
    for sentence in _lacking(config, converted):
        findings.refuse(f"refused: {sentence}")
    return len(converted)


def _examine_files(
    config: Config,
    opened: Sources,
    found: Annotations,
    pseudonyms: Pseudonyms,
    findings: Findings,
    *,
    pixels: bool,
) -> set[str]:
    """Judge every file as the conversion of its shard does. Return the refused images."""
    policy = config.images.triage
    files = opened.files(pseudonyms)
    table = found.images.sort_values("image_id", kind="stable")
    present = [row for row in table.itertuples() if files[row.image_id].dicom.exists()]
    refused = {image_id: why_unreadable(files[image_id].dicom) for image_id in found.lost}
    refused |= dict.fromkeys(
        set(table["image_id"]) - {row.image_id for row in present}, Reason.MISSING
    )
    of_shard = {
        image_id: pseudonyms.shard(of.patient, config.shards) for image_id, of in files.items()
    }
    warned: Counter[Reason] = Counter()
    first: dict[Reason, str] = {}
    seen: set[tuple[int, str, str]] = set()
    for row, outcome in zip(
        present, _outcomes(config, opened, found, present, files, pixels=pixels), strict=True
    ):
        reason, reasons = outcome.refused, list(outcome.found)
        ids = {(of_shard[row.image_id], *identity) for identity in outcome.identities.items()}
        if reason is None and not seen.isdisjoint(ids):
            if policy.duplicate == "refuse":
                reason = Reason.DUPLICATE
            else:
                reasons.append(Reason.DUPLICATE)
        seen |= ids
        if reason is not None:
            refused[row.image_id] = reason
            continue
        for one in reasons:
            if getattr(policy, one.code) == "warn":
                warned[one] += 1
                first.setdefault(one, row.image_id)
    for image_id, reason in sorted(refused.items()):
        sentence = f"left out: image {image_id}: {Refusal(reason)}"
        if reason is Reason.MISSING and policy.missing != "refuse":
            print(sentence)
        else:
            findings.refuse(sentence)
    for reason, count in warned.most_common():
        print(
            f"warning: {counted(count, 'image')}, the first is {first[reason]}: {Refusal(reason)}"
        )
    if refused:
        print("(`find` with a pseudonym and this configuration prints the file of an image)")
    _check_shards(config, refused, of_shard, findings)
    return set(refused)


def _check_shards(
    config: Config, refused: dict[str, Reason], of_shard: dict[str, int], findings: Findings
) -> None:
    """Say which shards would end the run, because too many of their images are refused."""
    shards: dict[int, dict[str, Reason]] = defaultdict(dict)
    for image_id, reason in sorted(refused.items()):
        shards[of_shard[image_id]][image_id] = reason
    sizes = Counter(of_shard.values())
    for shard, own in sorted(shards.items()):
        try:
            check_share(own, sizes[shard], config.images.triage, config.cohort.kind)
        except InputError as error:
            findings.refuse(f"refused: shard {shard}: {error}")


def _outcomes(
    config: Config,
    opened: Sources,
    found: Annotations,
    rows: Sequence[Any],
    files: dict[str, SourceFiles],
    *,
    pixels: bool,
) -> Iterator[Outcome]:
    """Yield the outcome of each row's file: of its header, or of the whole conversion."""
    if not pixels:
        for row in progress(rows, label="check headers"):
            judged = judge_file(
                files[row.image_id].dicom,
                config.images.triage,
                Expected(side=row.side, view=row.view),
                (row.rows, row.columns),
            )
            identities = {"same_uid": judged.uid} if judged.uid else {}
            yield Outcome(None, judged.refused, judged.passed, identities)
        return
    settings = ConversionSettings(
        images=config.images,
        kind=config.cohort.kind,
        shards=config.shards,
        key_file=config.cohort.key_file,
    )
    masked, artefacts = opened.masked_regions()
    boxes, _ = clipped(found.boxes, found.images)
    regions = [*sorted({*masked, *boxes["category"]}), *artefacts]
    of_image = dict(tuple(boxes.groupby("image_id")))
    jobs = [
        Job(settings, regions, row, files[row.image_id], of_image.get(row.image_id, boxes.iloc[:0]))
        for row in rows
    ]
    processes = max(1, min(len(jobs), len(os.sched_getaffinity(0))))
    outcomes = isolated(Job.run, jobs, processes, Job.lost)
    yield from progress(outcomes, total=len(jobs), label="check pixels")


def _say_splits(config: Config, table: pd.DataFrame) -> None:
    for split, own in table.groupby("split", sort=True):
        patients = counted(own["patient_id"].nunique(), "patient")
        labels = [
            f"{concept}: {int((own[concept] == 1).sum())} with, {int((own[concept] == 0).sum())} "
            "without"
            for concept in config.cohort.concepts
        ]
        images = counted(len(own), "image")
        print("; ".join([f"split {split}: {images} of {patients}", *labels]))


def _lacking(config: Config, table: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence per split without images, and one if a concept can't be learnt."""
    if not config.cohort.concepts:  # nothing is scored
        if "training" not in set(table["split"]):
            yield (
                "no image of the cohort is in the split training, which trains the SAEs; give it "
                "patients"
            )
        return
    users: dict[str, list[str]] = defaultdict(list)
    for step in type(config).model_fields:
        settings = getattr(config, step)
        if not isinstance(settings, Settings) or step in {"cohort", "truth", "responses"}:
            continue
        for key in SPLIT_KEYS:
            named = getattr(settings, key, ())
            for split in [named] if isinstance(named, str) else named:
                users[split].append(f"{step}.{key}")
    there = set(table["split"])
    for split, keys in users.items():
        if split not in there:
            yield (
                f"no image of the cohort is in the split {split}, which {keys[0]} names; give it "
                "patients, or name another split"
            )
    for encoder in config.encoders.values():
        source = getattr(encoder, "source", None)
        known = {*getattr(source, "classifier", ())}
        known |= {name for head in getattr(source, "heads", ()) for name in head.classifier}
        concepts = [name for name in config.cohort.concepts if name not in known]
        try:
            concept_labels(table, "training", concepts, config.folder / "cohort" / "images.parquet")
        except InputError as error:
            yield str(error)
            return


def _say_needs(config: Config, images: int, findings: Findings) -> None:
    print("\nWhat the run will take (hours of all jobs one after the other):")
    told = lines(config, images)
    for line in told[:-1]:
        print(line)
    if told[-1].startswith("The disk lacks"):
        findings.refuse(f"refused: {told[-1]}")
    else:
        print(told[-1])
    if not has_gpu():
        print("This machine has no GPU; networks and SAEs then take longer than these hours.")
    sys.stdout.flush()
