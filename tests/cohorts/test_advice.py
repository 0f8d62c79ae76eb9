"""The advice in messages about a cohort's tables or key works when it is followed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from mammo_sae import people
from mammo_sae.cohorts.check import check_tables
from mammo_sae.cohorts.facts import files_unread
from mammo_sae.cohorts.find import find_files
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.settings import MammoClipCohort, TableCohort, VindrCohort
from mammo_sae.cohorts.sheet import Sheet
from mammo_sae.cohorts.state import archive_state
from mammo_sae.cohorts.vindr import VindrReader
from mammo_sae.errors import InputError

IMAGES = """file,patient_id,split,view,side,Mass,dose
1.dcm,p1,training,CC,L,1,1.5
2.dcm,p1,training,MLO,L,0,1.25
3.dcm,p2,training,CC,R,0,1.5
4.dcm,p3,test,CC,R,1,1.75
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A user's own table and its files."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "images.csv").write_text(IMAGES)
    for number in range(1, 5):
        (source / f"{number}.dcm").write_bytes(b"no header is read")
    (tmp_path / "key").write_text("0123456789abcdef")
    return source


def own(folder: Path, **given) -> TableCohort:
    given = {"concepts": {"mass": "Mass"}, "key_file": str(folder.parent / "key"), **given}
    return TableCohort(source=str(folder), **given)


def check(settings, *folders: Path) -> str:
    """Check the cohort's tables; return the digest of its images and their splits."""
    state = archive_state(settings, folders).tables
    return check_tables(settings, folders, state, folders[0].parent / "checked")


def refusal(action) -> str:
    with pytest.raises(InputError) as refused:
        action()
    return str(refused.value)


@pytest.mark.parametrize("text", [None, "short"])
def test_the_command_that_makes_a_key_makes_one(tmp_path, text):
    key = tmp_path / "my secrets" / "pseudonym.key"
    key.parent.mkdir()
    if text:
        key.write_text(text)
    command = re.search("make one with `(.*?)`", refusal(lambda: load_pseudonyms(str(key))))
    assert command
    subprocess.run(command[1], shell=True, check=True)
    assert load_pseudonyms(str(key)).image("i1") != load_pseudonyms(None).image("i1")


def test_malformed_rows_that_are_corrected_or_allowed_are_no_obstacle(folder):
    table = folder / "images.csv"
    table.write_text(IMAGES.replace("training,CC", "trainig,CC"))
    said = refusal(lambda: check(own(folder), folder))
    key = re.search(r"more than cohort\.(\w+) = \S+ allows; correct the rows, or raise", said)
    assert key, said
    check(own(folder, **{key[1]: 0.9}), folder)
    wrong = re.search(r"'split' is '(\w+)'; expected (\w+) or .* \(rows with it: 2\)", said)
    assert wrong, said
    table.write_text(table.read_text().replace(wrong[1], wrong[2]))
    assert table.read_text() == IMAGES
    check(own(folder), folder)


def test_a_comma_that_is_written_as_advised_is_a_number(folder):
    table = folder / "images.csv"
    doses = ("1.5", "1.25", "1.75")
    settings = own(folder, covariates={"dose": "dose"})
    text = IMAGES
    for dose in doses:
        text = text.replace(f",{dose}\n", ',"1,500"\n')
    table.write_text(text)
    said = refusal(lambda: check(settings, folder))
    assert "write decimals with a point and thousands without a mark" in said
    for number in ("1.500", "1500"):
        table.write_text(text.replace('"1,500"', number))
        check(settings, folder)


def test_a_column_that_is_named_as_advised_is_found(folder):
    settings = own(folder, concepts={"tumour": "Cyst"})
    said = refusal(lambda: check(settings, folder))
    column = re.search(r"column '?(\w+)'?", said)
    assert column, said
    (folder / "images.csv").write_text(IMAGES.replace("Mass", column[1]))
    check(settings, folder)


