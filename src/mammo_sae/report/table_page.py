"""Step: write a table as a page that a browser can search and sort without a network.

The page holds the rows in compressed form, so that a report with all tables stays small. Numbers
are rounded to four digits. If a table has more rows than a page may hold, the rows ranked first are
kept, or without ranks the first rows of each SAE. The page names the files with all rows.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_sae.stores.publish import atomic_file
from mammo_sae.stores.tables import read_table

MOST_ROWS = 3_000
DIGITS = 4
# Columns that rank rows by importance; the first that a table has is used.
RANKS = ("rank_auroc", "rank_causal", "rank_attribution")
# In a table without ranks, each combination of the values of these columns keeps as many rows.
GROUPS = ("encoder", "layer", "sae", "seed", "concept", "split")

PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{name}</title>
<style>
body {{ font: 13px/1.4 sans-serif; margin: 1em; color: #1F2933; }}
h1 {{ font-size: 1.2em; margin: 0 0 .3em; }}
p {{ margin: .3em 0; max-width: 60em; }}
input {{ font: inherit; padding: .3em .5em; width: 24em; }}
table {{ border-collapse: collapse; margin-top: .6em; }}
th {{ position: sticky; top: 0; background: #E9EDF1; cursor: pointer; text-align: left; }}
th, td {{ padding: .15em .6em; border-bottom: 1px solid #D9DEE3; white-space: nowrap; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
td.text {{ white-space: normal; min-width: 6em; max-width: 36em; }}
th[aria-sort=ascending]::after {{ content: " \\25B2"; }}
th[aria-sort=descending]::after {{ content: " \\25BC"; }}
</style></head>
<body>
<h1>Table {name}</h1>
<p>{note}</p>
<p><label>Search:
<input id="search" type="search" placeholder="words of a row, such as: {hint}"></label>
<span id="count">This page needs a browser with JavaScript.</span>
<button id="more" hidden>show more</button></p>
<table><thead id="head"></thead><tbody id="body"></tbody></table>
<script>
"use strict";
const DATA = "{data}";
const STEP = 200;
async function main() {{
  const bytes = Uint8Array.from(atob(DATA), letter => letter.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const {{columns, values}} = JSON.parse(await new Response(plain).text());
  const rows = (values[0] || []).map((_, i) => values.map(column => column[i]));
  const texts = rows.map(row => row.join(" ").toLowerCase());
  const get = name => document.getElementById(name);
  let order = rows.map((_, i) => i), sorted = -1, down = false, shown = STEP;
  const head = get("head").insertRow();
  columns.forEach((name, column) => {{
    const cell = document.createElement("th");
    cell.textContent = name;
    cell.onclick = () => {{
      down = sorted === column && !down;
      sorted = column;
      order.sort((a, b) => compare(rows[a][column], rows[b][column]) || a - b);
      for (const other of head.cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      draw();
    }};
    head.append(cell);
  }});
  function compare(a, b) {{  // what is missing comes last, whichever the direction
    if (a === null || b === null) return (a === null) - (b === null);
    const both = typeof a === "number" && typeof b === "number";
    const found = both ? a - b : String(a).localeCompare(String(b), "en", {{numeric: true}});
    return down ? -found : found;
  }}
  function draw() {{
    const words = get("search").value.toLowerCase().split(/\\s+/).filter(Boolean);
    const found = order.filter(i => words.every(word => texts[i].includes(word)));
    const body = document.createElement("tbody");
    body.id = "body";
    for (const i of found.slice(0, shown)) {{
      const line = body.insertRow();
      for (const value of rows[i]) {{
        const cell = line.insertCell();
        cell.textContent = value === null ? "" : value;
        cell.className = typeof value === "number" ? "number" : "text";
      }}
    }}
    get("body").replaceWith(body);
    get("count").textContent =
      `${{Math.min(shown, found.length)}} of ${{found.length}} rows shown`;
    get("more").hidden = found.length <= shown;
  }}
  get("search").oninput = () => {{ shown = STEP; draw(); }};
  get("more").onclick = () => {{ shown += STEP; draw(); }};
  draw();
}}
main();
</script>
</body>
</html>
"""


def run(*, table: Path, output: Path) -> list[Path]:
    """Write a table as a page that a browser searches and sorts.

    Parameters
    ----------
    table
        The table (.parquet or .csv).
    output
        The page to write (.html).
    """
    frame = read_table(table)
    shown, chosen = choose(frame, MOST_ROWS)
    files = f"{table.stem}.csv"
    if table.suffix == ".parquet":
        files += f" and {table.name}"
    note = f"Numbers have {DIGITS} digits here; the run's folder tables has {files} in full."
    if len(shown) < len(frame):
        note = f"{len(shown):,} of {len(frame):,} rows: {chosen}. {note}"
    hint = " ".join(str(value) for value in frame.iloc[0, :2]) if len(frame) else "mass"
    page = PAGE.format(
        name=html.escape(table.stem),
        note=html.escape(note),
        hint=html.escape(hint, quote=True),
        data=_packed(shown),
    )
    with atomic_file(output) as aside:
        aside.write_text(page, encoding="utf-8")
    return [output]


def choose(frame: pd.DataFrame, most: int) -> tuple[pd.DataFrame, str]:
    """Return at most `most` rows, the best-ranked ones if the table has ranks, and a description.

    The same rank limits all SAEs and concepts, so that every one of them is shown. Without ranks,
    the first rows of each SAE, concept and split are shown, as many of each.
    """
    if len(frame) <= most:
        return frame, "all"
    for column in RANKS:
        if column in frame:
            ranks = frame[column].dropna().astype(int)
            per_rank = ranks.value_counts().sort_index().cumsum()
            last = int(per_rank.index[per_rank <= most].max()) if (per_rank <= most).any() else 1
            kept = frame[(frame[column] <= last).fillna(False).to_numpy(dtype=bool)].head(most)
            return kept, f"those with {column} up to {last}"
    groups = [column for column in GROUPS if column in frame]
    if groups:
        place = frame.groupby(groups, sort=False, dropna=False).cumcount()
        count = int((place.value_counts().sort_index().cumsum() <= most).sum())
        if count:
            kept = frame[(place < count).to_numpy(dtype=bool)]
            return kept, f"the first {count:,} of each combination of {', '.join(groups)}"
    return frame.head(most), "the first ones"


def _packed(frame: pd.DataFrame) -> str:
    # Values of a column are alike: column by column they need a fifth fewer bytes than row by row.
    values = [[_value(value) for value in frame[name]] for name in frame]
    text = json.dumps({"columns": list(frame.columns), "values": values}, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _value(value: Any) -> Any:
    """Return a cell as a JSON value: rounded, and null if it is missing."""
    if isinstance(value, str):
        return value
    if pd.api.types.is_list_like(value):
        return " ".join(str(_value(item)) for item in value)
    if pd.isna(value):
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if float(value).is_integer():
        return int(value)
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
