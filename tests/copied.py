"""Mean codes in a temporary file, as the analyses at the head read them, for tests."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from mammo_sae.analysis.mean_codes import MeanCodes


def copied(means: np.ndarray) -> MeanCodes:
    """Return the mean codes `means` [n, h]."""
    return MeanCodes.write([means], len(means), Path(tempfile.gettempdir()))
