"""A picture of the dashboard for docs/monitoring.md: the template's own widgets, with the values of an example."""

from __future__ import annotations

import json
import math
import re
from html import escape
from typing import TYPE_CHECKING, Any

from samcli.yamlhelper import yaml_parse

from local import ROOT
from local.terminal import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FILE = ROOT / "docs" / "dashboard.svg"
SECRETS = ("prod/shop/orders", "prod/shop/stock", "prod/billing/invoices")
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c")
DAYS = 31
_MONTH = range(DAYS)
EXAMPLE: dict[str, tuple[dict[int, float], ...]] = {
    "DaysSinceRotation": tuple({day: (day - rotated) % DAYS for day in _MONTH} for rotated in (18, 21, 27)),
    "DaysUntilExpiry": tuple({day: left - day for day in _MONTH} for left in (390, 212, 53)),
    "PreflightFailed": (dict.fromkeys(_MONTH, 0), {**dict.fromkeys(_MONTH, 0), 21: 1}, dict.fromkeys(_MONTH, 0)),
    "PreflightWarnings": (*(dict.fromkeys(_MONTH, 0.0) for _ in "12"), {day: day // 23 for day in _MONTH}),
    "RotationSucceeded": ({18: 1}, {21: 1}, {27: 1}),
    "OutageWindow": ({18: 240}, {21: 310}, {27: 265}),
    "StepDuration": ({18: 510}, {21: 640}, {27: 560}),
    "StepFailed": ({}, {21: 2}, {}),
    "Recovered": ({}, {21: 1}, {}),
}
"""What three secrets, which rotate one after the other, emit in a month: by metric, by secret, by day."""

ROTATED = (
    ("@timestamp", "Secret", "outage_ms"),
    ("08-28 03:00:12", SECRETS[2], "265"),
    ("08-22 03:02:07", SECRETS[1], "310"),
    ("08-19 03:00:09", SECRETS[0], "240"),
)

FAILED = (
    ("@timestamp", "secret_id", "step", "check", "code", "message", "hint"),
    (
        "08-31 06:00:09",
        SECRETS[2],
        "preflight",
        "role",
        "",
        "until 2026-09-23 (VALID UNTIL), 23 days from now",
        "ALTER ROLE ...",
    ),
    (
        "08-22 03:00:41",
        SECRETS[1],
        "setSecret",
        "",
        "database-timeout",
        "db.example.com port 5432: no answer",
        "Usually a ...",
    ),
)

Series = tuple[str, str, dict[int, float]]
"""A line of a widget: its colour, its label, its values by day."""

_COLUMN, _ROW, _GAP, _HEAD = 50, 40, 8, 30
_BOLD, _END = " font-weight='bold'", " text-anchor='end'"
_TEXT = "font-family='Helvetica, Arial, sans-serif'"


def body() -> dict[str, Any]:
    """Return the dashboard as the template has it."""
    template = yaml_parse((ROOT / "template.yaml").read_text(encoding="utf-8"))
    text, _ = template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    dashboard: dict[str, Any] = json.loads(text.replace("${AWS::Region}", "us-east-1").replace("${!", "${"))
    return dashboard


def draw(dashboard: dict[str, Any]) -> str:
    """Return the picture, in SVG."""
    widgets = dashboard["widgets"]
    width = _COLUMN * max(one["x"] + one["width"] for one in widgets) + _GAP
    height = _ROW * max(one["y"] + one["height"] for one in widgets) + _GAP
    lines = [f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' {_TEXT}>"]
    lines += ["<title>The CloudWatch dashboard of the template, with example values</title>"]
    lines += [f"<rect width='{width}' height='{height}' fill='#f2f3f3'/>"]
    for one in widgets:
        lines += _widget(one)
    return "\n".join([*lines, "</svg>", ""])


def _widget(one: dict[str, Any]) -> Iterator[str]:
    wide, high = _COLUMN * one["width"] - _GAP, _ROW * one["height"] - _GAP
    yield f"<g transform='translate({_COLUMN * one['x'] + _GAP} {_ROW * one['y'] + _GAP})'>"
    yield f"<rect width='{wide}' height='{high}' rx='3' fill='#fff' stroke='#d5dbdb'/>"
    yield _label(12, 20, one["properties"]["title"], size=13, more=_BOLD)
    if one["type"] == "log":
        yield from _table(ROTATED if "RotationSucceeded" in one["properties"]["query"] else FAILED, wide)
    else:
        [[metric]] = one["properties"]["metrics"]
        name = re.search(r'MetricName="(\w+)"', metric["expression"])
        assert name is not None  # noqa: S101 - tests/deployment/test_monitoring.py holds the searches to this form
        labels = [f"{secret} database-timeout" if "Code" in metric["label"] else secret for secret in SECRETS]
        shown = [
            (colour, label, line) for colour, label, line in zip(COLOURS, labels, EXAMPLE[name[1]], strict=True) if line
        ]
        paint = {"singleValue": _numbers, "bar": _bars}.get(one["properties"]["view"], _lines)
        yield from paint(shown, wide, high)
    yield "</g>"


def _label(x: float, y: float, text: str, *, size: int = 11, more: str = "") -> str:
    place = f"x='{x:.0f}' y='{y:.0f}' font-size='{size}'{more}"
    return f"<text {place} fill='#16191f'>{escape(text)}</text>"


def _numbers(shown: Sequence[Series], wide: float, high: float) -> Iterator[str]:
    for number, (colour, label, line) in enumerate(shown):
        y = _HEAD + (number + 0.7) * (high - _HEAD) / len(shown)
        yield _label(wide / 2 - 20, y, f"{line[DAYS - 1]:.0f}", size=30, more=_END)
        yield f"<circle cx='{wide / 2:.0f}' cy='{y - 5:.0f}' r='5' fill='{colour}'/>"
        yield _label(wide / 2 + 12, y, label)


def _axes(shown: Sequence[Series], wide: float, high: float) -> Iterator[str]:
    top = _top(shown)
    for part in (0, 0.5, 1):
        y = _y(part * top, top, high)
        yield f"<line x1='44' y1='{y:.0f}' x2='{wide - 14:.0f}' y2='{y:.0f}' stroke='#eaeded'/>"
        yield _label(38, y + 4, f"{part * top:g}", size=10, more=_END)
    for number, (colour, label, _) in enumerate(shown):
        x = 44 + number * (wide - 58) / max(len(shown), 1)
        yield f"<rect x='{x:.0f}' y='{high - 18:.0f}' width='9' height='9' fill='{colour}'/>"
        yield _label(x + 12, high - 10, label, size=9)


def _lines(shown: Sequence[Series], wide: float, high: float) -> Iterator[str]:
    yield from _axes(shown, wide, high)
    top = _top(shown)
    for colour, _, line in shown:
        points = [(_x(day, wide), _y(value, top, high)) for day, value in line.items()]
        path = " ".join(f"{x:.0f},{y:.0f}" for x, y in points)
        yield f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>"
        if len(points) < DAYS:
            yield from (f"<circle cx='{x:.0f}' cy='{y:.0f}' r='4' fill='{colour}'/>" for x, y in points)


def _bars(shown: Sequence[Series], wide: float, high: float) -> Iterator[str]:
    yield from _axes(shown, wide, high)
    top = _top(shown)
    for colour, _, line in shown:
        for day, value in line.items():
            x, y = _x(day, wide), _y(value, top, high)
            size = f"width='8' height='{_y(0, top, high) - y:.0f}'"
            yield f"<rect x='{x - 4:.0f}' y='{y:.0f}' {size} fill='{colour}'/>"


def _top(shown: Sequence[Series]) -> float:
    """Return the end of the scale: the greatest value, rounded up to a half of its power of ten."""
    most = max((value for *_, line in shown for value in line.values()), default=0) or 1
    step = 10.0 ** math.floor(math.log10(most)) / 2
    return math.ceil(most / step) * step


def _x(day: float, wide: float) -> float:
    return 52 + day * (wide - 76) / (DAYS - 1)


def _y(value: float, top: float, high: float) -> float:
    return high - 34 - value / top * (high - _HEAD - 44)


def _table(rows: Sequence[tuple[str, ...]], wide: float) -> Iterator[str]:
    places = (12, 130, 290, 370, 430, 560, 900)
    for number, row in enumerate(rows):
        y = 52 + 26 * number
        yield from (_label(x, y, cell, more="" if number else _BOLD) for x, cell in zip(places, row, strict=False))
        yield f"<line x1='12' y1='{y + 9}' x2='{wide - 12:.0f}' y2='{y + 9}' stroke='#eaeded'/>"


def main() -> int:
    """Draw the picture again; return the exit status."""
    FILE.write_text(draw(body()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    run(main)
