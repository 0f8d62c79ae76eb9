"""Step: write the run's configuration as a page of the report."""

from __future__ import annotations

import html
import json
from pathlib import Path

import yaml

from mammo_sae.stores.publish import atomic_file

PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Configuration</title>
<style>body {{ font: 14px/1.45 monospace; margin: 1.5em; }}</style></head>
<body><pre>{text}</pre></body>
</html>
"""


def run(*, content: str, output: Path) -> list[Path]:
    """Show the configuration of the run as a page of the report.

    Parameters
    ----------
    content
        The configuration as JSON, without the locations of sources and keys.
    output
        The page to write (.html).
    """
    text = yaml.safe_dump(json.loads(content), sort_keys=False, allow_unicode=True, width=100)
    with atomic_file(output) as aside:
        aside.write_text(PAGE.format(text=html.escape(text)), encoding="utf-8")
    return [output]
