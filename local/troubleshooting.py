"""Write the README's tables of errors and breakages anew, from the code: python -m local.troubleshooting."""

from __future__ import annotations

import inspect
import re
import sys
from typing import TYPE_CHECKING

from local import ROOT
from local.breakages import BREAKAGES
from rotation_lambda import errors

if TYPE_CHECKING:
    from collections.abc import Iterable


def codes() -> str:
    """Return the table of every error that is raised: its code, what it means, what to do next."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.RotationError)]
    kinds.sort(key=lambda kind: inspect.getsourcelines(kind)[1])
    rows = [(f"`{kind.code}`", " ".join((kind.__doc__ or "").split()), kind.hint) for kind in kinds]
    return _table(("`code`", "What it means", "What to do"), rows)


def breakages() -> str:
    """Return the table of the ways to break the local stack."""
    rows = [
        (f"`{one.name}`", one.what, f"{one.check}: {one.status}", f"`{one.code}`" if one.code else "mends it")
        for one in BREAKAGES.values()
    ]
    return _table(("`--break`", "What is wrong", "The preflight says", "A rotation"), rows)


def renew(text: str) -> str:
    """Return the text with each table, which stands between two comments that bear its name, as it is now."""
    for name, table in (("codes", codes()), ("breakages", breakages())):
        mark = f"<!-- {name} -->"
        text = re.sub(rf"{mark}\n.*?{mark}", lambda _, new=f"{mark}\n{table}{mark}": new, text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> int:
    """Rewrite every README that has such a table; return the exit status."""
    for file in sorted(ROOT.glob("README*.md")):
        file.write_text(renew(file.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
