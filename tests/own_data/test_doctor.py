"""`doctor` says what the workflow would refuse, in the workflow's words, without computing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mammo_sae import cli
from mammo_sae.config import read_config
from mammo_sae.errors import InputError
from mammo_sae.images.convert import run as convert
from mammo_sae.steps import STEPS
from own_data_files import HEADER, ROWS, table


@pytest.fixture
def doctor(tmp_path, monkeypatch, capsys):
    """Return a function that runs `doctor` and returns its exit status and what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        status = 0
        try:
            cli.run(["doctor", *words])
        except SystemExit as ended:
            status = int(ended.code or 0)
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def written(pngs, init) -> Path:
    """The folder of PNGs with its tables and mine.yaml."""
    (pngs / "list.csv").write_text(table(HEADER, ROWS))
    Path("mine.key").write_text("0123456789abcdef")  # the draw of splits depends on the key
    init()
    return pngs


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_folder_that_init_wrote_has_nothing_to_refuse(written, doctor):
    before = sorted(written.parent.rglob("*"))
    status, told = doctor("mine.yaml", "--pixels")
    assert (status, told.splitlines()[-1]) == (0, "Nothing would be refused.")
    assert re.search(r"^images +4 ", told, re.MULTILINE)
    assert "8 images. The results need" in told
    assert sorted(written.parent.rglob("*")) == before


def test_every_file_that_the_conversion_leaves_out_is_named_in_its_words(
    written, doctor, capsys, tmp_path
):
    content = (written / "001.png").read_bytes()
    (written / "001.png").write_bytes(content[: len(content) // 2])
    (written / "002.png").unlink()
    (written / "003.png").write_bytes(b"no image")
    (written / "005.png").write_bytes((written / "006.png").read_bytes())
    Path("lenient.yaml").write_text("images: {triage: {most_refused: 1.0}}\n")
    status, told = doctor("mine.yaml", "lenient.yaml", "--pixels")
    config = read_config([Path("mine.yaml"), Path("lenient.yaml")])
    for shard in range(2):
        settings = STEPS["images"].slice(config, {})
        convert(settings, [written], shard, tmp_path / f"{shard}.zarr", tmp_path / f"{shard}.json")
    left_out = set(re.findall(r"^left out: .*$", capsys.readouterr().err, re.MULTILINE))
    assert set(re.findall(r"^left out: .*$", told, re.MULTILINE)) == left_out
    assert sorted(re.findall(r"\[(\w+)\]$", "\n".join(left_out), re.MULTILINE)) == [
        "duplicate",
        "missing",
        "not_image",
        "truncated",
    ]
    assert status == 1
    # What is left of a split depends on the pseudonyms, and so on the random key.
    refused = re.findall(r"^refused: ", told, re.MULTILINE)
    assert told.splitlines()[-1] == f"{4 + len(refused)} things would be refused or left out."


def test_damaged_pixels_pass_without_the_option(written, doctor):
    content = (written / "001.png").read_bytes()
    (written / "001.png").write_bytes(content[: len(content) // 2])
    assert doctor("mine.yaml")[0] == 0
    assert "[truncated]" in doctor("mine.yaml", "--pixels")[1]


def test_a_shard_with_too_many_refused_images_would_end_the_run(written, doctor):
    for number in (1, 2, 3, 4, 5, 6):
        (written / f"00{number}.png").unlink()
    status, told = doctor("mine.yaml")
    assert status == 1
    assert re.search(r"^refused: shard \d: image \w+ can't be converted: an annotation", told, re.M)
    assert "more than images.triage.most_refused = 0.05 allows" in told


def test_every_malformed_row_is_named_with_its_line(written, doctor):
    text = (written / "images.csv").read_text()
    (written / "images.csv").write_text(re.sub(r"(003.png,P2,\w+),CC", r"\1,CX", text))
    status, told = doctor("mine.yaml")
    assert "malformed: images.csv: line 4, column 'view' is 'CX'; expected CC or MLO" in told
    assert status == 1


def test_a_concept_without_a_positive_in_training_is_refused_as_training_would(written, doctor):
    text = (written / "images.csv").read_text()
    without = re.sub(r"(.*,training,.*),1$", r"\1,0", text, flags=re.MULTILINE)
    (written / "images.csv").write_text(without)
    status, told = doctor("mine.yaml")
    assert re.search(
        r"^refused: results/mine/cohort/images.parquet: split training has 0 positive and 4 "
        r"negative images of mass; both are needed to learn it$",
        told,
        re.MULTILINE,
    )
    assert status == 1


def test_a_split_without_images_is_refused(written, doctor):
    text = (written / "images.csv").read_text()
    (written / "images.csv").write_text(text.replace(",test,", ",training,"))
    status, told = doctor("mine.yaml")
    assert "refused: no image of the cohort is in the split test, which" in told
    assert status == 1


def test_missing_weights_and_a_missing_key_are_named_together(written, doctor):
    Path("more.yaml").write_text(
        "encoders: {finetuned: null, pretrained: {source: {kind: mammo_clip, path: none.tar}}}\n"
        "images: {height: 384, width: 256}\nlayers: [head]\n"
    )
    Path("mine.key").unlink()
    status, told = doctor("mine.yaml", "more.yaml")
    assert "encoders.pretrained.source: the file none.tar is missing" in told
    assert "mine.key can't be read" in told
    assert status == 1


def test_a_wrong_configuration_is_one_sentence(written, doctor):
    edit(Path("mine.yaml"), "preprocessing: clinical", "preprocessing: clinic")
    with pytest.raises(InputError, match="did you mean 'clinical'"):
        doctor("mine.yaml")


def test_the_run_of_the_phantom_needs_no_archive(doctor, tmp_path):
    Path("phantom.yaml").write_text("name: p\ncohort: {kind: phantom}\n")
    status, told = doctor("phantom.yaml")
    assert status == 0
    assert re.search(r"^interventions +\d", told, re.MULTILINE)


def test_a_raw_image_is_refused_by_its_header(tmp_path, write_dicom, doctor, init):
    folder = tmp_path / "own"
    rows = []
    for number in range(8):
        stored = np.random.default_rng(number).integers(0, 4095, (40, 30)).astype(np.uint16)
        intent = {"PresentationIntentType": "FOR PROCESSING"} if number == 7 else {}
        side = "LR"[number % 2]
        write_dicom(folder / f"IM{number}.dcm", stored, ImageLaterality=side, **intent)
        rows.append((f"IM{number}", f"P{number // 2}", side, "CC", "training", str(number % 2)))
    header = "file,patient_id,side,view,split,mass"
    lines = [",".join((f"{row[0]}.dcm", *row[1:])) for row in rows]
    (folder / "images.csv").write_text("\n".join([header, *lines]) + "\n")
    Path("key").write_text("0123456789abcdef")
    Path("own.yaml").write_text(
        "cohort: {kind: table, source: own, key_file: key, concepts: {mass: mass}}\n"
    )
    status, told = doctor("own.yaml")
    assert "the image is raw data, for processing [for_processing]" in told
    assert status == 1
