"""What users read: README.md, the other pages at the root, and docs/."""

from __future__ import annotations

import re

from local import pages

PAGES = pages.read()
"""The text of each page, by its path from the project's root."""
TEXT = "\n".join(PAGES.values())


def first_cells(text: str) -> list[str]:
    """Return the names in the first column of the page's tables."""
    return [name for row in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
