"""Write what is generated in README.md and docs/ again, from the code and the template: python -m local.pages."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, cast

from samcli.yamlhelper import yaml_parse

from local import ROOT, bundle
from local.breakages import BREAKAGES
from local.terminal import run
from rotation_lambda import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def read() -> dict[str, str]:
    """Return the text of each page, by its path from the project's root."""
    files = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}


def headings(text: str) -> list[tuple[int, str]]:
    """Return level and text of each heading of a page."""
    prose = re.sub(r"^ *(```+).*?^ *\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", prose, re.MULTILINE)]


def anchor(title: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def contents(text: str) -> str:
    """Return the table of contents of a page: its sections."""
    return "".join(f"- [{title}](#{anchor(title)})\n" for level, title in headings(text) if level == 2)  # noqa: PLR2004


def codes() -> str:
    """Return a section for each error that is raised: its code, its class, what it means, what to do next."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.RotationError)]
    kinds.sort(key=lambda kind: inspect.getsourcelines(kind)[1])
    return "".join(
        f"\n## {kind.code}\n\n`{kind.__name__}`: {_summary(kind)}\n**Next:** {_linked(kind.hint)}\n" for kind in kinds
    )


def breakages() -> str:
    """Return the table of the ways to break the local stack."""
    rows = [
        (f"`{one.name}`", one.what, f"{one.check}: {one.status}", f"`{one.code}`" if one.code else "succeeds")
        for one in BREAKAGES.values()
    ]
    return _table(("`--break`", "What is wrong", "The preflight says", "A rotation"), rows)


def parameters() -> str:
    """Return the table of the template's parameters, in the order in which the console asks for them."""
    template = _template()
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    rows = []
    for name in (name for group in groups for name in group["Parameters"]):
        body = template["Parameters"][name]
        default, allowed = str(body["Default"]), [str(value) for value in body.get("AllowedValues", [])]
        choices = "" if {"true", "false"} >= {*allowed} or "Number" in body["Type"] else f" ({', '.join(allowed)})"
        rows.append((f"`{name}`", f"`{default}`" if default else "", f"{body['Description']}{choices}"))
    return _table(("Parameter", "Default", "What it is"), rows)


def outputs() -> str:
    """Return the table of what the stack puts out."""
    outputs = _template()["Outputs"].items()
    return _table(("Output", "What it is"), [(f"`{name}`", body["Description"]) for name, body in outputs])


def regions() -> str:
    """Return the Regions of whose RDS the shipped certificates are."""
    covered, missing = (", ".join(f"`{name}`" for name in names) for names in bundle.regions(bundle.shipped()))
    return f"{covered}.\n\nNot shipped: {missing}.\n"


def renew(text: str) -> str:
    """Return a page with all that is generated in it, each between two comments with its name, as it is now."""
    makers: dict[str, Callable[[], str]] = {
        "codes": codes,
        "breakages": breakages,
        "parameters": parameters,
        "outputs": outputs,
        "regions": regions,
        "contents": lambda: contents(text),  # the last: of what the others have written
    }
    for name, make in makers.items():
        mark = f"<!-- {name} -->"
        if mark in text:
            before, _, after = text.split(mark)
            text = f"{before}{mark}\n{make()}{mark}{after}"
    return text


def _summary(kind: type[errors.RotationError]) -> str:
    """Return the first paragraph of the class's docstring in one line."""
    return _linked(" ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split()))


def _linked(text: str) -> str:
    """Return the text with a link for each page of docs/ that it names, as a page of docs/ has it."""
    return re.sub(r"docs/([\w-]+\.md(?:#[\w-]*\w)?)", r"[docs/\1](\1)", text)


def _template() -> dict[str, Any]:
    return cast("dict[str, Any]", yaml_parse((ROOT / "template.yaml").read_text(encoding="utf-8")))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> int:
    """Write each page again; return the exit status."""
    for name, text in read().items():
        (ROOT / name).write_text(renew(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    run(main)
