from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.analysis.candidates import with_acquisition
from mammo_sae.cohorts import build
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.settings import TableCohort
from mammo_sae.dicom.refusal import HEADER_ALONE
from mammo_sae.dicom.settings import ClinicalSettings, TriageSettings
from mammo_sae.images import convert, quarantine
from mammo_sae.images.settings import ConversionSettings
from mammo_sae.stores.images import ImageReader


def test_every_file_ends_converted_or_with_a_reason(tmp_path, write_dicom, picture):
    """Eight files: one is sound, and each of the others has another fault."""
    source = tmp_path / "source"
    stored = np.rint(picture(120, 80, side="L") * 4095).astype(np.uint16)
    lines = ["file,patient_id,split,view,side,mass"]
    for name, elements in {
        "sound": {},
        "raw": {"PresentationIntentType": "FOR PROCESSING"},
        "implant": {"BreastImplantPresent": "YES"},
        "other_view": {"ViewPosition": "MLO"},
        "cut": {},
        "text": {},
        "missing": {},
        "stray": {},
    }.items():
        path = source / f"{name}.dcm"
        write_dicom(path, stored + len(name), **elements)
        if name != "stray":
            lines.append(f"{name}.dcm,p-{name},training,CC,L,0")
    (source / "images.csv").write_text("\n".join(lines) + "\n")
    path = source / "cut.dcm"
    path.write_bytes(path.read_bytes()[:-400])
    (source / "text.dcm").write_text("no image")
    (source / "missing.dcm").unlink()

    (tmp_path / "key").write_text("k" * 32)
    cohort = TableCohort(
        source=str(source), key_file=str(tmp_path / "key"), concepts={"mass": "mass"}
    )
    out = tmp_path / "out"
    build.run(cohort, [source], out / "i.parquet", out / "f.parquet", out / "summary.json")
    settings = ConversionSettings(
        kind="table",
        key_file=cohort.key_file,
        images=ClinicalSettings(height=60, width=40, triage=TriageSettings(most_refused=0.9)),
    )
    convert.run(settings, [source], 0, out / "0.zarr", out / "0.json")
    quarantine.run(
        image_stores=[out / "0.json"], summary=out / "summary.json", output=out / "quarantine.csv"
    )

    table = pd.read_csv(out / "quarantine.csv").set_index("image_id")
    pseudonyms = load_pseudonyms(cohort.key_file)
    found = {
        name: (table.loc[pseudonyms.image(f"{name}.dcm"), "action"],
               table.loc[pseudonyms.image(f"{name}.dcm"), "reason"])
        for name in ("raw", "implant", "other_view", "cut", "text", "missing", "stray")
    }  # fmt: skip
    assert found == {
        "raw": ("left out", "for_processing"),
        "implant": ("converted", "implant"),
        "other_view": ("converted", "view"),
        "cut": ("left out", "truncated"),
        "text": ("left out", "not_image"),
        "missing": ("left out", "missing"),
        "stray": ("left out", "unannotated"),
    }
    assert pseudonyms.image("sound.dcm") not in table.index
    assert table["sentence"].notna().all()
    assert not any(b"p-raw" in path.read_bytes() for path in Path(out).rglob("*") if path.is_file())


def test_a_fault_of_a_header_alone_is_listed_and_is_no_confounder(tmp_path, write_dicom, picture):
    source = tmp_path / "source"
    stored = np.rint(picture(120, 80, side="L") * 4095).astype(np.uint16)
    elements = {"BreastImplantPresent": "YES", "PixelSpacing": [0.05, 0.1], "ViewPosition": "MLO"}
    write_dicom(source / "a.dcm", stored, **elements)
    write_dicom(source / "b.dcm", stored + 1)
    (source / "images.csv").write_text(
        "file,patient_id,split,view,side,mass\na.dcm,p,training,CC,L,0\nb.dcm,q,test,CC,L,0\n"
    )
    (tmp_path / "key").write_text("k" * 32)
    cohort = TableCohort(
        source=str(source), key_file=str(tmp_path / "key"), concepts={"mass": "mass"}
    )
    build.run(cohort, [source], *(tmp_path / n for n in ("i.parquet", "f.parquet", "s.json")))
    settings = ConversionSettings(
        kind="table", key_file=cohort.key_file, images=ClinicalSettings(height=60, width=40)
    )
    convert.run(settings, [source], 0, tmp_path / "0.zarr", tmp_path / "0.json")
    quarantine.run(
        image_stores=[tmp_path / "0.json"], summary=tmp_path / "s.json", output=tmp_path / "q.csv"
    )
    assert pd.read_csv(tmp_path / "q.csv")["reason"].tolist() == ["implant", "spacing", "view"]
    cases = pd.read_parquet(tmp_path / "i.parquet")
    store = ImageReader([tmp_path / "0.json"])
    _, names = with_acquisition(cases, store, ["mass"])
    assert "implant" in names
    assert not {"spacing", "view", "notices"} & set(names)


