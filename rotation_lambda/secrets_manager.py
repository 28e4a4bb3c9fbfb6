"""Where credentials are kept: AWS Secrets Manager, one method for one API call and one IAM action."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from rotation_lambda import clients, errors
from rotation_lambda.staging import SecretVersions, StagingLabel
from rotation_lambda.trust import TAG

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_secretsmanager.type_defs import RotationRulesTypeTypeDef

    from rotation_lambda.deadline import Deadline
    from rotation_lambda.settings import PasswordPolicy

_Answer = TypeVar("_Answer")
_KEY_TROUBLE = {"DecryptionFailure", "EncryptionFailure"}
_NOT_THERE = "InvalidParameterException"  # a label is not where it was to be removed from
_KEY_HINT = "Grant kms:Decrypt and kms:GenerateDataKey on the secret's key to the execution role; enable the key."
_CROWDED = "Rotate fewer secrets at the same time, or request a higher quota: an account's writes in a region share it."


@dataclass(frozen=True, slots=True)
class Description:
    """What Secrets Manager tells of a secret without its values; `clock` is its own at that moment."""

    arn: str
    versions: SecretVersions
    function_arn: str | None
    schedule: str | None
    last_rotated: datetime | None
    next_rotation: datetime | None
    kms_key: str | None
    tags: dict[str, str]
    clock: datetime | None


@dataclass(frozen=True, slots=True)
class SecretsManager:
    """One secret in Secrets Manager.

    A call whose failure may pass is repeated: a write until the deadline, a read a few times. Of a `patient` one, the
    secret that is rotated, what a step cannot do without is read until the deadline, too, while the service answers.
    Every method raises SecretsManagerError or one of its kinds when the call fails: botocore's own exceptions can quote
    what was sent, so they never leave clients.ask(). `values` are those of versions that are known already.
    """

    client: SecretsManagerClient
    secret_id: str
    deadline: Deadline
    values: dict[str, str] = field(default_factory=dict, kw_only=True, repr=False)
    patient: bool = field(default=False, kw_only=True)

    def describe_secret(self) -> SecretVersions:
        """Return the staging labels as they are now."""
        return self.describe().versions

    def describe(self) -> Description:
        """Return all that is known of the secret but its values (AWS: DescribeSecret)."""
        call = partial(self.client.describe_secret, SecretId=self.secret_id)
        answer = self._ask("DescribeSecret", None, call, answered=self.patient)
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        tags = {tag["Key"]: tag["Value"] for tag in answer.get("Tags", [])}
        return Description(
            arn=answer["ARN"],
            versions=SecretVersions(
                labels={version: frozenset(labels) for version, labels in answer.get("VersionIdsToStages", {}).items()},
                rotation_enabled=answer.get("RotationEnabled"),
                deleted="DeletedDate" in answer,
                managed=":secret:rds!" in answer["ARN"],
                replicas={one["Region"]: one["Status"] for one in answer.get("ReplicationStatus", [])},
                users=frozenset(tags.get(TAG, "").split(" ")) - {""},
            ),
            function_arn=answer.get("RotationLambdaARN"),
            schedule=_schedule(answer.get("RotationRules", {})),
            last_rotated=answer.get("LastRotatedDate"),
            next_rotation=answer.get("NextRotationDate"),
            kms_key=answer.get("KmsKeyId"),
            tags={key.lower(): value for key, value in tags.items()},
            clock=parsedate_to_datetime(date) if date else None,
        )

    def get_secret_value(self, version: str) -> str:
        """Return what a version holds (AWS: GetSecretValue); MissingVersionError where it has no value.

        Asked by version id, since a label can have moved since DescribeSecret, and once, since a version's value stays.
        """
        if version in self.values:
            return self.values[version]
        call = partial(self.client.get_secret_value, SecretId=self.secret_id, VersionId=version)
        answer = self._ask("GetSecretValue", version, call, answered=self.patient)
        if "SecretString" not in answer:
            raise errors.InvalidSecretError(f"Version {version} has a SecretBinary instead of a SecretString.")
        self.values[version] = answer["SecretString"]
        return self.values[version]

    def get_random_password(self, policy: PasswordPolicy) -> str:
        """Return a new password made by Secrets Manager's own random source (AWS: GetRandomPassword)."""
        call = partial(self.client.get_random_password, **policy.parameters)
        return self._ask("GetRandomPassword", None, call, answered=self.patient)["RandomPassword"]

    def put_secret_value(self, version: str, value: str, rotation_token: str | None) -> bool:
        """Store a value in the version and leave AWSPENDING on it (AWS: PutSecretValue).

        Returns False, storing nothing, where the version has another value already: a twin of this step was faster.
        VersionStages is always sent: without it the version would become AWSCURRENT at once. The rotation token is
        sent where Secrets Manager gave one: a rotation with an assumed role or across accounts needs it.
        """
        extra = {} if rotation_token is None else {"RotationToken": rotation_token}

        def put() -> bool:
            try:
                self.client.put_secret_value(
                    SecretId=self.secret_id,
                    ClientRequestToken=version,
                    SecretString=value,
                    VersionStages=[StagingLabel.PENDING],
                    **extra,
                )
            except self.client.exceptions.ResourceExistsException:
                return False
            self.values[version] = value
            return True

        return self._ask("PutSecretValue", version, put, patient=True)

    def update_secret_version_stage(self, label: StagingLabel, *, move_to: str, remove_from: str) -> None:
        """Move a label from one version to another in one call (AWS: UpdateSecretVersionStage).

        Secrets Manager moves AWSPREVIOUS by itself, and AWSPENDING is left alone: taking it away in a call of its own
        can make Secrets Manager believe that the rotation did not complete. A call is refused where a twin of this step
        was faster, or an earlier call's answer was lost: then the labels decide, as soon as a read is fresh. The error
        says of the label what is known.
        """
        call = partial(self.client.update_secret_version_stage, SecretId=self.secret_id, VersionStage=label)
        move = partial(call, MoveToVersionId=move_to, RemoveFromVersionId=remove_from)
        try:
            self._ask("UpdateSecretVersionStage", move_to, move, patient=True)
        except errors.SecretsManagerError as error:
            now = self._settle(label, remove_from, moved=_NOT_THERE in error.what)
            if now == move_to:
                return
            known = f"DescribeSecret says that {label} has not" if now else f"It is not known whether {label} has"
            error.what += f" {known} moved to version {move_to}."
            error.hint += " Check whether applications can log in: docs/runbook.md#2-are-applications-locked-out-now."
            raise

    def _settle(self, label: StagingLabel, before: str, *, moved: bool) -> str | None:
        """Return the version that has the label; None where that cannot be read.

        Where it has `moved`, it is read until it is another than before, or the time is up.
        """
        with suppress(errors.SecretsManagerError):
            while (now := self.describe_secret().with_label(label)) == before and moved:
                moved = self.deadline.pause(0.5, clients.CALL_S)
            return now
        return None

    def list_secret_version_ids(self) -> list[str]:
        """Return the ids of all retained versions, labelled or not, newest first (AWS: ListSecretVersionIds)."""
        page = partial(self.client.list_secret_version_ids, SecretId=self.secret_id, IncludeDeprecated=True)
        list_all = partial(_every_page, page, "Versions")
        oldest_first = sorted(self._ask("ListSecretVersionIds", None, list_all), key=lambda one: one["CreatedDate"])
        return [version["VersionId"] for version in reversed(oldest_first)]

    def list_secrets(self) -> dict[str, str | None]:
        """Return every secret of the account and Region, and the function that rotates it (AWS: ListSecrets)."""
        list_all = partial(_every_page, partial(self.client.list_secrets, MaxResults=100), "SecretList")
        return {one["ARN"]: one.get("RotationLambdaARN") for one in self._ask("ListSecrets", None, list_all)}

    def _ask(self, operation: str, version: str | None, call: Callable[[], _Answer], **patience: bool) -> _Answer:
        """Make a call, repeated where that may help."""
        read = partial(_read, operation=operation, secret_id=self.secret_id, version=version)
        return clients.ask(call, self.deadline, read, **patience)


