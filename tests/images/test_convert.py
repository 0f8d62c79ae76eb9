from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import zarr
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.dicom.settings import ClinicalSettings, MammoClipSettings, TriageSettings
from mammo_sae.errors import InputError
from mammo_sae.images import convert
from mammo_sae.images.settings import ConversionSettings
from mammo_sae.provenance import Provenance
from mammo_sae.records import write_record
from mammo_sae.settings import canonical_json
from mammo_sae.stores.images import ImageReader

ROWS, COLUMNS = 120, 80
SETTINGS = ConversionSettings(
    kind="vindr",
    images=ClinicalSettings(height=60, width=40),
)
CANARY = "CANARY"
IDENTIFYING = {
    "PatientName": f"{CANARY}^Jane",
    "PatientID": f"{CANARY}-1",
    "PatientBirthDate": "19501231",
    "InstitutionName": f"{CANARY} hospital",
    "StudyDescription": f"{CANARY} study",
    "AccessionNumber": f"{CANARY}77",
    "ImageComments": f"{CANARY} comment",
}


@pytest.fixture
def folder(tmp_path, write_dicom, picture) -> Path:
    """Three patients in VinDr-Mammo's layout; the second image has a mass, the third a mask."""
    root = tmp_path / "source"
    breasts = [
        "study_id,series_id,image_id,laterality,view_position,height,width,breast_birads,"
        "breast_density,split"
    ]
    metadata = ["SOP Instance UID,Manufacturer"]
    for number, side in enumerate("LRL"):
        study, image = f"{CANARY}-study-{number}", f"{CANARY}-image-{number}"
        shown = picture(ROWS, COLUMNS, side=side) * (0.8 if number == 2 else 1)
        stored = np.rint(shown * 4095).astype(np.uint16)
        write_dicom(root / "images" / study / f"{image}.dicom", stored, **IDENTIFYING)
        breasts.append(f"{study},s,{image},{side},CC,{ROWS},{COLUMNS},BI-RADS 2,DENSITY B,training")
        metadata.append(f"{image},ACME")
    findings = [
        "study_id,image_id,finding_categories,finding_birads,xmin,ymin,xmax,ymax",
        f"{CANARY}-study-1,{CANARY}-image-1,['Mass'],BI-RADS 4,50,40,60,60",
    ]
    for name, lines in (
        ("breast-level_annotations.csv", breasts),
        ("metadata.csv", metadata),
        ("finding_annotations.csv", findings),
    ):
        (root / name).write_text("\n".join(lines) + "\n")
    return root


def image_id(number: int) -> str:
    return load_pseudonyms(None).image(f"{CANARY}-image-{number}")


def convert_all(folder: Path, out: Path, settings=SETTINGS, threads: int = 1) -> ImageReader:
    convert.run(settings, [folder], 0, out / "0.zarr", out / "0.json", threads=threads)
    return ImageReader([out / "0.json"])


def test_a_shard_becomes_a_store_with_boxes_as_regions(folder, tmp_path):
    reader = convert_all(folder, tmp_path / "out")
    assert sorted(reader.image_ids) == sorted(image_id(n) for n in range(3))
    assert reader.regions == ["Mass"]
    one, two = image_id(0), image_id(1)
    # Patients 0 and 1 are mirror images of each other, and flipped to the same side.
    pixels = reader.pixels([one, two])
    np.testing.assert_array_equal(pixels[0], pixels[1])
    np.testing.assert_array_equal(reader.flipped([one, two]), [False, True])
    masks = reader.region_masks([one, two])
    assert not masks[0].any()
    expected = np.zeros((60, 40), bool)
    expected[20:30, 10:15] = True
    np.testing.assert_array_equal(masks[1, 0], expected)
    np.testing.assert_allclose(reader.spacing_mm([one]), 0.2)
    assert 0.2 < reader.breast([one]).mean() < 0.6


