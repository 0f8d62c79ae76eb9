"""Published files of random weights go through config/reproduce.yaml, from PNGs to the report."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
from pathlib import Path

import efficientnet_pytorch
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import f1_score

from mammo_clip_form import write_mammo_clip_form
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.phantom import archive
from mammo_sae.phantom.settings import PatientCounts, PhantomSettings, Prevalence

pytestmark = pytest.mark.workflow

OVERLAY = Path(__file__).with_name("reproduce.yaml")
CHANNELS, LATENTS = 1408, 256  # channels of a B2; latents of the SAE, enough for both ends of 100


def write_images(folder: Path) -> None:
    """Write PNGs and vindr_detection_v1_folds.csv; some images have rows that contradict."""
    settings = PhantomSettings(
        height=160,
        width=100,
        patients=PatientCounts(training=30, test=34, external=1),
        prevalence=Prevalence(mass=0.5, suspicious_calcification=0.5),
    )
    vindr = folder.with_name("vindr")
    tables: dict[str, list[pd.DataFrame]] = {}
    for part in ("training", "test"):
        aside = folder.with_name(part)
        archive.run(settings.part(part), aside, folder.with_name(f"{part}.json"))
        shutil.copytree(aside / "images", vindr / "images", dirs_exist_ok=True)
        for name in ("breast-level_annotations", "finding_annotations"):
            tables.setdefault(name, []).append(pd.read_csv(aside / f"{name}.csv"))
    for name, parts in tables.items():
        rows = pd.concat(parts)
        if name == "finding_annotations":
            found = rows[rows["finding_categories"].str.contains("Suspicious")]
            rows = pd.concat([rows, found.head(8).assign(finding_categories="['Asymmetry']")])
        rows.to_csv(vindr / f"{name}.csv", index=False)
    write_mammo_clip_form(vindr, folder, height=128, width=80)


def write_classifier(path: Path, seed: int, outputs: int = 1) -> None:
    """Write a B2 with a classifier as Mammo-CLIP's downstream training saves one."""
    torch.manual_seed(seed)
    network = efficientnet_pytorch.EfficientNet.from_name("efficientnet-b2", num_classes=1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(8, 3, 128, 96))
    model = {f"image_encoder.{key}": value for key, value in network.state_dict().items()}
    model["classifier.classification_head.weight"] = torch.randn(outputs, CHANNELS)
    model["classifier.classification_head.bias"] = torch.zeros(outputs)
    content = {"model": model, "predictions": torch.zeros(4), "epoch": 3, "auroc": 0.9}
    torch.save(content, path)


def write_sae(path: Path) -> str:
    """Write an SAE as Mammo-SAE publishes one; return its SHA-256."""
    generator = torch.Generator().manual_seed(3)
    atoms = torch.randn(LATENTS, CHANNELS, generator=generator)
    atoms /= atoms.norm(dim=1, keepdim=True)
    bias = torch.zeros(1, CHANNELS)
    torch.save(
        {
            "tied_bias": bias,
            "pre_encoder_bias._bias_reference": bias,
            "encoder._weight": atoms[None],
            "encoder._bias": torch.zeros(1, LATENTS),
            "decoder._weight": atoms.t()[None].contiguous(),
            "post_decoder_bias._bias_reference": bias,
        },
        path,
    )
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def project(tmp_path_factory, micro_project):
    project = micro_project(tmp_path_factory.mktemp("reproduce"))
    write_images(project.folder / "vindr-png")
    for seed, name in enumerate(("probe", "tuned")):
        write_classifier(project.folder / f"{name}.pth", seed)
    digest = write_sae(project.folder / "sparse_autoencoder_final.pt")
    overlay = OVERLAY.read_text().replace("final.pt}", f'final.pt, sha256: "{digest}"}}')
    assert digest in overlay
    (project.folder / "small.yaml").write_text(overlay)
    project.config = ("config/reproduce.yaml", "small.yaml")
    return project


def read(project, name: str) -> pd.DataFrame:
    return pd.read_parquet(project.results / "tables" / f"{name}.parquet")


