"""What a preflight reports: one finding for each check, none of which quotes a value of the secret's."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rotation_lambda.errors import RotationError

_WIDTH = 110


class Status(StrEnum):
    """How a check ended, from best to worst; what was not reached has its cause in another check."""

    OK = "ok"
    NOT_REACHED = "not reached"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was seen, and what to do about it. `code` is the error's that a rotation would end in."""

    check: str
    status: Status
    seen: str
    action: str = ""
    code: str = ""

    @classmethod
    def failure(cls, check: str, error: RotationError) -> Self:
        """Return the finding that a rotation would fail with this error."""
        return cls(check, Status.FAILED, error.what, error.hint, error.code)


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about one secret, in the order of a rotation's way."""

    secret_id: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def worst(self) -> Status:
        """The status of the worst finding."""
        order = list(Status)
        return max((finding.status for finding in self.findings), key=order.index)

    @property
    def exit_status(self) -> int:
        """0 where nothing stands in the way of a rotation, 1 for warnings, 2 for failures."""
        return {Status.WARNING: 1, Status.FAILED: 2}.get(self.worst, 0)

    def to_json(self) -> dict[str, Any]:
        """Return the report as Lambda hands it over."""
        findings = [{key: str(value) for key, value in asdict(finding).items() if value} for finding in self.findings]
        return {
            "secret_id": self.secret_id,
            "status": str(self.worst),
            "seconds": round(self.seconds, 2),
            "findings": findings,
        }

    def to_text(self) -> str:
        """Return the report as a table: the status, the check, what was seen, and an arrow before what to do."""
        first, second = (max(len(text) for text in column) for column in zip(*self._heads(), strict=True))
        lines = [f"Preflight of {self.secret_id}", ""]
        for finding in self.findings:
            head = f"{finding.status:<{first}}  {finding.check:<{second}}  "
            lines += _wrap(finding.seen, head)
            lines += _wrap(finding.action, " " * len(head) + "→ ") if finding.action else []
        counts = ", ".join(f"{self._count(status)} {status}" for status in Status if self._count(status))
        return "\n".join([*lines, "", f"{counts}; {self.seconds:.2f} seconds. Nothing was changed."])

    def _heads(self) -> list[tuple[str, str]]:
        return [(finding.status, finding.check) for finding in self.findings]

    def _count(self, status: Status) -> int:
        return sum(finding.status is status for finding in self.findings)


def _wrap(text: str, head: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