def test_bit_planes_replace_boxes_and_name_artefacts(folder, tmp_path):
    (folder / "truth.json").write_text(
        json.dumps({"bit_planes": {"mass": 0, "suspicious_calcification": 1, "marker": 2}})
    )
    (folder / "masks").mkdir()
    for number in range(3):
        planes = np.zeros((ROWS, COLUMNS), np.uint8)
        if number == 2:
            planes[40:60, 10:20] |= 1
            planes[50:70, 16:30] |= 2
            planes[4:10, 70:76] |= 4
        Image.fromarray(planes).save(folder / "masks" / f"{CANARY}-image-{number}.png")
    reader = convert_all(folder, tmp_path / "out")
    assert reader.regions == ["Mass", "Suspicious Calcification", "marker"]
    masks = reader.region_masks([image_id(2)])[0]
    expected = np.zeros((3, 60, 40), bool)
    expected[0, 20:30, 5:10] = True
    expected[1, 25:35, 8:15] = True
    expected[2, 2:5, 35:38] = True
    np.testing.assert_array_equal(masks, expected)
    # The mass box of image 1 has no bit in its mask, and the exact mask counts.
    assert not reader.region_masks([image_id(1)]).any()


def test_the_published_axis_swap_happens_only_when_it_is_asked_for(folder, tmp_path):
    path = folder / "finding_annotations.csv"
    path.write_text(path.read_text().replace("50,40,60,60", "45,60,60,100"))
    ends = []
    for compat in (False, True):
        images = MammoClipSettings(height=96, width=64, compat=compat)
        settings = SETTINGS.model_copy(update={"images": images})
        reader = convert_all(folder, tmp_path / str(compat), settings)
        rows = np.flatnonzero(reader.region_masks([image_id(1)])[0, 0].any(axis=1))
        scale_y, offset_y = reader.affine([image_id(1)])[0, 1, 1:]
        ends.append((rows[-1] + 1 - offset_y) / scale_y)
    # By the rows up to pixel 100; by the columns, 80 less a border of 5, up to 75.
    np.testing.assert_allclose(ends, [100, 75], atol=1)


def test_a_missing_mask_is_refused(folder, tmp_path):
    (folder / "truth.json").write_text(json.dumps({"bit_planes": {"mass": 0}}))
    with pytest.raises(InputError, match=r"image [0-9a-f]{16} can't be converted: .*\[mask\]"):
        convert_all(folder, tmp_path / "out")


def test_nothing_identifying_reaches_an_output(folder, tmp_path, capfd):
    out = tmp_path / "out"
    settings = SETTINGS.model_copy(update={"key_file": None})
    outputs = convert.run(settings, [folder], 0, out / "0.zarr", out / "0.json")
    assert outputs == [out / "0.json"]
    made = Provenance(step="images", config=canonical_json(settings), code="c")
    write_record(outputs, made, ["numpy"])
    spoken = capfd.readouterr()
    written = [p for p in out.rglob("*") if p.is_file()]
    assert len(written) > 5
    for path in written:
        content = path.read_bytes()
        for secret in (CANARY.encode(), b"19501231", str(folder).encode()):
            assert secret not in content, path
            assert secret not in str(path.relative_to(out)).encode()
    assert CANARY not in spoken.out + spoken.err


def as_rasters(folder: Path, form: str) -> None:
    """Replace the DICOM files by others with the same pixels, with secrets where possible."""
    for path in (folder / "images").rglob("*.dicom"):
        stored = pydicom.dcmread(path).pixel_array
        path.unlink()
        if form == "npy":
            np.save(path.with_suffix(".npy"), stored)
            continue
        image, exif = Image.fromarray(stored), Image.Exif()
        exif[0x010E] = exif[0x013B] = f"{CANARY} description"
        text = PngInfo()
        text.add_text("PatientName", f"{CANARY}^Jane")
        text.add_itxt("Comment", f"{CANARY} comment", zip=True)
        options = {"pnginfo": text} if form == "png" else {}
        image.save(path.with_suffix(f".{form}"), exif=exif, **options)
        assert CANARY.encode() in path.with_suffix(f".{form}").read_bytes()


