"""The tiny run of the real workflow: the files that it must leave and must not leave."""

from __future__ import annotations

import hashlib
import os
from itertools import product
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pydicom
import pytest
from rocrate.rocrate import ROCrate

from mammo_sae.records import find_records
from mammo_sae.stores.publish import find_manifests, read_json, verify_store

pytestmark = pytest.mark.workflow

TABLES = {
    "encoders",
    "sae_quality",
    "latents",
    "interventions",
    "effects",
    "attribution",
    "matched_latents",
    "activation_matches",
    "probes",
    "alignment",
    "alignment_by_size",
    "regions",
    "saliency",
    "confounds",
    "verdict_replication",
    "absorption",
    "ablation",
    "reliance",
    "verdicts",
    "controls",
    "responses",
    "logit_responses",
    "truth",
}


def test_every_table_is_there_and_not_empty_as_parquet_and_csv(finished):
    for name in TABLES:
        parquet = pd.read_parquet(finished.results / "tables" / f"{name}.parquet")
        csv = pd.read_csv(finished.results / "tables" / f"{name}.csv")
        assert len(parquet) > 0, name
        assert len(csv) == len(parquet), name
        assert list(csv.columns) == list(parquet.columns), name


def test_every_sae_has_its_rows(finished):
    quality = pd.read_parquet(finished.results / "tables" / "sae_quality.parquet")
    assert set(zip(quality["encoder"], quality["layer"], quality["sae"], strict=True)) == {
        *product(("pretrained", "finetuned"), ("blocks.10", "head"), ["topk"]),
        ("finetuned", "head", "channels"),
    }


def test_the_crate_of_the_run_lists_every_result_and_its_inputs(finished):
    crate = ROCrate(finished.results)
    made = {result.id: action for action in crate.root_dataset["mentions"]
            for result in action["result"]}  # fmt: skip
    results = [*(finished.results / "tables").iterdir(), *finished.results.glob("figures/**/*.png")]
    names = {path.relative_to(finished.results).as_posix() for path in results}
    assert {name for name in names if not name.endswith(".provenance.json")} <= made.keys()
    steps = {action["name"] for action in made.values()}
    assert {"cohort", "images", "import_encoder", "finetune", "extract"} <= steps
    assert {"train_sae", "codes", "latents", "confounds", "table", "figure_latents"} <= steps
    for name in made:
        content = (finished.results / unquote(name)).read_bytes()
        assert crate.get(name)["sha256"] == hashlib.sha256(content).hexdigest(), name


def test_every_file_that_a_rule_declares_is_in_the_record_of_a_step(finished):
    listed = finished.snakemake("--summary").stdout.splitlines()
    assert listed[0].startswith("output_file\t")
    declared = {finished.folder / line.split("\t")[0] for line in listed[1:]}
    recorded = {
        Path(os.path.normpath(record.parent / name))
        for record in find_records(finished.results)
        for name in read_json(record)["outputs"]
    }
    # The archive comes from no step that keeps a record; a store is recorded by its manifest.
    files = {path for path in declared if path.is_file() and "source" not in path.parts}
    assert len(files) > 100
    assert sorted(files - recorded) == []


def test_every_store_matches_its_manifest(finished):
    manifests = find_manifests(finished.results)
    assert len(manifests) == 3 + 3 + 6 + 9 + 1  # archives, images, embeddings, codes, atlas
    assert [problem for manifest in manifests for problem in verify_store(manifest)] == []


def test_no_identifier_of_the_archive_is_found_outside_of_it(finished):
    source = finished.results / "source"
    secrets = set()
    for path in source.rglob("*.dicom"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        secrets |= {
            str(header.PatientName),
            str(header.PatientID),
            str(header.SOPInstanceUID),
            str(header.StudyInstanceUID),
            path.stem,
            path.parent.name,
        }
    assert len(secrets) > 100
    needles = [secret.encode() for secret in secrets]
    searched = 0
    for path in finished.results.rglob("*"):
        if not path.is_file() or source in path.parents:
            continue
        content = str(path.relative_to(finished.results)).encode() + path.read_bytes()
        found = [needle for needle in needles if needle in content]
        assert not found, f"{path}: {found}"
        searched += 1
    assert searched > 100


def test_the_report_is_made_from_the_finished_run(finished):
    report = finished.results / "report.html"
    finished.snakemake("--report", str(report))
    text = report.read_text()
    assert "confounds" in text
    assert 1_000_000 < report.stat().st_size < 12_000_000
    assert "data:text/csv" not in text, "a table that can only be downloaded"
    # The headline figures are on the first page, with the numbers of the table.
    scores = pd.read_parquet(finished.results / "tables" / "encoders.parquet")
    first = scores[(scores["split"] == "test") & scores["auroc"].notna()].iloc[0]
    assert "How well the encoders predict" in text
    assert f"{first['auroc']:.2f} [{first['auroc_low']:.2f}, {first['auroc_high']:.2f}]" in text
    assert finished.stale() == {}


def test_the_same_configuration_gives_the_same_bytes(finished):
    """One SAE, its codes and its analyses, made twice."""
    run = "pretrained/blocks.10/topk/seed0"

    def content():
        folders = [finished.results / kind / run for kind in ("sae", "analysis")]
        files = [finished.results / "codes" / f"{run}.json"]
        files += [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in sorted(files) if "provenance" not in path.name}

    before = content()
    assert len(before) >= 8
    names = ("sae_quality", "alignment", "truth", "probes")
    targets = [f"results/tiny/analysis/{run}/{name}.parquet" for name in names]
    done = finished.snakemake(*targets, "--forcerun", "train_sae")
    assert "Finished jobid" in done.stdout + done.stderr
    assert [str(path) for path, old in before.items() if content()[path] != old] == []
