from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).parents[2] / "src"
SCRIPT = """
import sys
from pathlib import Path
from mammo_sae.cohorts.facts import read_facts
from mammo_sae.dicom.pixels import read_pixels
print(read_pixels(Path(sys.argv[1]))[1].shape)
print(read_facts([Path(sys.argv[1])], "headers")[0].rows)
"""


def test_malformed_values_are_not_repeated_on_standard_error(tmp_path, write_dicom):
    uid = "2.25.123456789012345"
    stored = np.zeros((4, 6), np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, PatientAge="061Y", SOPInstanceUID=uid)
    content = path.read_bytes()
    assert uid.encode() in content
    path.write_bytes(
        content.replace(uid.encode(), b"2.25.CANARY-not-uid!").replace(b"061Y", b"CAN!")
    )
    # This runs in a separate process, because pytest removes warnings from standard error.
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", SCRIPT, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert done.stdout.split() == ["(4,", "6)", "4"], done.stderr
    assert "CAN" not in done.stderr
