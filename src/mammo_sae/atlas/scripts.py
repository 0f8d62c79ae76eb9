"""Data of the atlas as JavaScript files.

A page that is opened from a file cannot fetch another file, but it can load one as a script. Each
data file assigns one JSON value to a key of the global object `ATLAS`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammo_sae.errors import InputError

DIGITS = 4


def literal(value: Any) -> str:
    """Return `value` as JSON that is safe inside a script element and in a script file.

    Missing numbers become null. `<`, `>`, `&` and the two line separators that older JavaScript
    does not allow in strings are escaped, so that no text can end a script element.
    """
    text = json.dumps(
        plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
    )
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def plain(value: Any) -> Any:
    """Return `value` with types that JSON has; numbers have four significant digits.

    A missing value (None, NaN, infinity) is None.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple | np.ndarray | pd.Series):
        return [plain(item) for item in value]
    if value is None or pd.isna(value):
        return None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    number = float(value)
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else None


def write_data(path: Path, key: str, value: Any) -> None:
    """Write a script that assigns `value` to `ATLAS[key]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"(window.ATLAS = window.ATLAS || {{}})[{literal(key)}] = {literal(value)};\n"
    path.write_text(text, encoding="utf-8")


def read_data(path: Path) -> Any:
    """Return the value of a file that `write_data` wrote.

    Raises
    ------
    InputError
        If the file is missing or has another form.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text.partition("] = ")[2].rstrip().removesuffix(";"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read ({error}); build the atlas again") from None
