from __future__ import annotations

from datetime import datetime

import pytest
from openpyxl import Workbook

from mammo_sae.own_data.spreadsheets import cell_text, read_tables


@pytest.mark.parametrize(
    ("value", "shown", "text"),
    [
        ("007", "General", "007"),
        ("1.20", "General", "1.20"),
        ("1E5", "General", "1E5"),
        (7, "000", "007"),
        (7, "General", "7"),
        (7.0, "General", "7"),
        (1.2, "0.00", "1.20"),
        (1.234, "0.00", "1.234"),
        (100000, "General", "100000"),
        (0.1, "General", "0.1"),
        (True, "General", "1"),
        (None, "General", ""),
        (datetime(2024, 3, 1), "General", "2024-03-01"),
        (" a\u00a0", "General", "a"),
    ],
)
def test_a_cell_of_excel_is_the_text_that_excel_shows(value, shown, text):
    assert cell_text(value, shown) == text


def excel(path, sheets):
    book = Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_a_workbook_gives_a_table_per_visible_sheet(tmp_path):
    path = excel(tmp_path / "a.xlsx", {"one": [["id", "x"], ["007", 1]], "two": [["b", "c"]]})
    book = read_tables(path, "a.xlsx")
    assert [table.name for table in book[0]] == ["a.xlsx, sheet 'one'", "a.xlsx, sheet 'two'"]
    assert book[0][0].rows == ((2, ("007", "1")),)
    assert book[1] == []


def test_a_formula_without_its_result_is_refused(tmp_path):
    path = excel(tmp_path / "a.xlsx", {"one": [["id", "x"], ["a", "=1+1"]]})
    tables, said = read_tables(path, "a.xlsx")
    assert tables == []
    assert said == [
        "a.xlsx is not read: line 2 has a formula without a stored result; open and save it in "
        "Excel, or save it as CSV"
    ]


def test_a_title_above_the_names_of_columns_is_refused(tmp_path):
    path = excel(tmp_path / "a.xlsx", {"one": [["Export"], ["id", "x"], ["a", 1]]})
    assert "keep one table with its column names in the first row" in read_tables(path, "a")[1][0]
    (tmp_path / "a.csv").write_text("Export\nid;x\na;1\n")
    assert read_tables(tmp_path / "a.csv", "a.csv")[1] == [
        "a.csv is not read as a table: its first row has one cell"
    ]


def test_a_damaged_and_an_old_workbook_are_named(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK\3\4damaged")
    assert "is damaged or protected" in read_tables(tmp_path / "a.xlsx", "a.xlsx")[1][0]
    assert "save it as .xlsx or CSV" in read_tables(tmp_path / "a.xls", "a.xls")[1][0]


@pytest.mark.parametrize(
    "content",
    [
        "id;ä\r\n007;1,20\r\n".encode("cp1252"),
        b"\xef\xbb\xbf" + "id;ä\r\n007;1,20\r\n".encode(),
        "id\tä\n007\t1,20\n".encode("utf-16"),
    ],
)
def test_a_csv_of_any_program_is_read_as_text(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    (found,), said = read_tables(tmp_path / "a.csv", "a.csv")
    assert (found.header, found.rows, said) == (("id", "ä"), ((2, ("007", "1,20")),), [])
