"""The advice in messages about a cohort's tables or key works when it is followed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from mammo_sae import people
from mammo_sae.cohorts.check import check_tables
from mammo_sae.cohorts.find import find_files
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.settings import TableCohort, VindrCohort
from mammo_sae.cohorts.state import archive_state
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


def check(settings, folder: Path) -> None:
    state = archive_state(settings, [folder]).tables
    check_tables(settings, [folder], state, folder.parent / "checked")


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