def test_with_labels_by_finding_every_published_number_has_a_row_with_ours(project):
    project.snakemake(f"results/{project.results.name}/tables/published.parquet")
    found = read(project, "published")
    assert len(found) == 28
    ours = found[found["concept"] == "suspicious_calcification"]
    assert ours["ours"].notna().all(), ours[ours["ours"].isna()].to_string()
    assert set(ours["labels"]) == {"finding"}
    assert (found.loc[found["concept"] == "mass", "reason"] != "").all()
    rows = pd.read_csv(project.folder / "vindr-png" / "vindr_detection_v1_folds.csv")
    for split, part in rows.groupby("split"):
        here = ours.set_index("figure")["ours"]
        assert here[f"{split}: rows scored"] == len(part)
        assert here[f"{split}: positive rows"] == part["Suspicious_Calcification"].sum()
    # With all latents dropped all rows have the same score, so the AUPRC is the share of positive
    # rows.
    test = rows[rows["split"] == "test"]["Suspicious_Calcification"]
    without = ours.set_index("figure").loc["AUPRC without latents", "ours"]
    assert without == pytest.approx(test.mean())
    assert not (project.results / "encoders" / "finetuned_calcification" / "history.csv").exists()


@pytest.mark.soak
def test_the_whole_run_ends_in_a_report_that_shows_the_table(project):
    project.snakemake()
    project.snakemake("--report", str(project.results / "report.html"))
    page = (project.results / "tables" / "published.html").read_text()
    packed = re.search(r'const DATA = "([^"]*)"', page)[1]
    shown = json.loads(gzip.decompress(base64.b64decode(packed)))
    table = pd.read_csv(project.results / "tables" / "published.csv")
    assert shown["columns"] == list(table)
    assert [row[0] for row in shown["rows"]] == table["figure"].to_list()
    assert len(table) == 28
    assert (project.results / "report.html").stat().st_size > len(page)
    assert project.stale() == {}


@pytest.mark.soak
def test_with_labels_by_image_every_score_notes_that_labels_differ(project):
    overlay = "name: by_image\ncohort: {labels: image}\n"
    project.snakemake(overlay=overlay)
    path = project.folder / "results" / "by_image" / "tables" / "published.parquet"
    found = pd.read_parquet(path)
    scored = found[(found["concept"] == "suspicious_calcification") & found["ours"].notna()]
    assert len(scored)
    assert scored["differs"].str.contains("ours by image").all()


@pytest.mark.soak
def test_density_is_scored_by_rows_as_one_question_of_four_classes(project):
    write_classifier(project.folder / "density.pth", 2, outputs=4)
    classes = {f"density_{letter.lower()}": f"DENSITY {letter}" for letter in "ABCD"}
    source = {"kind": "mammo_clip", "architecture": "efficientnet-b2", "path": "density.pth"}
    encoders = {
        "pretrained_calcification": None,
        "finetuned_calcification": None,
        "finetuned_density": {"kind": "pretrained", "source": source | {"classifier": [*classes]}},
    }
    nothing = {"mass": None, "suspicious_calcification": None}
    overlay = {
        "name": "density",
        "cohort": {"concepts": nothing | classes},
        "encoders": encoders,
        "report": {"published": None},
    }
    project.snakemake("results/density/tables/classes.parquet", overlay=yaml.safe_dump(overlay))
    results = project.folder / "results" / "density"
    found = pd.read_parquet(results / "tables" / "classes.parquet")
    assert set(found["labels"]) == {"finding"}
    assert set(found["encoder"]) == {"finetuned_density"}

    rows = pd.read_csv(project.folder / "vindr-png" / "vindr_detection_v1_folds.csv")
    rows = rows[rows["split"] == "test"]
    logits = pd.read_parquet(results / "heads" / "finetuned_density" / "predictions.parquet")
    logits = logits.pivot(index="image_id", columns="concept", values="logit")[[*classes]]
    names = rows["image_id"].str.removesuffix(".png").map(load_pseudonyms(None).image)
    answers = logits.loc[names].to_numpy().argmax(axis=1)
    found = found.set_index(["mode", "k"])
    original = found.loc["original"].iloc[0]
    assert original["accuracy"] == pytest.approx((answers == rows["density"]).mean())
    f1 = f1_score(rows["density"], answers, average="macro", zero_division=0)
    assert original["macro_f1"] == pytest.approx(f1)
    # Without latents every image has the same prediction.
    shares = rows["density"].value_counts(normalize=True)
    assert np.isclose(shares, found.loc[("on", 0), "accuracy"]).any()
    kept, dropped = (found.loc[key] for key in (("on", LATENTS), ("off", 0)))
    assert kept["latents_kept"] == dropped["latents_kept"] == LATENTS
    assert kept["accuracy"] == dropped["accuracy"]
