"""Pairs of phantom images: what differs between two images of a pair, and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from mammo_sae.dicom.settings import ClinicalSettings
from mammo_sae.images import pairs
from mammo_sae.images.settings import PairsSettings
from mammo_sae.phantom.image import render
from mammo_sae.phantom.plan import plan_patient
from mammo_sae.phantom.settings import PatientCounts, PhantomSettings
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import read_table

HEIGHT, WIDTH, PATIENTS = 96, 64, 5


def draw(folder, **recipe):
    phantom = PhantomSettings(
        height=HEIGHT, width=WIDTH, patients=PatientCounts(pairs=PATIENTS), **recipe
    ).part("pairs")
    settings = PairsSettings(phantom=phantom, images=ClinicalSettings(height=HEIGHT, width=WIDTH))
    manifest, table = folder / "pairs.json", folder / "pairs.parquet"
    pairs.run(settings, store=folder / "pairs.zarr", manifest=manifest, pairs=table)
    return phantom, ImageReader([manifest]), read_table(table)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("pairs"))


def test_each_view_has_a_pair_for_each_finding_and_artefact(drawn):
    _, reader, table = drawn
    counts = table.groupby(["patient", "component"]).size()
    drawn = ("mass", "suspicious_calcification", "marker", "vendor", "paddle")
    assert counts.to_dict() == {(p, c): 2 for p in range(PATIENTS) for c in drawn}
    assert len(reader) == PATIENTS * 2 * (1 + len(drawn))


def test_the_images_of_a_pair_differ_exactly_where_the_finding_or_artefact_is(drawn):
    phantom, reader, table = drawn
    for row in table[table["component"] != "vendor"].itertuples():
        on, off = reader.pixels([row.on, row.off]).astype(int)
        changed = on != off
        assert changed.any(), row
        side, view = row.on.split("-")[1:3]
        patient = plan_patient(phantom, row.patient)
        if not patient.has(row.component):
            patient = pairs.switched(phantom, patient, row.component)
        mask = render(phantom, patient, side, view).regions[row.component]
        if side == "R":
            mask = mask[:, ::-1]
        assert not (changed & ~mask).any(), row
        assert on[mask].mean() > off[mask].mean()


def test_the_vendor_changes_the_greys_of_the_whole_breast(drawn):
    _, reader, table = drawn
    for row in table[table["component"] == "vendor"].itertuples():
        on, off = reader.pixels([row.on, row.off]).astype(int)
        inside = reader.breast([row.on])[0]
        assert (on != off)[inside].mean() > 0.8
        assert on[inside].mean() > off[inside].mean()


def test_one_image_of_each_pair_is_the_patient_as_planned(drawn):
    phantom, _, table = drawn
    for row in table.itertuples():
        planned, other = (row.on, row.off)
        if not plan_patient(phantom, row.patient).has(row.component):
            planned, other = other, planned
        assert other == f"{planned}-{row.component}"


def test_a_finding_has_pairs_of_its_own_breast_only(tmp_path):
    phantom, _, table = draw(tmp_path, breasts="both")
    for number in range(PATIENTS):
        patient = plan_patient(phantom, number)
        if not patient.has("mass"):
            patient = pairs.switched(phantom, patient, "mass")
        mine = table[(table["patient"] == number) & (table["component"] == "mass")]
        assert {image.split("-")[1] for image in mine["on"]} == {patient.mass.side}
        assert len(mine) == 2
        assert len(table[(table["patient"] == number) & (table["component"] == "marker")]) == 4


def test_artefacts_are_independent_of_findings_and_the_same_settings_give_the_same_bytes(
    drawn, tmp_path
):
    phantom, reader, table = drawn
    assert {getattr(phantom.confounders, name).odds_ratio for name in ("marker", "vendor")} == {1.0}
    _, again, same = draw(tmp_path)
    assert table.equals(same)
    assert np.array_equal(reader.pixels(), again.pixels())