@pytest.mark.parametrize("form", ["png", "tiff", "npy"])
@pytest.mark.parametrize("images", [SETTINGS.images, MammoClipSettings(height=60, width=40)])
def test_other_files_with_the_same_pixels_give_the_same_images(folder, tmp_path, form, images):
    settings = SETTINGS.model_copy(update={"images": images})
    from_dicom = convert_all(folder, tmp_path / "dicom", settings)
    as_rasters(folder, form)
    from_other = convert_all(folder, tmp_path / form, settings)
    assert from_other.image_ids == from_dicom.image_ids
    assert len(from_other) == 3
    for name in ("pixels", "breast", "region_masks", "affine", "flipped"):
        np.testing.assert_array_equal(getattr(from_other, name)(), getattr(from_dicom, name)())
    facts = from_other.facts(from_other.image_ids)
    assert set(facts["transfer_syntax"]) == {form.upper()}
    # Values that only a DICOM header has are unknown, and not called absent.
    assert not {"voi", "windows", "photometric", "bits_stored", "same_uid"} & set(facts)


@pytest.mark.parametrize("form", ["png", "tiff"])
def test_nothing_from_the_metadata_of_other_files_reaches_an_output(folder, tmp_path, capfd, form):
    as_rasters(folder, form)
    next((folder / "images").rglob(f"*.{form}")).write_bytes(f"{CANARY} broken".encode())
    convert_all(folder, tmp_path / "out")
    spoken = capfd.readouterr()
    assert "[not_image]" in spoken.err
    assert CANARY not in spoken.out + spoken.err
    for path in (tmp_path / "out").rglob("*"):
        assert CANARY not in path.name
        assert path.is_dir() or CANARY.encode() not in path.read_bytes()


def half_size(path: Path) -> None:
    stored = pydicom.dcmread(path).pixel_array
    Image.fromarray(stored[::2, ::2].copy()).save(path.with_suffix(".png"))
    path.unlink()


def notes(path: Path) -> None:
    path.write_text("see the other folder")


