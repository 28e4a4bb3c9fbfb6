"""The four steps of a rotation: each asks where the version stands, and does the least that brings it on.

A version with AWSPENDING is *empty* (no value), *created* (a value that the database refuses) or *set* (a value that
the database accepts). Any step may be repeated, come late, run twice or be cut off anywhere. The value is stored
before the database is changed, so that no password is ever known to the database alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rotation_lambda.errors import ConfigurationError, MissingVersionError
from rotation_lambda.settings import Strategy
from rotation_lambda.staging import StagingLabel
from rotation_lambda.strategies import SingleUser, read_credential

if TYPE_CHECKING:
    from rotation_lambda.credential import Credential
    from rotation_lambda.event import RotationEvent
    from rotation_lambda.settings import Settings
    from rotation_lambda.staging import SecretVersions
    from rotation_lambda.strategies import Secrets

logger = logging.getLogger(__name__)

_PATIENCE = 3
"""How often a value is looked for that createSecret has stored: a read right after a write can be stale."""


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


def set_secret(rotation: SingleUser, settings: Settings) -> None:
    """setSecret, single user: afterwards the database accepts the version's password, proved by a login.

    1. *current*: nothing is done.
    2. *empty*: MissingVersionError.
    3. *created*: the first password that lets us in, AWSCURRENT's as a rule, changes the password.
    4. *set*: AWSCURRENT is refused and AWSPENDING accepted: an earlier try was cut off here; nothing is done.
    """
    if rotation.versions.is_current(rotation.token):
        logger.info("The version is AWSCURRENT already; nothing to do.")
        return
    current = _read_current(rotation.versions, rotation.secrets, settings)
    pending = _read_pending(rotation)
    pending.check_same_login(current, rotation.token)
    rotation.set_password(current, pending)


def test_secret(rotation: SingleUser) -> None:
    """testSecret: the version's credential logs in and runs a query; nothing is changed.

    1. *set*, *current*: that is proved.
    2. *created*: LoginRefusedError, since setSecret has not been there.
    3. *empty*: AWSCURRENT is tested in its place. Secrets Manager invokes testSecret alone, with a copied or an empty
       version, when rotation is switched on without rotating at once (AWS: RotateSecret, RotateImmediately).
    """
    label, version = StagingLabel.PENDING, rotation.token
    try:
        credential = _read_pending(rotation)
    except MissingVersionError:
        logger.info("The version is empty; AWSCURRENT is tested in its place.")
        label, version = StagingLabel.CURRENT, rotation.versions.current
        credential = read_credential(rotation.secrets, version, label)
    session = rotation.prove(credential, label, version)
    if session is not None:
        session.close()
    logger.info("%s logs in.", label)


def finish_secret(rotation: SingleUser) -> None:
    """finishSecret: afterwards the version has AWSCURRENT.

    1. *current*: nothing is done.
    2. *empty*: MissingVersionError; *created*: LoginRefusedError. Neither is ever promoted.
    3. *set*: a login proves it once more, and AWSCURRENT moves in one call.
    """
    if rotation.versions.is_current(rotation.token):
        logger.info("The version is AWSCURRENT already; nothing to do.")
        return
    rotation.promote(_read_pending(rotation))
    logger.info("Moved AWSCURRENT to the version.")


def _read_pending(rotation: SingleUser) -> Credential:
    for _ in range(_PATIENCE - 1):
        try:
            return read_credential(rotation.secrets, rotation.token, StagingLabel.PENDING)
        except MissingVersionError:
            rotation.deadline.pause(0.3)
    return read_credential(rotation.secrets, rotation.token, StagingLabel.PENDING)


def _read_current(versions: SecretVersions, secrets: Secrets, settings: Settings) -> Credential:
    """Return AWSCURRENT's credential; ConfigurationError where it is not for the strategy to change."""
    current = read_credential(secrets, versions.current, StagingLabel.CURRENT)
    if current.masterarn and settings.strategy is Strategy.AUTO:
        raise ConfigurationError(
            "The secret has a `masterarn`, which asks for alternating users; this version rotates single users only.",
            hint="Set ROTATION_STRATEGY=single-user if the user is to change its own password; or remove `masterarn`.",
        )
    return current


def _has_value(secrets: Secrets, version: str) -> bool:
    try:
        secrets.get_secret_value(version)
    except MissingVersionError:
        return False
    return True
