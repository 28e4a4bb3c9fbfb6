"""What a preflight reports: how a check becomes a finding, none of which quotes a value of the secret's."""

import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from rotation_lambda.deadline import Deadline
from rotation_lambda.errors import RotationError, UnexpectedError, mask

IN_THE_WAY = "another check stands in the way"


class Status(StrEnum):
    """How a check ended. The worst finding is the report's status; a check that was not reached does not count."""

    NOT_REACHED = "not reached"
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a check has seen, and what to do about it. Without a status of its own it is ok, with an action a warning.

    `measured` has the days that were counted on the way, by the names of metrics.py.
    """

    text: str
    action: str = ""
    status: Status | None = None
    measured: dict[str, float] = field(default_factory=dict)

    def of(self, check: str) -> "Finding":
        """Return it as the finding of this check."""
        status = self.status or (Status.WARNING if self.action else Status.OK)
        return Finding(check, status, mask(self.text), mask(self.action), measured=self.measured)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was seen, and what to do about it. `code` is the error's that a rotation would end in."""

    check: str
    status: Status
    seen: str
    action: str = ""
    code: str = ""
    measured: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, str]:
        """Return what there is of it, without the days."""
        return {key: str(value) for key, value in asdict(self).items() if value and key != "measured"}

    def to_text(self, width: int) -> str:
        """Return the status, the check, what was seen, and an arrow before what to do, wrapped at words."""
        indent = " " * (len(Status.NOT_REACHED) + 2)
        wrap = partial(textwrap.wrap, width=width, break_long_words=False, break_on_hyphens=False)
        seen = wrap(f"{self.check}: {self.seen}", initial_indent=indent, subsequent_indent=indent)
        action = wrap(self.action, initial_indent=f"{indent}→ ", subsequent_indent=f"{indent}  ") if self.action else []
        return "\n".join([self.status + seen[0][len(self.status) :], *seen[1:], *action])


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about one secret, in the order of a rotation's way."""

    secret_id: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def worst(self) -> Status:
        """The status of the worst finding."""
        return max((finding.status for finding in self.findings), key=list(Status).index)

    @property
    def exit_status(self) -> int:
        """0 where nothing stands in the way of a rotation, 1 for warnings, 2 for failures."""
        return {Status.WARNING: 1, Status.FAILED: 2}.get(self.worst, 0)

    @property
    def measured(self) -> dict[str, float]:
        """What a dashboard shows of it: how many checks failed and warned, and of each kind of days the fewest."""
        days: dict[str, float] = {}
        for finding in self.findings:
            days |= {name: min(value, days.get(name, value)) for name, value in finding.measured.items()}
        numbers = Counter(finding.status for finding in self.findings)
        return {"PreflightFailed": numbers[Status.FAILED], "PreflightWarnings": numbers[Status.WARNING], **days}

    def to_json(self) -> dict[str, Any]:
        """Return the report as Lambda hands it over."""
        told = {"secret_id": self.secret_id, "status": str(self.worst), "seconds": round(self.seconds, 2)}
        return {**told, "findings": [finding.to_json() for finding in self.findings]}

    def to_text(self, width: int = sys.maxsize, *, quiet: bool = False) -> str:
        """Return the report for people; `quiet` leaves out all but warnings and failures."""
        reached = [finding for finding in self.findings if finding.seen != IN_THE_WAY]
        shown = [one for one in reached if one.status in {Status.WARNING, Status.FAILED} or not quiet]
        blocked = ", ".join(finding.check for finding in self.findings if finding.seen == IN_THE_WAY)
        if blocked and not quiet:
            shown.append(Finding(IN_THE_WAY, Status.NOT_REACHED, blocked))
        lines = [finding.to_text(width) for finding in shown]
        numbers = Counter(finding.status for finding in self.findings)
        counts = ", ".join(f"{numbers[status]} {status}" for status in reversed(Status) if numbers[status])
        summary = f"{counts}; {self.seconds:.2f} seconds. Nothing was changed."
        return "\n".join([f"Preflight of {self.secret_id}", "", *lines, *([""] if lines else []), summary])


class BlockedError(Exception):
    """Another check stands in the way of this one."""


@dataclass(repr=False, eq=False)
class Look:
    """What is looked at, the checks' findings, and, in further attributes, what the checks learn on their way.

    What none has learnt yet cannot be asked for: the check that asks is not reached. Each room of this wing adds its
    checks, up to run.py, which has them all in one table.
    """

    table: Mapping[str, Callable[[Any], Seen]]
    secret_id: str
    environment: Mapping[str, str]
    deadline: Deadline
    seconds: float | None = None
    function_arn: str | None = None
    tell: Callable[[Finding], object] = lambda _: None
    findings: dict[str, Finding] = field(default_factory=dict)
    reported: list[RotationError] = field(default_factory=list)

    if not TYPE_CHECKING:  # pragma: no branch - a misspelt name is still mypy's to find

        def __getattr__(self, name: str) -> NoReturn:
            raise BlockedError(name)

    def find(self, check: str) -> Finding:
        """Return the finding of a check, which is made once: one that needs what another learns asks for that first.

        An error is the finding of the check that meets it first. It stands in the way of all others that meet it.
        """
        if check not in self.findings:
            finding = Finding(check, Status.NOT_REACHED, IN_THE_WAY)
            try:
                finding = self.table[check](self).of(check)
            except BlockedError:
                pass
            except Exception as caught:  # noqa: BLE001 - a stranger answers anything, and its text could quote a secret
                foreign = UnexpectedError(f"The check ended in {type(caught).__name__}.")
                error = caught if isinstance(caught, RotationError) else foreign
                if error not in self.reported:
                    self.reported.append(error)
                    finding = Finding(check, Status.FAILED, error.what, error.hint, error.code)
            self.findings[check] = finding
            self.tell(finding)
        return self.findings[check]
