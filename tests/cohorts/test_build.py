from __future__ import annotations

import hmac
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mammo_sae.cohorts import build
from mammo_sae.cohorts import splits as splits_step
from mammo_sae.cohorts.pseudonyms import Pseudonyms, load_pseudonyms
from mammo_sae.cohorts.readers import Sources
from mammo_sae.cohorts.settings import PhantomCohort, SplitSettings, TableCohort, VindrCohort
from mammo_sae.errors import InputError
from mammo_sae.provenance import Provenance
from mammo_sae.records import write_record
from mammo_sae.settings import canonical_json
from mammo_sae.stores.tables import read_table

CONCEPTS = ["mass", "suspicious_calcification"]


def build_cohort(settings, sources: list[Path], out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    out.mkdir(exist_ok=True)
    tables = out / "images.parquet", out / "findings.parquet"
    build.run(settings, sources, *tables, out / "cohort.json")
    return read_table(tables[0]), read_table(tables[1])


def settings(folder: Path, **changes) -> VindrCohort:
    return VindrCohort(source=str(folder), **changes)


def second_folder(folder: Path, prefix: str) -> Path:
    """A copy whose ids start with `prefix`."""
    copy = folder.with_name(f"{folder.name}-{prefix}")
    copy.mkdir()
    for path in folder.glob("*.csv"):
        text = path.read_text()
        for name in ("i1", "i2", "i3", "i4", "s1", "s2"):
            text = text.replace(f"{name},", f"{prefix}{name},")
        (copy / path.name).write_text(text)
    return copy


def test_the_table_of_splits_has_the_images_tables_splits_in_its_order(vindr_folder, tmp_path):
    own, external = settings(vindr_folder), second_folder(vindr_folder, "x")
    (external / "images").symlink_to(vindr_folder / "images")
    sources = [vindr_folder, external]
    images, _ = build_cohort(own, sources, tmp_path / "out")
    splits_step.run(SplitSettings(kind="vindr"), sources, tmp_path / "splits.parquet")
    splits = pd.read_parquet(tmp_path / "splits.parquet")
    assert set(splits["split"]) == {"training", "test", "external"}
    assert list(splits.columns) == ["image_id", "split"]
    both = images[["image_id", "split"]].astype(str).reset_index(drop=True)
    pd.testing.assert_frame_equal(splits.astype(str), both)


def test_drawn_splits_are_the_same_in_both_tables_when_a_file_is_lost(folder, tmp_path):
    cohort = TableCohort(
        source=str(folder),
        key_file=str(folder / "key"),
        concepts={"tumour": "mass"},
        validation_share=0.5,
    )
    splits = []
    for _ in range(2):
        images, _ = build_cohort(cohort, [folder], tmp_path / "out")
        splits_step.run(SplitSettings.of(cohort), [folder], tmp_path / "splits.parquet")
        table = pd.read_parquet(tmp_path / "splits.parquet").set_index("image_id")["split"]
        both = images.set_index("image_id")["split"].astype(str)
        assert both.equals(table[both.index].astype(str))
        splits.append(both)
        # The only image of a patient with a mass.
        (folder / "3.png").write_bytes(b"no image")
    assert set(splits[0]) == {"training", "validation"}
    assert len(splits[1]) == len(splits[0]) - 1
    assert splits[1].equals(splits[0][splits[1].index])


@pytest.fixture
def folder(tmp_path) -> Path:
    """Forty PNGs of twenty patients; patients with odd numbers have a mass in one of two images."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "key").write_text("0123456789abcdef")
    rows = []
    for number in range(40):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(source / f"{number}.png")
        patient = number // 2
        view = ("CC", "MLO")[number % 2]
        rows.append(
            (f"{number}.png", f"p{patient}", "training", view, "L", patient % 2 * (number % 2))
        )
    names = ["file", "patient_id", "split", "view", "side", "mass"]
    pd.DataFrame(rows, columns=names).to_csv(source / "images.csv", index=False)
    return source


def test_the_tables_have_pseudonyms_types_and_clipped_boxes(vindr_folder, tmp_path):
    images, findings = build_cohort(settings(vindr_folder), [vindr_folder], tmp_path / "out")
    assert images["image_id"].str.fullmatch("[0-9a-f]{16}").all()
    assert images["image_id"].is_unique
    assert images["patient_id"].nunique() == 2
    assert images.dtypes["mass"] == "Int8"
    ids = {name: load_pseudonyms(None).image(name) for name in ("i1", "i2")}
    box = findings[findings["image_id"] == ids["i2"]].iloc[0]
    assert box[["xmin", "ymin", "xmax", "ymax"]].tolist() == [150, 0, 200, 80]
    summary = json.loads((tmp_path / "out" / "cohort.json").read_text())
    assert summary["counts"] == {
        "boxes": 3,
        "boxes_clipped": 1,
        "boxes_outside_dropped": 0,
        "findings_without_box": 1,
        "images_without_metadata": 0,
        "images_without_row_of_findings": 0,
        "malformed_rows": 0,
        "patients_in_two_splits_dropped": 0,
        "unreadable_images_dropped": 0,
    }
    assert summary["splits"]["training"] == {
        "patients": 1,
        "images": 2,
        "positive_images": {"mass": 2, "suspicious_calcification": 1},
        "boxes": {"mass": 2, "suspicious_calcification": 1},
    }


def test_a_box_wholly_outside_is_dropped_and_counted(vindr_folder, tmp_path):
    path = vindr_folder / "finding_annotations.csv"
    path.write_text(path.read_text().replace("150,-12.5,215,80", "201,10,215,80"))
    _, findings = build_cohort(settings(vindr_folder), [vindr_folder], tmp_path / "out")
    assert len(findings) == 2
    summary = json.loads((tmp_path / "out" / "cohort.json").read_text())
    assert summary["counts"]["boxes_outside_dropped"] == 1


def test_parts_are_concatenated_and_the_external_folder_becomes_its_split(vindr_folder, tmp_path):
    other = second_folder(vindr_folder, "e")
    images, _ = build_cohort(
        settings(vindr_folder, external=str(other)), [vindr_folder, other], tmp_path / "out"
    )
    assert images["split"].value_counts().to_dict() == {"external": 4, "training": 2, "test": 2}
    phantom, _ = build_cohort(
        PhantomCohort(covariates={}), [vindr_folder, other], tmp_path / "phantom"
    )
    assert phantom["split"].value_counts().to_dict() == {"training": 4, "test": 4}


def test_a_part_given_twice_is_refused(vindr_folder, tmp_path):
    with pytest.raises(InputError, match="occurs twice"):
        build_cohort(PhantomCohort(covariates={}), [vindr_folder] * 2, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_patient_in_two_splits_is_left_out_named_and_counted(vindr_folder, tmp_path, capfd):
    path = vindr_folder / "breast-level_annotations.csv"
    path.write_text(path.read_text().replace("DENSITY B,training", "DENSITY B,test", 1))
    images, findings = build_cohort(settings(vindr_folder), [vindr_folder], tmp_path / "out")
    names = load_pseudonyms(None)
    assert set(images["image_id"]) == {names.image("i3"), names.image("i4")}
    assert findings.empty
    summary = json.loads((tmp_path / "out" / "cohort.json").read_text())
    assert summary["counts"]["patients_in_two_splits_dropped"] == 1
    assert f"left out: patient {names.patient('s1')}" in capfd.readouterr().err
    with pytest.raises(InputError, match=r"is in two splits.*most_malformed = 0 allows"):
        build_cohort(settings(vindr_folder, most_malformed=0), [vindr_folder], tmp_path / "none")


def test_validation_takes_whole_training_patients_and_only_those(vindr_folder, tmp_path):
    images, _ = build_cohort(
        settings(vindr_folder, validation_share=0.999999), [vindr_folder], tmp_path / "out"
    )
    assert images["split"].value_counts().to_dict() == {"validation": 2, "test": 2}


def test_a_new_patient_leaves_the_others_where_they_were(vindr_folder, tmp_path):
    few, _ = build_cohort(settings(vindr_folder, shards=7), [vindr_folder], tmp_path / "a")
    other = second_folder(vindr_folder, "n")
    more, _ = build_cohort(settings(vindr_folder, shards=7), [vindr_folder, other], tmp_path / "b")
    both = few.merge(more, on="image_id", suffixes=("", "_more"))
    assert len(both) == len(few)
    assert (both["shard"] == both["shard_more"]).all()
    assert (both["patient_id"] == both["patient_id_more"]).all()


def test_two_builds_give_the_same_bytes_and_nothing_of_the_source(vindr_folder, tmp_path):
    key = tmp_path / "key"
    key.write_text("0123456789abcdef" * 2)
    chosen = settings(vindr_folder, key_file=str(key))
    for name in "ab":
        build_cohort(chosen, [vindr_folder], tmp_path / name)
    for path in sorted((tmp_path / "a").iterdir()):
        content = path.read_bytes()
        assert content == (tmp_path / "b" / path.name).read_bytes(), path.name
        assert str(vindr_folder).encode() not in content
        assert b"0123456789abcdef" not in content


def test_the_key_decides_the_pseudonyms_and_bad_key_files_are_refused(tmp_path):
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    assert load_pseudonyms(str(key)).image("i1") != load_pseudonyms(None).image("i1")
    assert Pseudonyms(b"k").image("x") != Pseudonyms(b"k").patient("x")
    assert "0123" not in repr(load_pseudonyms(str(key)))
    key.write_text("short")
    with pytest.raises(InputError, match=r"holds 5 bytes"):
        load_pseudonyms(str(key))
    with pytest.raises(InputError, match=r"can't be read .*openssl rand"):
        load_pseudonyms(str(tmp_path / "none"))


@pytest.mark.parametrize("key", [None, b"0123456789abcdef"])
def test_a_pseudonym_is_computed_by_the_documented_formula(tmp_path, key):
    path = None if key is None else tmp_path / "key"
    if path:
        path.write_bytes(b" " + key + b"\n")
    names = load_pseudonyms(path and str(path))
    for kind in ("image", "patient"):
        digest = hmac.new(key or b"mammo-sae", f"{kind}:ä 1".encode(), "sha256").hexdigest()
        assert getattr(names, kind)("ä 1") == digest[:16]


def test_shards_fill_evenly():
    pseudonyms = Pseudonyms(b"any")
    shards = pd.Series([pseudonyms.shard(f"p{n}", 4) for n in range(4000)]).value_counts()
    assert shards.min() > 900
    shares = [pseudonyms.share(f"p{n}", 0) for n in range(4000)]
    assert abs(sum(s < 0.25 for s in shares) - 1000) < 100


def test_files_are_found_again_by_pseudonym(vindr_folder):
    files = Sources("vindr", [vindr_folder]).files(load_pseudonyms(None))
    image_id = load_pseudonyms(None).image("i2")
    assert files[image_id].dicom == vindr_folder / "images" / "s1" / "i2.dicom"
    with pytest.raises(InputError, match="occurs twice"):
        Sources("vindr", [vindr_folder, vindr_folder]).files(load_pseudonyms(None))


def test_a_missing_folder_is_named(tmp_path):
    nowhere = tmp_path / "nowhere"
    for action in (
        lambda: build_cohort(settings(nowhere), [nowhere], tmp_path / "out"),
        lambda: Sources("vindr", [nowhere]).files(load_pseudonyms(None)),
    ):
        with pytest.raises(InputError, match=r"cohort folder .*nowhere is missing"):
            action()


@pytest.mark.parametrize("policy", ["refuse", "warn", "accept"])
def test_the_policy_for_files_without_annotation_is_followed(vindr_folder, tmp_path, capfd, policy):
    for name in ("s1/i1", "s3/JANE-DOE"):
        path = vindr_folder / "images" / f"{name}.dicom"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"pixels")
    chosen = settings(vindr_folder, unannotated=policy)
    stray = load_pseudonyms(None).image("images/s3/JANE-DOE.dicom")
    out = tmp_path / "out"
    if policy == "refuse":
        with pytest.raises(
            InputError, match=rf"1 file of the source has .* {stray}; .*cohort\.unannotated"
        ):
            build_cohort(chosen, [vindr_folder], out)
        assert not list(out.iterdir())
        return
    build_cohort(chosen, [vindr_folder], out)
    assert json.loads((out / "cohort.json").read_text())["files_without_annotation"] == [stray]
    spoken = capfd.readouterr().err
    assert (stray in spoken) == (policy == "warn")
    assert "JANE" not in spoken


def test_the_record_of_the_tables_has_no_path_of_the_source(vindr_folder, tmp_path):
    chosen = settings(vindr_folder, shards=3)
    names = ("images.parquet", "findings.parquet", "cohort.json")
    outputs = build.run(chosen, [vindr_folder], *(tmp_path / name for name in names))
    made = Provenance(step="cohort", config=canonical_json(chosen), code="d")
    written = json.loads(write_record(outputs, made, ["pandas"]).read_text())
    assert json.loads(written["config"])["shards"] == 3
    assert written["outputs"].keys() == set(names)
    assert str(vindr_folder) not in str(written)
