"""The four steps of a rotation: each asks where the version stands, and does the least that brings it on.

A version with AWSPENDING is *empty* (no value), *created* (a value that the database refuses) or *set* (a value that
the database accepts). Any step may be repeated, come late, run twice or be cut off anywhere. The value is stored
before the database is changed, so that no password is ever known to the database alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol, Self

from rotation_lambda.credential import Credential
from rotation_lambda.errors import (
    ConfigurationError,
    InvalidSecretError,
    LoginNotAllowedError,
    LoginRefusedError,
    MissingVersionError,
)
from rotation_lambda.settings import Strategy
from rotation_lambda.staging import StagingLabel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rotation_lambda.event import RotationEvent
    from rotation_lambda.settings import PasswordPolicy, Settings
    from rotation_lambda.staging import SecretVersions

logger = logging.getLogger(__name__)


class Secrets(Protocol):
    """What the steps need of Secrets Manager, for one secret."""

    def get_secret_value(self, version: str) -> str: ...
    def get_random_password(self, policy: PasswordPolicy) -> str: ...
    def put_secret_value(self, version: str, value: str, rotation_token: str | None) -> bool: ...
    def update_secret_version_stage(self, label: StagingLabel, *, move_to: str, remove_from: str) -> None: ...


class Session(Protocol):
    """What the steps need of a session in the database."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def change_password(self, password: str) -> None: ...


class Database(Protocol):
    """What the steps need of the database: a session, LoginRefusedError, or an error that stops the step."""

    def log_in(self, credential: Credential) -> Session: ...


def create_secret(event: RotationEvent, versions: SecretVersions, secrets: Secrets, settings: Settings) -> None:
    """createSecret: afterwards the version has a value, AWSCURRENT's credential with a new password.

    1. *current*, *set*, *created*: it has a value; nothing is done, for the database may know that password already.
    2. *empty*: a password is made and stored with the event's token, under AWSPENDING alone.
    3. A twin stores between our look and our call: the twin's value counts, ours was never used.
    """
    token = event.client_request_token
    if versions.is_current(token) or _has_value(secrets, token):
        logger.info("The version has a value already; it is left as it is.")
        return
    current = _read_current(versions, secrets, settings)
    pending = current.with_password(secrets.get_random_password(settings.password_policy))
    if secrets.put_secret_value(token, pending.to_json(), event.rotation_token):
        logger.info("Stored a new password under AWSPENDING.")
    else:
        secrets.get_secret_value(token)
        logger.info("Another invocation has stored a password under AWSPENDING; it is left as it is.")


def set_secret(
    event: RotationEvent, versions: SecretVersions, secrets: Secrets, database: Database, settings: Settings
) -> None:
    """setSecret, single user: afterwards the database accepts the version's password, proved by a login.

    1. *current*: nothing is done.
    2. *empty*: MissingVersionError.
    3. *created*: the first password that lets us in, AWSCURRENT's as a rule, changes the password.
    4. *set*: AWSCURRENT is refused and AWSPENDING accepted: an earlier try was cut off here; nothing is done.

    Only a refused password leads to the next one. Whatever else stands in the way raises its error and changes nothing.
    """
    token = event.client_request_token
    if versions.is_current(token):
        logger.info("The version is AWSCURRENT already; nothing to do.")
        return
    current = _read_current(versions, secrets, settings)
    pending = _read_credential(secrets, token, StagingLabel.PENDING)
    pending.check_same_login(current, token)
    refused = []
    for label, credential in _ways_in(versions, secrets, current, pending):
        try:
            if label is StagingLabel.PENDING:
                _prove(database, credential)
                logger.info("The database accepts AWSPENDING already; nothing to do.")
                return
            session = database.log_in(credential)
        except LoginRefusedError:
            refused.append(label)
            continue
        with session:
            session.change_password(pending.password)
            _prove(database, pending)
        logger.info("Changed the password, let in by %s; a second login proved AWSPENDING.", label)
        return
    raise LoginRefusedError(f"The database refused the password of each of {', '.join(refused)}.")


