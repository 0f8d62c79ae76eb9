"""The JavaScript library of the atlas: DataTables, taken from the installed package `itables`.

`itables` holds DataTables as a module, and a browser loads no module from a file. So the export at
its end becomes an assignment to the global object `DataTable`.
"""

from __future__ import annotations

import re
from importlib.resources import files

import itables

from mammo_sae.errors import InputError

SCRIPT, STYLE = "dt_bundle.js", "dt_bundle.css"
EXPORT = re.compile(r"export\s*\{([^{}]*)\};?")


def classic(module: str) -> str:
    """Return a JavaScript module as a script that assigns its default export to `DataTable`.

    Raises
    ------
    InputError
        If the text does not have exactly one export list with a default.
    """
    found = list(EXPORT.finditer(module))
    names = re.search(r"([\w$]+)\s+as\s+default\b", found[0][1]) if len(found) == 1 else None
    if names is None:
        raise InputError(
            f"{SCRIPT} of the package itables has no single default export; install the version "
            "that envs/constraints.txt names"
        )
    start, end = found[0].span()
    body = f"{module[:start]}window.DataTable = {names[1]};{module[end:]}"
    return f'(function () {{\n"use strict";\n{body}\n}})();\n'


def datatables() -> tuple[str, str]:
    """Return DataTables as a classic script, and its style sheet."""
    folder = files(itables) / "html"
    script, style = ((folder / name).read_text(encoding="utf-8") for name in (SCRIPT, STYLE))
    return classic(script), style
