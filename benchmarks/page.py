"""The results in tables and in one picture: medians and quartiles, of each function and of pairs of runs."""

from __future__ import annotations

import math
from statistics import median, quantiles
from typing import TYPE_CHECKING

from benchmarks.measure import Fleet, Run
from local.servers import rotation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Runs = dict[int, dict[str, list[Run]]]
"""By memory size and by function; of two functions the runs are pairs, each taken right after the other."""

COLOURS = ("#1f77b4", "#ff7f0e")
_WIDE, _HIGH, _LEFT, _TOP, _FOOT = 720, 400, 60, 40, 60
_TEXT = "font-family='Helvetica, Arial, sans-serif' fill='#16191f'"


def tables(runs: Runs, default_mb: int) -> Iterator[str]:
    """Yield the tables: the start and the steps at the default size, then by size the window and the whole rotation."""
    names = list(runs[default_mb])
    start = {
        "Start": lambda run: run.cpus["init"],
        "Start and createSecret": lambda run: run.cpus["init"] + run.cpus[rotation.STEPS[0]],
    }
    steps = {step: lambda run, step=step: run.cpus[step] for step in rotation.STEPS}
    yield _table(f"Processor time, ms ({default_mb} MB)", names, _rows({**start, **steps}, runs[default_mb]))
    walls = {step: lambda run, step=step: run.walls[step] for step in ("init", *rotation.STEPS)}
    yield _table(f"Duration, ms ({default_mb} MB)", names, _rows(walls, runs[default_mb]))
    sizes: dict[str, Callable[[Run], float]] = {
        "Window, ms": lambda run: run.window,
        "Four steps after a cold start, ms": lambda run: run.wall - run.walls["init"],
        "Start and four steps, ms": lambda run: run.wall,
    }
    for title, of in sizes.items():
        rows = [[f"{size} MB", *_cells(of, pair)] for size, pair in runs.items()]
        yield _table(title, names, rows)
    rows = []
    for name, some in runs[default_mb].items():
        calls = some[-1].calls
        rows.append([name, str(calls.total()), ", ".join(f"{n} {call}" for call, n in sorted(calls.items()))])
        rows[-1].append(str(some[-1].logins))
    yield _lines(["One rotation", "Calls", "", "Logins"], rows)


def fleet(fleets: Mapping[str, Fleet], at_once: int) -> str:
    """Return the table of fleets, by function."""
    rows = []
    for name, one in fleets.items():
        limit = f"{one.per_second:.0f} writes a second" if one.per_second else "no limit"
        lost = ", ".join(f"{count} in {where}" for where, count in one.lost.most_common()) or "none"
        rows.append([name, limit, f"{one.seconds:.0f} s", str(one.throttled)])
        rows[-1] += [str(one.lost.total()), lost, str(one.locked_out)]
    head = [f"{next(iter(fleets.values())).rotations} rotations, {at_once} at once"]
    return _lines([*head, "Limit", "Time", "Throttled", "Lost", "Where", "Locked out"], rows)


def _rows(figures: Mapping[str, Callable[[Run], float]], runs: Mapping[str, list[Run]]) -> list[list[str]]:
    return [[name, *_cells(of, runs)] for name, of in figures.items()]


def _cells(of: Callable[[Run], float], runs: Mapping[str, list[Run]]) -> Iterator[str]:
    """Yield a figure of each function, and of two functions the ratio, pair by pair."""
    columns = [[of(run) for run in some] for some in runs.values()]
    yield from (spread(column, 0) for column in columns)
    if len(columns) > 1:
        yield spread([one / other for one, other in zip(*columns, strict=True)], 2)


def spread(values: Sequence[float], digits: int) -> str:
    """Return the median, and in brackets the quartiles."""
    low, high = _quartiles(values)
    return f"{median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, _, high = quantiles([*values, *values] if len(values) == 1 else values, n=4, method="inclusive")
    return low, high


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return _lines([title, *names, *(["Ratio"] if len(names) > 1 else [])], rows)


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---", *("--:" for _ in head[1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, marks, *rows))


def draw(runs: Runs, title: str) -> str:
    """Return the picture of the window by memory size, in SVG: medians, with bars from quartile to quartile."""
    sizes = list(runs)
    top = max(run.window for pair in runs.values() for some in pair.values() for run in some)
    step = 10.0 ** math.floor(math.log10(top)) / 2
    top = math.ceil(top / step) * step

    def x(size: int) -> float:
        return _LEFT + (sizes.index(size) + 0.5) * (_WIDE - _LEFT) / len(sizes)

    def y(value: float) -> float:
        return _HIGH - _FOOT - value / top * (_HIGH - _FOOT - _TOP)

    lines = [f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDE} {_HIGH}' font-size='12' {_TEXT}>"]
    lines += [f"<title>{title}</title>", f"<rect width='{_WIDE}' height='{_HIGH}' fill='#fff'/>"]
    lines += [f"<text x='12' y='22' font-size='14' font-weight='bold'>{title}</text>"]
    for number in range(round(top / step) + 1):
        value = number * step
        lines += [f"<line x1='{_LEFT}' x2='{_WIDE - 12}' y1='{y(value):.0f}' y2='{y(value):.0f}' stroke='#eaeded'/>"]
        lines += [f"<text x='{_LEFT - 8}' y='{y(value) + 4:.0f}' text-anchor='end'>{value:g}</text>"]
    for size in sizes:
        lines += [f"<text x='{x(size):.0f}' y='{_HIGH - _FOOT + 18}' text-anchor='middle'>{size} MB</text>"]
    for number, (colour, name) in enumerate(zip(COLOURS, runs[sizes[0]], strict=False)):
        points = {size: [run.window for run in pair[name]] for size, pair in runs.items()}
        path = " ".join(f"{x(size):.0f},{y(median(values)):.0f}" for size, values in points.items())
        lines += [f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>"]
        for size, values in points.items():
            (low, high), middle, place = _quartiles(values), median(values), f"{x(size):.0f}"
            bar = f"M{place} {y(low):.0f}V{y(high):.0f}"
            lines += [f"<path d='{bar}' stroke='{colour}' stroke-width='8' opacity='0.4'/>"]
            lines += [f"<circle cx='{place}' cy='{y(middle):.0f}' r='4' fill='{colour}'/>"]
            lines += [f"<text x='{x(size) + 8:.0f}' y='{y(middle) - 8:.0f}'>{middle:.0f}</text>"]
        lines += [f"<rect x='{_LEFT + 240 * number}' y='{_HIGH - 24}' width='12' height='12' fill='{colour}'/>"]
        lines += [f"<text x='{_LEFT + 240 * number + 18}' y='{_HIGH - 14}'>{name}</text>"]
    return "\n".join([*lines, "</svg>", ""])