def raw_data(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.PresentationIntentType = "FOR PROCESSING"
    dataset.save_as(path)


def as_own_table(folder: Path) -> ConversionSettings:
    """Write a user's own table for the files of a folder with VinDr-Mammo's layout."""
    rows = ["file,patient_id,split,view,side,mass"]
    for path in sorted((folder / "images").rglob("*.png")):
        rows.append(f"{path.relative_to(folder)},{path.parent.name},training,CC,L,0")
    (folder / "images.csv").write_text("\n".join(rows) + "\n")
    (folder / "key").write_text("0123456789abcdef")
    return SETTINGS.model_copy(update={"kind": "table", "key_file": str(folder / "key")})


def with_policy(reason: str, policy: str) -> ConversionSettings:
    return with_triage(**{reason: policy})


@pytest.mark.parametrize(
    ("change", "advice", "follow"),
    [
        (
            half_size,
            r"read with cohort\.kind table, those of Mammo-CLIP's preprocessing with mammo_clip",
            lambda folder, said: as_own_table(folder),
        ),
        (
            notes,
            r"neither DICOM nor PNG, JPEG, TIFF or NPY.*; convert such files to one of these",
            lambda folder, said: SETTINGS,
        ),
        (
            raw_data,
            r"change the policy images\.triage\.(\w+)",
            lambda folder, said: with_policy(said[1], "warn"),
        ),
    ],
)
def test_following_the_advice_about_refused_files_gives_their_images(
    folder, tmp_path, picture, change, advice, follow
):
    for path in list((folder / "images").rglob("*.dicom")):
        change(path)
    with pytest.raises(InputError) as refused:
        convert_all(folder, tmp_path / "out")
    said = re.search(advice, str(refused.value))
    assert said, refused.value
    if change is notes:
        for path in (folder / "images").rglob("*.dicom"):
            path.unlink()
            stored = np.rint(picture(ROWS, COLUMNS) * 4095).astype(np.uint16)
            stored[0, 0] = path.stem[-1]
            Image.fromarray(stored).save(path.with_suffix(".png"))
    assert len(convert_all(folder, tmp_path / "out", follow(folder, said))) == 3


@pytest.mark.parametrize(
    ("element", "value", "key"),
    [
        ("Modality", "CT", "modality"),
        ("EstimatedRadiographicMagnificationFactor", "1.8", "partial_view"),
        ("AcquisitionDeviceProcessingDescription", "CESM", "contrast"),
        ("AcquisitionDeviceProcessingDescription", "STEREO", "stereo"),
        ("AcquisitionDeviceProcessingDescription", "SPECIMEN", "specimen"),
        ("AcquisitionDeviceProcessingDescription", "DUCTOGRAM", "ductogram"),
        ("PaddleDescription", "BIOPSY", "biopsy"),
    ],
)
def test_a_policy_that_is_changed_or_files_that_are_checked_as_advised_give_all_images(
    folder, tmp_path, element, value, key
):
    whole = {path: path.read_bytes() for path in (folder / "images").rglob("*.dicom")}
    for path in whole:
        dataset = pydicom.dcmread(path)
        setattr(dataset, element, value)
        dataset.save_as(path)
    with pytest.raises(InputError) as refused:
        convert_all(folder, tmp_path / "out")
    said = re.search(r"check the files, or change the policy images\.triage\.(\w+)$",
                     str(refused.value))  # fmt: skip
    assert said, refused.value
    assert said[1] == key
    assert len(convert_all(folder, tmp_path / "warned", with_policy(key, "warn"))) == 3
    for path, content in whole.items():
        path.write_bytes(content)
    assert len(convert_all(folder, tmp_path / "checked")) == 3


def test_following_the_advice_about_missing_files_gives_the_other_or_all_images(folder, tmp_path):
    files = sorted((folder / "images").rglob("*.dicom"))
    aside = [path.rename(tmp_path / path.name) for path in files[:2]]
    with pytest.raises(InputError) as refused:
        convert_all(folder, tmp_path / "out")
    said = re.search(
        r"looked for in (\S+) of the source, as DICOM, PNG, JPEG, TIFF or NPY; "
        r"set images\.triage\.(missing) to (warn) for a part",
        str(refused.value),
    )
    part = convert_all(folder, tmp_path / "part", with_policy(said[2], said[3]))
    assert len(part) == 1
    for path, place in zip(aside, files, strict=False):
        path.rename(place)
        assert place.relative_to(folder).match(said[1])
    assert len(convert_all(folder, tmp_path / "all")) == 3


def test_repairing_or_allowing_damaged_files_gives_the_other_images(folder, tmp_path):
    whole = {path: path.read_bytes() for path in (folder / "images").rglob("*.dicom")}
    for path in list(whole)[:2]:
        path.write_bytes(whole[path][:-400])
    with pytest.raises(InputError, match=r"repair the files or remove them .*most_refused"):
        convert_all(folder, tmp_path / "out")
    assert len(convert_all(folder, tmp_path / "raised", with_triage(most_refused=0.7))) == 1
    for name in ("breast-level_annotations.csv", "finding_annotations.csv", "metadata.csv"):
        table = folder / name
        damaged = [path.stem for path in list(whole)[:2]]
        kept = [
            line for line in table.read_text().splitlines() if not any(d in line for d in damaged)
        ]
        table.write_text("\n".join(kept) + "\n")
    assert len(convert_all(folder, tmp_path / "removed")) == 1


def cut(folder: Path, number: int) -> None:
    path = next((folder / "images").rglob(f"{CANARY}-image-{number}.dicom"))
    path.write_bytes(path.read_bytes()[:-400])


def with_triage(**policies: object) -> ConversionSettings:
    images = SETTINGS.images.model_copy(update={"triage": TriageSettings(**policies)})
    return SETTINGS.model_copy(update={"images": images})


def test_too_many_bad_files_end_the_run_with_their_counts_and_leave_no_store(
    folder, tmp_path, capfd
):
    out = tmp_path / "out"
    cut(folder, 1)
    rewrite(folder, 2, PresentationIntentType="FOR PROCESSING")
    with pytest.raises(InputError) as refused:
        convert_all(folder, out)
    first = min([image_id(1), image_id(2)])
    assert str(refused.value).startswith(f"image {first} can't be converted: ")
    assert (
        "2 of the shard's 3 images are refused (for_processing 1, truncated 1), more than "
        "images.triage.most_refused = 0.05 allows"
    ) in str(refused.value)
    assert CANARY not in str(refused.value)
    assert CANARY not in capfd.readouterr().err
    assert not list(out.iterdir())


def test_one_bad_file_never_stops_a_shard_unless_none_is_allowed(folder, tmp_path):
    cut(folder, 1)
    reader = convert_all(folder, tmp_path / "out")
    assert reader.refused() == {image_id(1): "truncated"}
    assert sorted(reader.image_ids) == sorted([image_id(0), image_id(2)])
    with pytest.raises(InputError, match=r"1 of the shard's 3 images are refused"):
        convert_all(folder, tmp_path / "none", with_triage(most_refused=0.0))


@pytest.mark.parametrize("policy", ["refuse", "warn", "accept"])
def test_the_policy_decides_whether_missing_files_are_too_many(folder, tmp_path, capfd, policy):
    for number in (0, 2):
        next((folder / "images").rglob(f"{CANARY}-image-{number}.dicom")).unlink()
    settings = with_triage(missing=policy)
    if policy == "refuse":
        with pytest.raises(InputError, match=r"\(missing 2\)"):
            convert_all(folder, tmp_path / "out", settings)
    else:
        reader = convert_all(folder, tmp_path / "out", settings)
        assert reader.image_ids == [image_id(1)]
        assert reader.refused() == {image_id(0): "missing", image_id(2): "missing"}
    assert ("the file does not exist" in capfd.readouterr().err) == (policy != "accept")


def rewrite(folder: Path, number: int, **elements: object) -> None:
    path = next((folder / "images").rglob(f"{CANARY}-image-{number}.dicom"))
    dataset = pydicom.dcmread(path)
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path)


