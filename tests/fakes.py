"""Stand-ins in memory for both outside things, held true by the contracts in test_secrets_manager and test_postgres."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from rotation_lambda.errors import DatabaseError, LoginRefusedError, MissingVersionError
from rotation_lambda.staging import SecretVersions, StagingLabel

if TYPE_CHECKING:
    from rotation_lambda.credential import Credential
    from rotation_lambda.settings import PasswordPolicy


@dataclass(slots=True)
class FakeSecretsManager:
    """One secret: what each version holds, and which label is on which version."""

    values: dict[str, str] = field(default_factory=dict)
    labels: dict[StagingLabel, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    rotation_tokens: list[str | None] = field(default_factory=list)

    def describe_secret(self) -> SecretVersions:
        self.calls.append("DescribeSecret")
        versions: dict[str, frozenset[str]] = {}
        for label, version in self.labels.items():
            versions[version] = versions.get(version, frozenset()) | {label}
        return SecretVersions(versions, rotation_enabled=True)

    def get_secret_value(self, version: str) -> str:
        self.calls.append("GetSecretValue")
        if version not in self.values:
            raise MissingVersionError(f"Version {version} has no value.")
        return self.values[version]

    def get_random_password(self, policy: PasswordPolicy) -> str:
        self.calls.append("GetRandomPassword")
        return secrets.token_hex(policy.length)[: policy.length]

    def put_secret_value(self, version: str, value: str, rotation_token: str | None) -> bool:
        self.calls.append("PutSecretValue")
        self.rotation_tokens.append(rotation_token)
        if self.values.get(version, value) != value:
            return False
        self.values[version] = value
        self.labels[StagingLabel.PENDING] = version
        return True

    def update_secret_version_stage(self, label: StagingLabel, *, move_to: str, remove_from: str) -> None:
        self.calls.append("UpdateSecretVersionStage")
        assert self.labels[label] == remove_from
        self.labels[StagingLabel.PREVIOUS] = remove_from
        self.labels[label] = move_to


@dataclass(slots=True)
class FakeDatabase:
    """One server with one role. `trouble` maps a password to what its login raises instead of being answered."""

    role: str
    password: str
    trouble: dict[str, DatabaseError] = field(default_factory=dict)
    logins: list[Credential] = field(default_factory=list)
    open_sessions: int = 0

    def log_in(self, credential: Credential) -> FakeSession:
        self.logins.append(credential)
        if error := self.trouble.get(credential.password):
            raise error
        if (credential.username, credential.password) != (self.role, self.password):
            raise LoginRefusedError(f"Role {credential.username}: refused.")
        self.open_sessions += 1
        return FakeSession(self)


@dataclass(slots=True)
class FakeSession:
    """An open session of the role."""

    database: FakeDatabase

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.open_sessions -= 1

    def change_password(self, password: str) -> None:
        self.database.password = password
