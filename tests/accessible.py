"""Check a page in the browser by axe-core, with the levels A and AA of WCAG 2.1."""

from __future__ import annotations

from importlib.resources import files

from chromium import Browser

AXE = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
FAULTS = """
axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] }).then(found =>
  found.violations.filter(one => ["serious", "critical"].includes(one.impact))
    .flatMap(one => one.nodes.map(node => `${one.id}: ${node.target.join(" ")}: ${node.any.concat(node.all, node.none).map(check => check.message).join("; ")}`)))
"""  # noqa: E501


def faults(tab: Browser) -> list[str]:
    """Return the serious and critical faults of the open page: rule, element, and what is wrong.

    Folded parts of the page are opened first, because axe-core leaves out what nobody sees.
    """
    tab.run("for (const part of document.querySelectorAll('details')) part.open = true")
    tab.run(f"{AXE}\nundefined")
    return tab.run(FAULTS)