def test_every_reason_that_lets_an_image_pass_is_seen_in_it_or_not():
    """A new reason must be added to one of two groups. Reasons of the first are confounders."""
    seen = {
        "modality",
        "for_processing",
        "tomosynthesis",
        "partial_view",
        "mirrored",
        "no_breast",
        "implant",
        "implant_displaced",
        "presentation",
        "linear",
        "contrast",
        "low_energy",
        "stereo",
        "specimen",
        "ductogram",
        "biopsy",
        "secondary_capture",
        "digitised_film",
        "bits_exceeded",
        "bits_unused",
        "padding",
        "sign",
        "beside_window",
        "resized",
    }
    alone = {reason.code for reason in HEADER_ALONE}
    assert seen | alone == set(TriageSettings.model_fields) - {"missing", "most_refused"}
    assert not seen & alone


def test_the_same_image_in_two_shards_is_noticed(tmp_path, write_dicom, picture):
    source = tmp_path / "source"
    stored = np.rint(picture(120, 80, side="L") * 4095).astype(np.uint16)
    (tmp_path / "key").write_text("k" * 32)
    pseudonyms = load_pseudonyms(str(tmp_path / "key"))
    patients = [f"p{n}" for n in range(8)]
    lines = ["file,patient_id,split,view,side,mass"]
    for n, patient in enumerate(patients):
        # The patients of the first and the last shard have the same pixels, all others have their
        # own.
        write_dicom(source / f"{patient}.dcm", stored + (n if 0 < n < 7 else 0))
        lines.append(f"{patient}.dcm,{patient},training,CC,L,0")
    (source / "images.csv").write_text("\n".join(lines) + "\n")
    ends = {pseudonyms.shard(patients[0], 2), pseudonyms.shard(patients[7], 2)}
    assert len(ends) == 2, "the two must lie in different shards"
    cohort = TableCohort(
        source=str(source), key_file=str(tmp_path / "key"), concepts={"mass": "mass"}, shards=2
    )
    build.run(cohort, [source], *(tmp_path / n for n in ("i.parquet", "f.parquet", "s.json")))
    settings = ConversionSettings(
        kind="table",
        key_file=cohort.key_file,
        shards=2,
        images=ClinicalSettings(height=60, width=40),
    )
    manifests = [tmp_path / f"{shard}.json" for shard in range(2)]
    for shard, manifest in enumerate(manifests):
        convert.run(settings, [source], shard, manifest.with_suffix(".zarr"), manifest)
    quarantine.run(image_stores=manifests, summary=tmp_path / "s.json", output=tmp_path / "q.csv")
    table = pd.read_csv(tmp_path / "q.csv")
    assert table[["action", "reason"]].values.tolist() == [["converted", "duplicate"]]
    assert table["image_id"][0] in {pseudonyms.image(f"{patients[n]}.dcm") for n in (0, 7)}


def test_nothing_to_report_is_a_table_without_rows(tmp_path, write_dicom, picture):
    source = tmp_path / "source"
    write_dicom(source / "a.dcm", np.rint(picture(120, 80, side="L") * 4095).astype(np.uint16))
    (source / "images.csv").write_text(
        "file,patient_id,split,view,side,mass\na.dcm,p,training,CC,L,0\n"
    )
    (tmp_path / "key").write_text("k" * 32)
    cohort = TableCohort(
        source=str(source), key_file=str(tmp_path / "key"), concepts={"mass": "mass"}
    )
    build.run(cohort, [source], *(tmp_path / n for n in ("i.parquet", "f.parquet", "s.json")))
    settings = ConversionSettings(
        kind="table",
        key_file=cohort.key_file,
        images=ClinicalSettings(height=60, width=40),
    )
    convert.run(settings, [source], 0, tmp_path / "0.zarr", tmp_path / "0.json")
    quarantine.run(
        image_stores=[tmp_path / "0.json"], summary=tmp_path / "s.json", output=tmp_path / "q.csv"
    )
    assert pd.read_csv(tmp_path / "q.csv").columns.tolist() == quarantine.COLUMNS
