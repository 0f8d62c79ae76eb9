"""A table of responses to paired images, for tests of the ground truth and of its figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mammo_sae.phantom.settings import COMPONENTS
from mammo_sae.stores.tables import read_table, write_table


def write_responses(
    path: Path, confounds: Path, responding: Mapping[int, Mapping[str, float]]
) -> Path:
    """Write the responses of the latents of a table of confounds, and return `path`.

    `responding` is latent -> component -> response in standard deviations; all others are 0. Each
    interval reaches 0.1 to either side.
    """
    rows = [
        {"latent": latent, "component": component, "response": value}
        for latent in sorted(read_table(confounds)["latent"].unique())
        for component in COMPONENTS
        for value in [responding.get(latent, {}).get(component, 0.0)]
    ]
    table = pd.DataFrame(rows, columns=["latent", "component", "response"])
    table["response_low"], table["response_high"] = table["response"] - 0.1, table["response"] + 0.1
    write_table(table, path)
    return path
