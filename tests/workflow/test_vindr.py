"""A folder with VinDr-Mammo's layout and a Mammo-CLIP checkpoint run with config/vindr.yaml."""

from __future__ import annotations

import shutil
from pathlib import Path

import efficientnet_pytorch
import numpy as np
import pandas as pd
import pytest
import torch

from mammo_sae.encoders.checkpoints import sha256
from mammo_sae.encoders.heads import load_head
from mammo_sae.phantom import archive
from mammo_sae.phantom.settings import PatientCounts, PhantomSettings

pytestmark = [pytest.mark.workflow, pytest.mark.soak]

OVERLAY = Path(__file__).with_name("vindr.yaml")
TABLES = ("breast-level_annotations", "finding_annotations", "metadata")
CHECKPOINT = "b2-model-best-epoch-10.tar"
CONCEPTS = {"mass", "suspicious_calcification", "density_c"}


def write_dataset(folder: Path) -> None:
    """Write only VinDr-Mammo's files: images, three tables, two splits."""
    settings = PhantomSettings(
        height=160, width=100, patients=PatientCounts(training=40, test=30, external=1)
    )
    parts = []
    for part in ("training", "test"):
        aside = folder.with_name(part)
        archive.run(settings.part(part), aside, folder.with_name(f"{part}.json"))
        shutil.copytree(aside / "images", folder / "images", dirs_exist_ok=True)
        parts.append(aside)
    for table in TABLES:
        rows = pd.concat([pd.read_csv(aside / f"{table}.csv") for aside in parts])
        rows.to_csv(folder / f"{table}.csv", index=False)


def write_checkpoint(path: Path) -> None:
    """Write a B2 with random weights as Mammo-CLIP's pretraining saves one."""
    torch.manual_seed(0)
    network = efficientnet_pytorch.EfficientNet.from_name("efficientnet-b2", num_classes=1)
    # BatchNorm gets the statistics of the random network's own maps. Otherwise the maps would fade
    # to 0.
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(
            torch.randn(8, 1, 4, 4)
            .repeat_interleave(32, 2)
            .repeat_interleave(32, 3)
            .expand(-1, 3, -1, -1)
        )
    torch.save(
        {
            "model": {
                **{f"image_encoder.{key}": value for key, value in network.state_dict().items()},
                "text_encoder.embeddings.weight": torch.zeros(3, 4),
            },
            "optimizer": {"state": {}, "param_groups": []},
            "scheduler": {"last_epoch": 10},
            "config": {"model": {"image_encoder": {"name": "tf_efficientnetv2-detect"}}},
            "epoch": 10,
            "train_loss": 0.5,
        },
        path,
    )


@pytest.fixture(scope="module")
def vindr(tmp_path_factory, micro_project):
    """The finished run of config/vindr.yaml on such a dataset."""
    project = micro_project(tmp_path_factory.mktemp("vindr"))
    shutil.copy(OVERLAY, project.folder)
    project.config = ("config/vindr.yaml", OVERLAY.name)
    write_dataset(project.folder / "vindr-mammo")
    write_checkpoint(project.folder / CHECKPOINT)
    project.snakemake()
    return project


def table(project, name: str) -> pd.DataFrame:
    return pd.read_parquet(project.results / "tables" / f"{name}.parquet")


def test_both_encoders_are_scored_on_every_concept(vindr):
    scores = table(vindr, "encoders")
    assert set(scores["encoder"]) == {"pretrained", "finetuned"}
    assert set(scores["concept"]) == CONCEPTS
    assert set(scores["split"]) == {"training", "validation", "test"}


def test_every_analysis_leaves_its_rows_for_both_encoders(vindr):
    for name in ("sae_quality", "latents", "interventions", "alignment", "confounds"):
        rows = table(vindr, name)
        assert set(rows["encoder"]) == {"pretrained", "finetuned"}, name
        if "concept" in rows:
            assert set(rows["concept"].dropna()) >= CONCEPTS, name
    assert not (vindr.results / "tables" / "truth.csv").exists()


def test_confounders_are_columns_that_the_dataset_has(vindr):
    confounds = table(vindr, "confounds")
    assert set(confounds["confounder"]) == {
        *("manufacturer", "model", "rows", "columns"),
        *("density", "view", "side", "age_bin"),
    }
    assert not confounds["reason"].str.contains("has no column").any()
    # Stratifying a class of density by density leaves nothing to compare.
    itself = confounds[
        (confounds["concept"] == "density_c") & (confounds["confounder"] == "density")
    ]
    assert set(itself["verdict"]) <= {"insufficient", "not associated"}
    assert itself["stratified_auroc"].isna().all()


def test_a_class_without_boxes_has_no_alignment_and_a_reason(vindr):
    rows = table(vindr, "alignment")
    rows = rows[rows["concept"] == "density_c"]
    assert rows["auprc"].isna().all()
    assert (rows["reason"] != "").all()


def test_the_report_shows_where_the_encoders_come_from(vindr):
    vindr.snakemake("--report", str(vindr.results / "report.html"))
    assert "registry" in (vindr.results / "report.html").read_text()
    registry = pd.read_csv(vindr.results / "tables" / "registry.csv").set_index("encoder")
    checkpoint = vindr.folder / CHECKPOINT
    assert registry.loc["pretrained", "sha256"] == sha256(checkpoint)
    assert set(registry["licence"]) == {"CC BY-NC-SA 4.0 (since 2025-10-16)"}
    assert "VinDr-Mammo" in registry.loc["finetuned", "data"]
    assert vindr.stale() == {}


def test_another_file_in_the_checkpoint_s_place_makes_the_encoders_stale(vindr):
    path = vindr.folder / CHECKPOINT
    kept = path.read_bytes()
    try:
        path.write_bytes(kept + b" ")
        jobs = vindr.stale()
        assert jobs["import_encoder"] == 1
        assert jobs["finetune"] == 1
        assert not {"cohort", "images"} & jobs.keys()
    finally:
        path.write_bytes(kept)


def test_a_published_classifier_is_the_head_instead_of_a_probe(vindr):
    model = torch.load(vindr.folder / CHECKPOINT, weights_only=True)["model"]
    weight = torch.randn(1, 1408, generator=torch.Generator().manual_seed(0))
    head = {"weight": weight, "bias": torch.tensor([0.5])}
    model |= {f"classifier.classification_head.{part}": value for part, value in head.items()}
    torch.save({"model": model, "epoch": 3, "auroc": 0.85}, vindr.folder / "mass.pth")
    overlay = """
encoders:
  published:
    kind: pretrained
    source:
      kind: mammo_clip
      architecture: efficientnet-b2
      path: mass.pth
      classifier: [mass]
"""
    written = "results/vindr/heads/published/head.json"
    vindr.snakemake(written, overlay=overlay)
    found = load_head((vindr.folder / written).parent)
    row = found.row("mass")
    assert np.array_equal(found.weight[row], weight[0].numpy())
    assert found.bias[row] == 0.5
    assert set(found.concepts) == CONCEPTS
