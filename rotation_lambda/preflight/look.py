"""One look at a secret: how checks become findings, and what they begin with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from rotation_lambda import clients
from rotation_lambda.deadline import MINIMUM_S
from rotation_lambda.errors import ConfigurationError, RotationError
from rotation_lambda.postgres import Postgres
from rotation_lambda.preflight.findings import IN_THE_WAY, Finding, Seen, Status
from rotation_lambda.rds import Rds
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.settings import Settings
from rotation_lambda.superuser import Superusers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rotation_lambda.deadline import Deadline


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
            except RotationError as error:
                if error not in self.reported:
                    self.reported.append(error)
                    finding = Finding.failure(check, error)
            self.findings[check] = finding
            self.tell(finding)
        return self.findings[check]

    def check_timeout(self) -> Seen:
        """Tell whether a step can end in time."""
        if self.seconds is None:
            return Seen("not inside AWS Lambda", status=Status.NOT_REACHED)
        seen = f"Lambda leaves {self.seconds:.0f} seconds; a step needs {MINIMUM_S:.0f} at the worst"
        if self.seconds < MINIMUM_S:
            raise ConfigurationError(f"{seen}.", hint="Set the function's Timeout to 60 seconds (template.yaml does).")
        return Seen(seen)

    def check_environment(self) -> Seen:
        """Make of the environment what the other checks begin with."""
        self.settings = settings = Settings.from_environment(self.environment)
        self.database = Postgres(settings.sslmode, settings.sslrootcert, self.deadline)
        client = clients.secrets_manager()
        self.by_name = SecretsManager(client, self.secret_id, self.deadline)
        self.superusers = Superusers(
            lambda arn: SecretsManager(client, arn, self.deadline), lambda: Rds(clients.rds(), self.deadline), settings
        )
        return Seen(f"strategy {settings.strategy}, PGSSLMODE {settings.sslmode}")
