"""A small part of the fuzz run; `python tests/dicom/fuzz.py` is the whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("fuzz.py")


def test_damaged_files_convert_or_are_refused_within_bounded_memory():
    # A part of the numbers in which a decoder ends its process once (3536).
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--first", "3400", "--count", "300"],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["failures"] == []
    assert done.returncode == 0
    assert report["counts"]["converted"] > 30
    assert sum(report["counts"].values()) == 300
    assert report["peak_mb"] < 500
