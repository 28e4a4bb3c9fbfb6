"""The door: what Secrets Manager asks is parsed, guarded by the staging labels and handed to its step."""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING

import boto3
from aws_lambda_powertools import Logger
from botocore.config import Config

from rotation_lambda import __version__, steps
from rotation_lambda.errors import RotationError, UnexpectedError
from rotation_lambda.event import RotationEvent, Step
from rotation_lambda.postgres import Postgres
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_lambda_powertools.utilities.typing import LambdaContext
    from mypy_boto3_secretsmanager import SecretsManagerClient

logger = Logger(service="rotation_lambda", version=__version__)
for name in ("boto3", "botocore", "urllib3"):
    logging.getLogger(name).setLevel(logging.INFO)  # at DEBUG they log what is sent and received, passwords too


@logger.inject_lambda_context(log_event=False, clear_state=True)
def lambda_handler(event: Mapping[str, object], context: LambdaContext) -> None:
    """Take one step of a rotation (AWS: «Lambda rotation functions»); log and raise a RotationError if it fails."""
    del context
    try:
        _take(RotationEvent.parse(event))
    except RotationError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - whatever it is, its text could quote a secret: only its class gets out
        place = extract_tb(error.__traceback__)[-1]
        failure = UnexpectedError(f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}.")
    else:
        return
    logger.error(failure.what, code=failure.code, hint=failure.hint)
    raise failure


def _take(event: RotationEvent) -> None:
    logger.append_keys(secret_id=event.secret_id, version_id=event.client_request_token, step=event.step)
    settings = Settings.from_environment(os.environ)
    logger.append_keys(strategy=settings.strategy)
    secrets = SecretsManager(_client(), event.secret_id)
    database = Postgres(settings.sslmode, settings.sslrootcert)
    versions = secrets.describe_secret()
    versions.check(event.client_request_token, event.step)
    match event.step:
        case Step.CREATE_SECRET:
            steps.create_secret(event, versions, secrets, settings)
        case Step.SET_SECRET:
            steps.set_secret(event, versions, secrets, database, settings)
        case Step.TEST_SECRET:
            steps.test_secret(event, versions, secrets, database)
        case Step.FINISH_SECRET:  # pragma: no branch - mypy proves the match exhaustive
            steps.finish_secret(event, versions, secrets, database)


@cache
def _client() -> SecretsManagerClient:
    return boto3.client(
        "secretsmanager",
        config=Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "max_attempts": 4}),
    )
