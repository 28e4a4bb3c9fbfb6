"""May it be done? The staging labels of a secret's versions, and what they allow a rotation step to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from rotation_lambda import errors
from rotation_lambda.event import Step


class StagingLabel(StrEnum):
    """The labels that Secrets Manager itself moves (AWS: "What's in a secret?", staging labels)."""

    CURRENT = "AWSCURRENT"
    PENDING = "AWSPENDING"
    PREVIOUS = "AWSPREVIOUS"


@dataclass(frozen=True, slots=True)
class SecretVersions:
    """Which version has which labels at one moment, as DescribeSecret tells it.

    `rotation_enabled` is None where rotation was never configured: a first rotation looks so. `managed` is true for the
    secret of a superuser that RDS created, and rotates itself (AWS: "Password management with Amazon RDS").
    `replicas` has the state of each Region that the secret is replicated to: InSync, InProgress or Failed. `users` are
    those that the secret's tag names (trust.TAG).
    """

    labels: Mapping[str, frozenset[str]]
    rotation_enabled: bool | None = None
    deleted: bool = False
    managed: bool = False
    replicas: Mapping[str, str] = field(default_factory=dict)
    users: frozenset[str] = frozenset()

    def with_label(self, label: StagingLabel) -> str | None:
        """Return the id of the version that has the label, or None."""
        return next((version for version, labels in self.labels.items() if label in labels), None)

    @property
    def current(self) -> str:
        """The id of the version with AWSCURRENT; MissingVersionError where none has it."""
        version = self.with_label(StagingLabel.CURRENT)
        if version is None:
            what = "The secret has no version with AWSCURRENT: there is nothing to rotate from."
            hint = "Store the credential first, with `aws secretsmanager put-secret-value`."
            raise errors.MissingVersionError(what, hint=hint)
        return version

    def is_current(self, version: str) -> bool:
        """Tell whether the version is the one with AWSCURRENT: the rotation to it is done."""
        return StagingLabel.CURRENT in self.labels.get(version, frozenset())

    def check_secret(self, step: Step | None = None) -> None:
        """Return when the secret may be rotated, whatever version; otherwise raise the RotationRefusedError that fits.

        Disabled means present and false: null and absent pass. For testSecret it is no obstacle: that changes nothing,
        and may come while rotation is being switched on (AWS: RotateSecret with RotateImmediately=false).
        """
        if self.deleted:
            raise errors.SecretDeletedError("The secret is marked for deletion.")
        if self.managed:
            raise errors.SecretManagedError("RDS manages this secret, and rotates it itself.")
        if self.rotation_enabled is False and step is not Step.TEST_SECRET:
            raise errors.RotationDisabledError("Rotation is disabled for this secret.")

    def check(self, version: str, step: Step) -> None:
        """Return when a rotation to this version may take the step; otherwise raise the RotationRefusedError that fits.

        A version that is current already passes as well: a step which comes late or twice does no harm.
        """
        self.check_secret(step)
        labels = self.labels.get(version)
        if not labels:
            raise errors.VersionNotStagedError(f"Version {version} has no staging label.")
        if not labels & {StagingLabel.PENDING, StagingLabel.CURRENT}:
            raise errors.VersionNotPendingError(f"Version {version} has {', '.join(sorted(labels))}, not AWSPENDING.")
