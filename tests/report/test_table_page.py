from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from mammo_sae.report import table_page
from mammo_sae.stores.tables import write_table


def _content(page):
    data = re.search(r'const DATA = "([^"]*)"', page.read_text(encoding="utf-8"))[1]
    return json.loads(gzip.decompress(base64.b64decode(data)))


def _page(tmp_path, frame, name="t.parquet"):
    write_table(frame, tmp_path / name)
    table_page.run(table=tmp_path / name, output=tmp_path / "t.html")
    return tmp_path / "t.html"


def test_a_page_holds_every_row_and_column_of_a_small_table(tmp_path):
    frame = pd.DataFrame(
        {
            "concept": ["mass", "<b>", ""],
            "auroc": [0.123456, np.nan, 1.0],
            "rank": pd.array([1, None, 3], "Int32"),
            "new": [True, False, True],
            "histogram": [[1, 2], [], [3]],
        }
    )
    found = _content(_page(tmp_path, frame))
    assert found["columns"] == list(frame)
    assert found["values"] == [
        ["mass", "<b>", ""],
        [0.1235, None, 1],
        [1, None, 3],
        ["yes", "no", "yes"],
        ["1 2", "", "3"],
    ]


def test_a_page_is_the_same_twice_and_no_word_of_a_table_becomes_markup(tmp_path):
    frame = pd.DataFrame({"a": ["</script><b>", '"x"'], "b": [1.0, 2.0]})
    first = _page(tmp_path, frame).read_bytes()
    assert first == _page(tmp_path, frame).read_bytes()
    assert first.count(b"</script>") == 1


def test_an_empty_table_and_one_in_csv_have_a_page(tmp_path):
    assert _content(_page(tmp_path, pd.DataFrame({"a": []})))["values"] == [[]]
    found = _content(_page(tmp_path, pd.DataFrame({"a": ["x"], "b": [2]}), "t.csv"))
    assert found == {"columns": ["a", "b"], "values": [["x"], [2]]}


def test_of_a_large_table_every_sae_keeps_the_rows_ranked_first():
    parts = [
        pd.DataFrame({"sae": sae, "latent": range(100), "rank_auroc": range(1, 101)})
        for sae in ("a", "b", "c")
    ]
    kept, said = table_page.choose(pd.concat(parts), 35)
    assert said == "those with rank_auroc up to 11"
    assert kept.groupby("sae").size().tolist() == [11, 11, 11]
    assert kept["rank_auroc"].max() == 11


def test_of_a_large_table_without_ranks_every_sae_keeps_its_first_rows():
    parts = [
        pd.DataFrame({"sae": sae, "concept": concept, "k": range(size)})
        for sae, concept, size in (("a", "mass", 100), ("b", "mass", 50), ("b", None, 3))
    ]
    kept, said = table_page.choose(pd.concat(parts), 35)
    assert said == "the first 16 of each combination of sae, concept"
    assert [len(rows) for _, rows in kept.groupby(["sae", "concept"], dropna=False)] == [16, 16, 3]
    assert kept["k"].max() == 15
    many = pd.DataFrame({"sae": [f"{i}" for i in range(9)]})
    assert table_page.choose(many, 4)[1] == "the first ones"


def test_a_page_that_leaves_rows_out_names_the_file_that_has_them(tmp_path, monkeypatch):
    monkeypatch.setattr(table_page, "MOST_ROWS", 2)
    text = _page(tmp_path, pd.DataFrame({"a": [1, 2, 3]})).read_text()
    assert "2 of 3 rows: the first ones" in text
    assert "t.csv and t.parquet" in text


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_page_sorts_numbers_as_numbers_and_keeps_rows_with_all_words(tmp_path):
    frame = pd.DataFrame(
        {"word": ["mass test", "mass external", "none test"], "value": [10.0, 9.0, np.nan]}
    )
    script = re.search(r"<script>(.*)</script>", _page(tmp_path, frame).read_text(), re.S)[1]
    stub = """
    const made = {};
    function element() {
      const self = {cells: [], rows: [], hidden: false, value: "", attributes: {},
        insertRow() { const row = element(); self.rows.push(row); return row; },
        insertCell() { const cell = element(); self.cells.push(cell); return cell; },
        append(cell) { self.cells.push(cell); }, removeAttribute() {},
        setAttribute(name, value) { self.attributes[name] = value; },
        replaceWith(other) { made.body = other; }};
      return self;
    }
    globalThis.document = {createElement: element,
      getElementById: name => made[name] ??= element()};
    """
    check = """
    const text = () => made.body.rows.map(row => row.cells.map(cell => cell.textContent).join("|"));
    main().then(() => {
      const column = made.head.rows[0].cells[1], seen = [text()];
      column.onclick(); seen.push(text());
      column.onclick(); seen.push(text());
      made.search.value = "TEST mass"; made.search.oninput(); seen.push(text());
      console.log(JSON.stringify(seen));
    });
    """
    (tmp_path / "t.js").write_text(stub + script.replace("main();\n", check).strip())
    done = subprocess.run(
        ["node", str(tmp_path / "t.js")], capture_output=True, text=True, check=True
    )
    a, b, c = "mass test|10", "mass external|9", "none test|"
    assert json.loads(done.stdout) == [[a, b, c], [b, a, c], [a, b, c], [a]]