def test_few_damaged_files_are_left_out_and_listed(folder, tmp_path, capfd):
    cut(folder, 0)
    cut(folder, 2)
    reader = convert_all(folder, tmp_path / "out", with_triage(most_refused=0.7))
    assert reader.image_ids == [image_id(1)]
    group = zarr.open_group(tmp_path / "out" / "0.zarr", mode="r")
    assert group.attrs["refused"] == {image_id(0): "truncated", image_id(2): "truncated"}
    assert f"left out: image {image_id(0)}: the file is cut off" in capfd.readouterr().err


def test_the_second_of_two_images_with_the_same_pixels_is_left_out(folder, tmp_path):
    first = next((folder / "images").rglob(f"{CANARY}-image-0.dicom"))
    rewrite(folder, 2, PixelData=pydicom.dcmread(first).PixelData)
    reader = convert_all(folder, tmp_path / "out")
    kept, dropped = sorted([image_id(0), image_id(2)])
    assert kept in reader.image_ids
    assert dropped not in reader.image_ids


def test_a_warned_image_is_converted_and_named(folder, tmp_path, capfd):
    rewrite(folder, 1, ViewPosition="MLO")
    reader = convert_all(folder, tmp_path / "out")
    assert image_id(1) in reader.image_ids
    assert (
        f"warning: image {image_id(1)}: the view in the header differs from the annotations"
        in capfd.readouterr().err
    )