def test_secret(event: RotationEvent, versions: SecretVersions, secrets: Secrets, database: Database) -> None:
    """testSecret: the version's credential logs in and runs a query; nothing is changed.

    1. *set*, *current*: that is proved.
    2. *created*: LoginRefusedError, since setSecret has not been there.
    3. *empty*: AWSCURRENT is tested in its place. Secrets Manager invokes testSecret alone, with a copied or an empty
       version, when rotation is switched on without rotating at once (AWS: RotateSecret, RotateImmediately).
    """
    token = event.client_request_token
    try:
        credential = _read_credential(secrets, token, StagingLabel.PENDING)
    except MissingVersionError:
        credential = _read_credential(secrets, versions.current, StagingLabel.CURRENT)
        logger.info("The version is empty; AWSCURRENT is tested in its place.")
    _prove(database, credential)
    logger.info("The credential logs in.")


def finish_secret(event: RotationEvent, versions: SecretVersions, secrets: Secrets, database: Database) -> None:
    """finishSecret: afterwards the version has AWSCURRENT, and nothing but a login moves it there.

    1. *current*: nothing is done.
    2. *empty*: MissingVersionError; *created*: LoginRefusedError. Neither is ever promoted.
    3. *set*: a login proves it once more, and AWSCURRENT moves in one call.
    """
    token = event.client_request_token
    if versions.is_current(token):
        logger.info("The version is AWSCURRENT already; nothing to do.")
        return
    _prove(database, _read_credential(secrets, token, StagingLabel.PENDING))
    secrets.update_secret_version_stage(StagingLabel.CURRENT, move_to=token, remove_from=versions.current)
    logger.info("Moved AWSCURRENT to the version.")


def _ways_in(
    versions: SecretVersions, secrets: Secrets, current: Credential, pending: Credential
) -> Iterator[tuple[StagingLabel, Credential]]:
    """Yield the credentials that may let us in, likeliest first.

    Of an older version only the password is borrowed: where to connect, and as whom, is AWSCURRENT's to say.
    """
    yield StagingLabel.CURRENT, current
    yield StagingLabel.PENDING, pending
    previous = versions.with_label(StagingLabel.PREVIOUS)
    if previous is not None:
        try:
            borrowed = _read_credential(secrets, previous, StagingLabel.PREVIOUS)
        except InvalidSecretError as error:
            logger.warning("AWSPREVIOUS is passed over: %s", error.what)
        else:
            if borrowed.username == current.username:
                yield StagingLabel.PREVIOUS, current.with_password(borrowed.password)


def _prove(database: Database, credential: Credential) -> None:
    """Return when the database accepts the credential; raise LoginRefusedError, or what else stands in the way.

    A right password with a shut door, such as a reached connection limit, is accepted: it is the password that rotates.
    """
    try:
        with database.log_in(credential):
            pass
    except LoginNotAllowedError as error:
        logger.warning("The password is accepted, but %s %s", error.what, error.hint)


def _has_value(secrets: Secrets, version: str) -> bool:
    try:
        secrets.get_secret_value(version)
    except MissingVersionError:
        return False
    return True


def _read_current(versions: SecretVersions, secrets: Secrets, settings: Settings) -> Credential:
    """Return AWSCURRENT's credential; ConfigurationError where it is not for the strategy to change."""
    current = _read_credential(secrets, versions.current, StagingLabel.CURRENT)
    if current.masterarn and settings.strategy is Strategy.AUTO:
        raise ConfigurationError(
            "The secret has a `masterarn`, which asks for alternating users; this version rotates single users only.",
            hint="Set ROTATION_STRATEGY=single-user if the user is to change its own password; or remove `masterarn`.",
        )
    return current


def _read_credential(secrets: Secrets, version: str, label: StagingLabel) -> Credential:
    text = secrets.get_secret_value(version)
    try:
        return Credential.parse(text)
    except InvalidSecretError as error:
        raise InvalidSecretError(f"{label}, version {version}: {error.what}", hint=error.hint) from None