def _every_page(call: Callable[..., Any], key: str) -> list[Any]:
    """Return what stands under the key in all pages of an answer."""
    found, page = [], call()
    while True:
        found += page[key]
        if not (token := page.get("NextToken")):
            return found
        page = call(NextToken=token)


def _schedule(rules: RotationRulesTypeTypeDef) -> str | None:
    days = rules.get("AutomaticallyAfterDays")
    return rules.get("ScheduleExpression") or (f"every {days} days" if days else None)


def _read(failure: clients.Failure, operation: str, secret_id: str, version: str | None) -> errors.RotationError:
    code, words = failure.code, " ".join(failure.words.split())[:500]
    if code == "ResourceNotFoundException":
        if version is None:
            return errors.SecretNotFoundError(f"Secrets Manager does not know the secret {secret_id}.")
        return errors.MissingVersionError(f"Version {version} has no value.")
    if code == "InvalidRequestException" and "delet" in words:
        return errors.SecretDeletedError("The secret is marked for deletion.")
    if failure.code in clients.DENIED:
        # Of the messages only this one is quoted: it names the action and the resource, and never a value.
        return errors.AccessDeniedError(f"secretsmanager:{operation} on {secret_id} was denied: {words}")
    if code in _KEY_TROUBLE:
        what = f"{operation} could not use the secret's KMS key ({code}): {words}"
        return errors.AccessDeniedError(what, hint=_KEY_HINT)
    hint = _CROWDED if clients.is_throttled(code) else failure.hint
    return errors.SecretsManagerError(f"{operation} {failure.what}.", hint=hint)