@pytest.mark.parametrize("policy", ["refuse", "warn", "accept"])
def test_the_policy_decides_whether_raw_data_are_converted_and_reported(
    folder, tmp_path, capfd, policy
):
    rewrite(folder, 1, PresentationIntentType="FOR PROCESSING")
    reader = convert_all(folder, tmp_path / "out", with_triage(for_processing=policy))
    assert (image_id(1) in reader.image_ids) == (policy != "refuse")
    assert ("for processing" in capfd.readouterr().err) == (policy != "accept")


def test_a_file_of_another_size_than_annotated_is_refused(folder, tmp_path, write_dicom):
    path = next((folder / "images").rglob(f"{CANARY}-image-1.dicom"))
    write_dicom(path, np.arange(3000, dtype=np.uint16).reshape(60, 50))
    assert convert_all(folder, tmp_path / "out").refused() == {image_id(1): "size"}


@pytest.mark.parametrize("images", [SETTINGS.images, MammoClipSettings(height=76, width=46)])
def test_repetition_does_not_change_a_byte(folder, tmp_path, images):
    settings = SETTINGS.model_copy(update={"images": images})
    for name in "ab":
        convert_all(folder, tmp_path / name, settings)
    first, second = ((tmp_path / name / "0.json").read_bytes() for name in "ab")
    assert first == second


def test_processes_do_not_change_a_byte(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "PIXELS_PER_PROCESS", 1)
    for name, threads in (("a", 1), ("b", 2)):
        convert_all(folder, tmp_path / name, threads=threads)
    first, second = ((tmp_path / name / "0.json").read_bytes() for name in "ab")
    assert first == second


def test_shards_part_the_cohort(folder, tmp_path):
    settings = SETTINGS.model_copy(update={"shards": 5})
    manifests = [tmp_path / f"{shard}.json" for shard in range(5)]
    for shard, manifest in enumerate(manifests):
        convert.run(settings, [folder], shard, manifest.with_suffix(".zarr"), manifest)
    assert sorted(ImageReader(manifests).image_ids) == sorted(image_id(n) for n in range(3))


def test_results_come_in_order_few_wait_and_errors_arrive():
    # The first item takes longest. A pool that yields finished items first would start with
    # another.
    items = [0.3, *[0.0] * 12, -1.0]
    results = convert.isolated(_after, items, processes=2, lost=str)
    first, begun = next(results)
    assert first == 0.3
    time.sleep(0.5)
    asked = time.time()
    rest = [next(results) for _ in range(12)]
    assert [seconds for seconds, _ in rest] == [0.0] * 12
    # The consumer is slow, so only the allowed number of items was started before it asked for
    # more.
    assert sum(start < asked for _, start in [(0.3, begun), *rest]) <= 4
    with pytest.raises(ValueError, match="non-negative"):
        next(results)


def test_an_item_that_ends_its_process_is_lost_alone():
    for processes in (1, 2):
        found = list(convert.isolated(_unless_three, range(6), processes, lost=lambda n: -n))
        assert found == [0, 1, 2, -3, 4, 5]


def test_an_item_that_takes_too_much_processor_time_is_lost_alone():
    items = [0.0, 60.0, 0.0, 0.1]
    found = list(convert.isolated(_busy, items, 2, lost=lambda seconds: -seconds, seconds=2))
    assert found == [0.0, -60.0, 0.0, 0.1]


def test_an_item_that_waits_for_others_may_take_longer():
    assert list(convert.isolated(_sleepy, [0.5], 1, lost=str, seconds=0.3)) == [0.5]


def _busy(seconds: float) -> float:
    """Compute for some seconds of processor time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1_000_000))
    return seconds


def _sleepy(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def _unless_three(number: int) -> int:
    if number == 3:
        os.abort()
    return number


def _after(seconds: float) -> tuple[float, float]:
    start = time.time()
    time.sleep(seconds)
    return seconds, start