def test_a_table_saved_again_as_text_is_read(folder):
    table = folder / "images.csv"
    table.write_bytes(b"file,\x81\x8d\xff\x00\n" + IMAGES.encode())
    said = refusal(lambda: check(own(folder), folder))
    assert "save it as CSV again" in said
    table.write_text(IMAGES)
    check(own(folder), folder)


def test_a_file_without_a_row_is_annotated_removed_or_allowed(folder):
    (folder / "5.dcm").write_bytes(b"no header is read")
    settings = own(folder, unannotated="refuse")
    said = refusal(lambda: check(settings, folder))
    key = re.search(r"annotate or remove them, or change the policy cohort\.(\w+)", said)
    assert key, said
    check(own(folder, **{key[1]: "warn"}), folder)
    stray = re.search(r"the first is image (\w+)", said)
    ((_, path),) = find_files(settings, [folder], stray[1])
    assert path == folder / "5.dcm"
    (folder / "images.csv").write_text(IMAGES + "5.dcm,p4,test,CC,L,0,1\n")
    check(settings, folder)
    (folder / "images.csv").write_text(IMAGES)
    path.unlink()
    check(settings, folder)


def test_a_category_that_a_message_names_is_taken(vindr_folder):
    def settings(category: str) -> VindrCohort:
        return VindrCohort(source=str(vindr_folder), concepts={"mass": category})

    said = refusal(lambda: check(settings("Masses"), vindr_folder))
    names = said.partition("choose from ")[2].split(", ")
    assert len(names) > 10
    for name in names:
        check(settings(name), vindr_folder)


