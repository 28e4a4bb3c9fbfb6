"""The four steps of a rotation: each asks where the version stands, and does the least that brings it on.

A version with AWSPENDING is *empty* (no value), *created* (a value that the database refuses) or *set* (a value that
the database accepts). Any step may be repeated, come late, run twice or be cut off anywhere. The value is stored
before the database is changed, so that no password is ever known to the database alone.
"""

import logging
from contextlib import suppress

from rotation_lambda.copies import Kind
from rotation_lambda.credential import Credential
from rotation_lambda.errors import MissingVersionError, SecretsManagerError
from rotation_lambda.rotation import Rotation, read_credential
from rotation_lambda.settings import PasswordPolicy
from rotation_lambda.staging import StagingLabel
from rotation_lambda.strategies import choose_strategy

logger = logging.getLogger(__name__)

REPLICAS_S = 30.0
"""How long finishSecret waits for the secret's replicas in other Regions."""

# How often a value is looked for that createSecret has stored: a read right after a write can be stale.
_PATIENCE = 3


def create_secret(rotation: Rotation, policy: PasswordPolicy, rotation_token: str | None = None) -> None:
    """createSecret: afterwards the version has a value, AWSCURRENT's credential with a new password.

    Under alternating users it is for the other user. Copies of the login in other keys are renewed with it; a copy that
    cannot be renewed is an InvalidSecretError, before anything is stored.

    1. *current*, *set*, *created*: it has a value; nothing is done, for the database may know that password already.
    2. *empty*: a password is made and stored with the event's token, under AWSPENDING alone.
    3. A twin stores between our look and our call: the twin's value counts, ours was never used.
    """
    token, secrets = rotation.token, rotation.secrets
    with suppress(MissingVersionError):
        if not rotation.versions.is_current(token):
            secrets.get_secret_value(token)
        logger.info("The version has a value already; it is left as it is.")
        return
    current = _read_current(rotation)
    user = choose_strategy(rotation, current).next_user(current)
    copies = current.with_password(secrets.get_random_password(policy), user).renewed()
    for note in copies.notes(Kind.RENEWED, Kind.OLD_USER):
        logger.info(note)
    for note in copies.notes(Kind.NO_USER, Kind.OTHER_USER, Kind.ALLOWED, Kind.WORD):
        logger.warning(note)
    if secrets.put_secret_value(token, copies.text, rotation_token):
        logger.info("Stored a new password for %a under AWSPENDING.", user)
    else:
        secrets.get_secret_value(token)
        logger.info("Another invocation has stored a password under AWSPENDING; it is left as it is.")


def set_secret(rotation: Rotation) -> None:
    """setSecret: afterwards the database accepts the version's credential, proved by a login.

    1. *current*: nothing is done.
    2. *empty*: MissingVersionError.
    3. *created*: who may do it, as a rule the user of AWSCURRENT, changes the password.
    4. *set*: an earlier try was cut off here; nothing is done, but that a superuser sets the same password again.
    """
    if rotation.versions.is_current(rotation.token):
        logger.info("The version is AWSCURRENT already; nothing to do.")
        return
    rotation.memory.clear()  # what an earlier try has proved is proved again, or not true any more
    current = _read_current(rotation)
    strategy = choose_strategy(rotation, current)
    pending = _read_pending(rotation)
    strategy.check_pending(current, pending)
    strategy.set_password(current, pending)


def test_secret(rotation: Rotation) -> None:
    """testSecret: the version's credential logs in and runs a query; nothing is changed.

    1. *set*, *current*: that is proved.
    2. *created*: LoginRefusedError, since setSecret has not been there.
    3. *empty*: AWSCURRENT is tested in its place. Secrets Manager invokes testSecret alone, with a copied or an empty
       version, when rotation is switched on without rotating at once (AWS: RotateSecret, RotateImmediately).
    """
    try:
        credential = _read_pending(rotation)
    except MissingVersionError:
        logger.info("The version is empty; AWSCURRENT is tested in its place.")
        credential = _read_current(rotation)
    session = choose_strategy(rotation, credential).prove(credential)
    if session is not None:
        session.close()
    logger.info("%s logs in.", credential.label)


def finish_secret(rotation: Rotation) -> None:
    """finishSecret: afterwards the version has AWSCURRENT.

    1. *current*: nothing is done.
    2. *empty*: MissingVersionError; *created*: LoginRefusedError. Neither is ever promoted.
    3. *set*: a login proves it once more, and AWSCURRENT moves in one call.
    """
    if rotation.versions.is_current(rotation.token):
        logger.info("The version is AWSCURRENT already; nothing to do.")
        return
    pending = _read_pending(rotation)
    choose_strategy(rotation, pending).promote(pending)
    if rotation.versions.replicas:
        _await_replicas(rotation)


def _await_replicas(rotation: Rotation) -> None:
    """Wait until the secret's replicas have the new version, and say how it ended: the rotation itself is done."""
    deadline, state = rotation.deadline, dict.fromkeys(rotation.versions.replicas, "InProgress")
    began = deadline.clock()
    while "InProgress" in state.values() and deadline.clock() - began < REPLICAS_S and deadline.pause(0.5):
        try:
            state = dict(rotation.secrets.describe_secret().replicas)
        except SecretsManagerError as error:
            logger.warning("Whether the replicas have the new version is not known: %s", error.what)
            return
    seconds = deadline.clock() - began
    if late := ", ".join(f"{region} {status}" for region, status in state.items() if status != "InSync"):
        told = "After %.1f seconds not every replica has the new version: %s. Applications there read the old password."
        logger.warning(told, seconds, late)
    else:
        logger.info("The replicas in %s have the new version, after %.1f seconds.", ", ".join(state), seconds)


def _read_pending(rotation: Rotation) -> Credential:
    for _ in range(_PATIENCE - 1):
        with suppress(MissingVersionError):
            return read_credential(rotation.secrets, rotation.token, StagingLabel.PENDING)
        rotation.deadline.pause(0.3)
    return read_credential(rotation.secrets, rotation.token, StagingLabel.PENDING)


def _read_current(rotation: Rotation) -> Credential:
    return read_credential(rotation.secrets, rotation.versions.current, StagingLabel.CURRENT)
