"""Figures, rows and tables: statistics, printing and JSON.

A row compares two series that were measured in turns, round by round. Its ratio is the median of
the rounds' own ratios, so a machine that slows down for both sides does not change it. It is always
"how many times as good is the subject": above 1 the subject wins, whatever the unit.
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from typing import Any

# A unit knows which way is better and how to print itself.
RATE, SPEED, SECONDS, BYTES, SHARE, EXTRA = "/s", "B/s", "s", "B", "%", "% more"
_HIGHER_IS_BETTER = {
    RATE: True,
    SPEED: True,
    SECONDS: False,
    BYTES: False,
    SHARE: True,
    EXTRA: False,
}
_SCALES: dict[str, list[tuple[float, str]]] = {
    RATE: [(1e6, " M/s"), (1e3, " k/s"), (1.0, " /s")],
    SECONDS: [(1.0, " s"), (1e-3, " ms"), (1e-6, " µs"), (1e-9, " ns")],
    SPEED: [(1e6, " MB/s")],
    BYTES: [(1e6, " MB"), (1.0, " B")],
    SHARE: [(0.01, " %")],
    EXTRA: [(0.01, " %")],
}


@dataclass
class Series:
    """One side of a row: a figure for each round."""

    label: str
    values: list[float]
    unit: str

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        scale, suffix = _scale(self.median, self.unit)
        middle, low, high = (
            _digits(x / scale) for x in (self.median, min(self.values), max(self.values))
        )
        spread = f" [{low}..{high}]" if len(self.values) > 1 else ""
        return f"{middle}{suffix}{spread}"


@dataclass
class Target:
    """The least that is wanted of the row's ratio, or (`of="figure"`) of the subject's figure."""

    limit: float
    of: str = "ratio"

    def text(self, unit: str) -> str:
        if self.of == "ratio":
            return f"≥ {self.limit:.2f}"
        sign = "≥" if _HIGHER_IS_BETTER[unit] else "≤"
        return f"{sign} {Series('', [self.limit], unit)}"


@dataclass
class Row:
    what: str
    subject: Series
    reference: Series | None = None
    target: Target | None = None

    @property
    def ratios(self) -> list[float]:
        if self.reference is None:
            return []
        pairs = zip(self.subject.values, self.reference.values, strict=True)
        if _HIGHER_IS_BETTER[self.subject.unit]:
            return [mine / other for mine, other in pairs]
        return [other / mine for mine, other in pairs]

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        if self.target.of == "ratio":
            return statistics.median(self.ratios) >= self.target.limit
        if _HIGHER_IS_BETTER[self.subject.unit]:
            return self.subject.median >= self.target.limit
        return self.subject.median <= self.target.limit

    def cells(self) -> list[str]:
        target = ""
        if self.target is not None:
            target = f"{self.target.text(self.subject.unit)} {'met' if self.met else 'missed'}"
        reference = f"{self.reference.label}: {self.reference}" if self.reference else "-"
        return [
            self.what,
            f"{self.subject.label}: {self.subject}",
            reference,
            _spread(self.ratios) if self.ratios else "-",
            target,
        ]

    def as_json(self) -> dict[str, Any]:
        answer = dataclasses.asdict(self)
        for name in ("subject", "reference"):
            side = getattr(self, name)
            if side is not None:
                answer[name] |= {"median": side.median}
        if self.ratios:
            answer["ratio"] = {
                "median": statistics.median(self.ratios),
                "min": min(self.ratios),
                "max": max(self.ratios),
            }
        if self.target is not None:
            answer["target"] |= {"text": self.target.text(self.subject.unit), "met": self.met}
        return answer


@dataclass
class Report:
    """What one benchmark found. `sync`: the mode of pykv's store in it; `grid`: a table of its own
    below the rows, the first line its head."""

    sync: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    grid: list[list[str]] = field(default_factory=list)

    def table(self) -> str:
        lines: list[list[str]] = [["what", "figure", "against", "ratio", "target"]]
        lines += [row.cells() for row in self.rows]
        text = _aligned(lines)
        if self.grid:
            text += ["", *_aligned(self.grid)]
        return "\n".join(line.rstrip() for line in text + [f"  ({note})" for note in self.notes])

    def as_json(self) -> dict[str, Any]:
        rows = [row.as_json() for row in self.rows]
        return {"sync": self.sync, "rows": rows, "notes": self.notes, "grid": self.grid}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Report:
        rows = [_row_from_json(row) for row in data["rows"]]
        return Report(data["sync"], rows, data["notes"], data["grid"])


def _row_from_json(data: dict[str, Any]) -> Row:
    def part(kind: Any, value: dict[str, Any] | None) -> Any:
        names = [f.name for f in dataclasses.fields(kind)]
        return value and kind(**{name: value[name] for name in names})

    return Row(
        data["what"],
        part(Series, data["subject"]),
        part(Series, data["reference"]),
        part(Target, data["target"]),
    )


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]


def _scale(value: float, unit: str) -> tuple[float, str]:
    scales = _SCALES[unit]
    return next(((scale, text) for scale, text in scales if abs(value) >= scale), scales[-1])


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spread(values: list[float]) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.2f} [{low:.2f}..{high:.2f}]" if len(values) > 1 else f"{middle:.2f}"