def test_a_source_is_found_where_it_is_corrected(folder, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(
        f"cohort: {{kind: table, source: {folder}x, key_file: {tmp_path}/key}}\n"
    )
    pseudonym = load_pseudonyms(str(tmp_path / "key")).image("1.dcm")

    def find() -> None:
        people.find([pseudonym], configfile=[tmp_path / "c.yaml"])

    assert "sourcex is missing; correct its path in the settings" in refusal(find)
    (tmp_path / "c.yaml").write_text(
        f"cohort: {{kind: table, source: {folder}, key_file: {tmp_path}/key}}\n"
    )
    find()
    assert capsys.readouterr().out == f"{pseudonym}\t{folder / '1.dcm'}\n"


# A text of the table, the text that replaces it, and the message about the row.
ROWS = {
    "a view": ("training,CC,L", "training,XX,L", "'view' is 'XX'; expected CC or MLO"),
    "a side": ("CC,R,0", "CC,X,0", "'side' is 'X'; expected L or R"),
    "a label": ("L,1,1.5", "L,maybe,1.5", "'Mass' is 'maybe'; expected 0, 1 or empty"),
    "a file": ("1.dcm,p1", "/1.dcm,p1", "'file' must be a path inside the folder, relative to it"),
    "no file": ("2.dcm,p1", ",p1", "'file' is empty"),
    "no patient": ("3.dcm,p2,", "3.dcm,,", "'patient_id' is empty"),
    "a file twice": ("2.dcm,p1", "1.dcm,p1", "'file' occurs a second time, with other cells"),
    "a cell too few": ("L,1,1.5\n2", "L,1\n2", "has 6 cells; the header row has 7"),
    "an open quote": ("1.dcm,p1", '"1.dcm,p1', "has a quote that does not end"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_malformed_row_that_is_corrected_is_used(folder, case):
    right, wrong, said = ROWS[case]
    settings = own(folder, most_malformed=0.0)
    before = check(settings, folder)
    table = folder / "images.csv"
    table.write_text(IMAGES.replace(right, wrong))
    message = refusal(lambda: check(settings, folder))
    assert re.search(rf"images\.csv: line \d, column {said}|line \d {said}", message), message
    assert "correct the rows" in message
    table.write_text(IMAGES)
    assert check(settings, folder) == before


HEADERS = {
    "a column twice": (
        "file,patient_id,split",
        "file,patient_id,patient_id",
        r"column 'patient_id' occurs twice in its header row; rename one",
    ),
    "no names": (IMAGES.splitlines()[0], ",,,,,,", "malformed; name its columns there"),
    "nothing": (IMAGES, "", "it is empty; a header row is needed"),
    "only a header": (IMAGES.partition("\n")[2], "", "no image; check the cohort's source"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_row_that_is_corrected_as_advised_is_read(folder, case):
    right, wrong, said = HEADERS[case]
    before = check(own(folder), folder)
    (folder / "images.csv").write_text(IMAGES.replace(right, wrong))
    assert re.search(said, refusal(lambda: check(own(folder), folder)))
    (folder / "images.csv").write_text(IMAGES)
    assert check(own(folder), folder) == before


@pytest.mark.parametrize("instead", ["nothing", "a folder"])
def test_a_missing_table_that_is_put_there_is_read(folder, instead):
    before = check(own(folder), folder)
    (folder / "images.csv").unlink()
    if instead == "a folder":
        (folder / "images.csv").mkdir()
    said = refusal(lambda: check(own(folder), folder))
    table = re.search(r"^(\S+) (?:is missing|can't be read \(.*\)); the cohort needs it", said)
    assert table, said
    if instead == "a folder":
        (folder / table[1]).rmdir()
    (folder / table[1]).write_text(IMAGES)
    assert check(own(folder), folder) == before


def test_a_patient_whose_images_stay_together_is_used(folder):
    settings = own(folder, most_malformed=0.0)
    before = check(settings, folder)
    (folder / "images.csv").write_text(IMAGES.replace("2.dcm,p1,training", "2.dcm,p1,test"))
    said = refusal(lambda: check(settings, folder))
    assert re.search("is in two splits, .* a patient's images must stay together", said), said
    (folder / "images.csv").write_text(IMAGES)
    assert check(settings, folder) == before


def test_an_image_of_both_sources_that_is_removed_from_one_is_used(folder, tmp_path):
    further = tmp_path / "further"
    further.mkdir()
    header, *_ = IMAGES.splitlines()
    row = "{}.dcm,p9,test,CC,L,1,1.5\n".format
    for number in (1, 7):
        (further / f"{number}.dcm").write_bytes(b"no header is read")
    (further / "images.csv").write_text(f"{header}\n{row(1)}{row(7)}")
    settings = own(folder, external=str(further))
    said = refusal(lambda: check(settings, folder, further))
    twice = load_pseudonyms(settings.key_file).image("1.dcm")
    assert f"image {twice} occurs twice in the cohort's sources; remove one of them" in said
    found = refusal(lambda: find_files(settings, [folder, further], twice))
    assert found == said
    (further / "images.csv").write_text(f"{header}\n{row(7)}")
    check(settings, folder, further)
    assert find_files(settings, [folder, further], twice) == [(twice, folder / "1.dcm")]


def test_a_pseudonym_is_found_with_the_key_of_the_run(folder, tmp_path):
    pseudonym = load_pseudonyms(str(tmp_path / "key")).image("1.dcm")
    (tmp_path / "other").write_text("fedcba9876543210")
    other = own(folder, key_file=str(tmp_path / "other"))
    said = refusal(lambda: find_files(other, [folder], pseudonym))
    key = re.search(r"give the configuration and the (\w+) that the run was made with", said)
    right = other.model_copy(update={key[1]: str(tmp_path / "key")})
    assert find_files(right, [folder], pseudonym) == [(pseudonym, folder / "1.dcm")]


BREASTS = (
    "patient_id,laterality,CC,MLO,CC_FINDING,MLO_FINDING,split\n"
    """p1,L,['a'],['b'],"[[], ['Mass'], [], []]","[[], ['Mass'], [], []]",training\n"""
)


def test_a_table_by_breast_is_read_with_settings_that_are_corrected_as_advised(tmp_path):
    source = tmp_path / "source"
    (source / "images_png" / "p1").mkdir(parents=True)
    for image in ("a", "b"):
        (source / "images_png" / "p1" / f"{image}.png").write_bytes(b"no header is read")
    given = {"source": str(source), "concepts": {"dense": "DENSITY A"}, "labels": "finding"}

    def refused(pattern: str, **changes):
        given.update(changes)
        said = refusal(lambda: check(MammoClipCohort(**given), source))
        found = re.search(pattern, said)
        assert found, said
        return found

    named = refused("has neither (\\S+) nor (\\S+); the cohort needs one of them")
    (source / named[2]).write_text(BREASTS)
    refused("has no 'DENSITY A'; use the table with a row per finding, vindr_detection_v1_folds")
    columns = refused(
        r"has no column 'height'; set cohort\.(\w+) to ({}) or", concepts={"mass": "Mass"}
    )
    assert columns[2] == "{}"
    unit = refused(r"set cohort\.(\w+) to (\w+)$", **{columns[1]: {}})
    given[unit[1]] = unit[2]
    assert len(check(MammoClipCohort(**given), source)) == 64


@pytest.mark.parametrize(
    "table", ["breast-level_annotations.csv", "finding_annotations.csv", "metadata.csv"]
)
def test_a_table_of_vindr_mammo_that_is_put_there_is_read(vindr_folder, table):
    settings = VindrCohort(source=str(vindr_folder), concepts={"mass": "Mass"})
    before = check(settings, vindr_folder)
    aside = (vindr_folder / table).rename(vindr_folder / "aside")
    said = refusal(lambda: check(settings, vindr_folder))
    assert f"{table} is missing; the cohort needs it" in said
    aside.rename(vindr_folder / said.partition(" ")[0])
    assert check(settings, vindr_folder) == before


def test_a_covariate_that_one_of_the_named_tables_gets_is_read(vindr_folder):
    def read():
        with files_unread():
            return VindrReader(vindr_folder).annotations({"mass": "Mass"}, {"dose": "Dose"}).images

    tables = re.search(
        r"no column 'Dose' in (\S+), \S+; correct its name or add it$", refusal(read)
    )
    with files_unread():
        covariates = {"dose": "Window Center"}
        named = VindrReader(vindr_folder).annotations({"mass": "Mass"}, covariates).images
    assert named["dose"].to_list() == [100.5, 200, 300, 400]
    path = vindr_folder / tables[1]
    text = path.read_text().replace("Window Center", "Dose")
    path.write_text(text)
    assert read()["dose"].to_list() == [100.5, 200, 300, 400]


def test_regions_of_masks_that_get_a_bit_as_advised_are_known(vindr_folder):
    (vindr_folder / "truth.json").write_text('{"bit_planes": {"mass": 9}}')
    bits = VindrReader(vindr_folder).mask_bits
    most = re.search("must give every region a bit from 0 to (\\d)", refusal(bits))
    (vindr_folder / "truth.json").write_text(f'{{"bit_planes": {{"mass": {most[1]}}}}}')
    assert bits() == {"Mass": 7}


def test_cells_that_are_left_empty_as_a_warning_advises_are_unknown(folder):
    table = folder / "images.csv"
    table.write_text(IMAGES.replace("R,1,1.75", "R,1,999"))
    sheet = Sheet(folder, "images.csv")
    assert sheet.typed("dose").to_list() == [1.5, 1.25, 1.5, 999]
    said = " ".join(sheet.notices)
    found = re.search(r"'dose' holds (\d+) in 1 rows, .*; leave such cells empty", said)
    assert found, said
    table.write_text(table.read_text().replace(found[1], ""))
    sheet = Sheet(folder, "images.csv")
    assert sheet.typed("dose").isna().to_list() == [False, False, False, True]
    assert not sheet.notices
