"""The entry point: what Secrets Manager asks is parsed, guarded by the staging labels and handed to its step."""

from __future__ import annotations

import gc

gc.disable()  # nothing that is imported is garbage, and to look for some takes a tenth of a cold start

import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger

from rotation_lambda import __version__, clients, metrics, steps
from rotation_lambda.deadline import RESERVE_S, Deadline
from rotation_lambda.errors import RotationError, UnexpectedError
from rotation_lambda.event import RotationEvent, Step
from rotation_lambda.postgres import Postgres
from rotation_lambda.rds import Rds
from rotation_lambda.rotation import PROOF_S, Proof, Rotation
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.settings import Settings
from rotation_lambda.superuser import Superusers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_lambda_powertools.utilities.typing import LambdaContext

    from rotation_lambda.preflight import Report


@dataclass(frozen=True, slots=True)
class Memory:
    """What this process keeps of a rotation from step to step; without it a step reads again, and never moves blindly.

    `proofs` are what logins have shown, `values` what the versions hold: a version's value never changes (AWS:
    PutSecretValue). It is forgotten at the end of the rotation, when another begins, or PROOF_S after `began`.
    """

    token: str
    began: float
    proofs: dict[str, Proof] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict, repr=False)


# By secret: a fleet's process takes steps of many.
_MEMORY: dict[str, Memory] = {}


logger = Logger(service="rotation_lambda", version=__version__)
for name in ("boto3", "botocore", "urllib3"):
    logging.getLogger(name).setLevel(logging.WARNING)  # at DEBUG they log what is sent and received, passwords too
with suppress(Exception):  # while Lambda starts the function, time is cheap; what stands in the way the steps will tell
    clients.secrets_manager()
gc.freeze()
gc.enable()


@logger.inject_lambda_context(log_event=False, clear_state=True)
def lambda_handler(event: Mapping[str, object], context: LambdaContext) -> dict[str, Any] | None:
    """Take one step of a rotation (AWS: Lambda rotation functions); log and raise a RotationError if it fails.

    The answer is None, but for a preflight its report.
    """
    try:
        return _take(RotationEvent.parse(event), context)
    except RotationError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - whatever it is, its text could quote a secret: only its class gets out
        place = extract_tb(error.__traceback__)[-1]
        failure = UnexpectedError(f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}.")
    log = logger.critical if failure.critical else logger.error
    log(failure.message, code=failure.code, hint=failure.hint, page=failure.page)
    raise failure


def _take(event: RotationEvent, context: LambdaContext) -> dict[str, Any] | None:
    if event.step is Step.PREFLIGHT:
        return _look(event, context)
    token = event.client_request_token
    logger.append_keys(secret_id=event.secret_id, version_id=token, step=event.step)
    with metrics.of_step(context.function_name, event.step, lambda: logger.get_current_keys()["secret_id"]) as measured:
        settings = Settings.from_environment(os.environ)
        logger.append_keys(strategy=settings.strategy)
        deadline = Deadline.after(context.get_remaining_time_in_millis())
        client = clients.secrets_manager()
        description = SecretsManager(client, event.secret_id, deadline, patient=True).describe()
        versions = description.versions
        logger.append_keys(secret_id=description.arn)
        versions.check(token, event.step)
        memory = _recall(description.arn, token, done=versions.is_current(token))
        secrets = SecretsManager(client, description.arn, deadline, values=memory.values, patient=True)
        database = Postgres(settings.sslmode, settings.sslrootcert, deadline)
        early = replace(deadline, end=deadline.end - RESERVE_S)  # no superuser is looked for once the reserve has begun
        superusers = Superusers(
            lambda arn: SecretsManager(client, arn, early), lambda: Rds(clients.rds(), early), settings
        )
        adapters, told = (secrets, database, deadline, superusers), (memory.proofs, measured.__setitem__)
        rotation = Rotation(token, versions, *adapters, settings.strategy, *told)
        match event.step:
            case Step.CREATE_SECRET:
                steps.create_secret(rotation, settings.password_policy, event.rotation_token)
            case Step.SET_SECRET:
                steps.set_secret(rotation)
            case Step.TEST_SECRET:
                steps.test_secret(rotation)
            case Step.FINISH_SECRET:  # pragma: no branch - mypy proves the match exhaustive
                steps.finish_secret(rotation)
                if _MEMORY.get(description.arn) is memory:
                    del _MEMORY[description.arn]
                measured["RotationSucceeded"] = 1
    return None


def _recall(secret: str, token: str, *, done: bool) -> Memory:
    """Return what there is of this rotation, nothing if it is done; forget what is old, or of one that is over."""
    now = time.monotonic()
    for one, memory in list(_MEMORY.items()):
        if now - memory.began > PROOF_S or (one == secret and (memory.token == token) is done):
            _MEMORY.pop(one, None)
    return Memory(token, now) if done else _MEMORY.setdefault(secret, Memory(token, now))


def _look(event: RotationEvent, context: LambdaContext) -> dict[str, Any]:
    from rotation_lambda import preflight  # noqa: PLC0415 - no rotation waits for its import

    logger.append_keys(step=event.step)
    reports: list[dict[str, Any]] = []
    logs = {preflight.Status.WARNING: logger.warning, preflight.Status.FAILED: logger.error}

    def tell(report: Report) -> None:
        reports.append(report.to_json())
        logger.append_keys(secret_id=report.secret_id)
        for finding in report.findings:
            if log := logs.get(finding.status):
                log(finding.seen, check=finding.check, code=finding.code, hint=finding.action)
        logger.info("The worst finding of the preflight: %s.", report.worst)
        metrics.emit(context.function_name, report.secret_id, report.measured, step=event.step)

    seconds, arn = context.get_remaining_time_in_millis() / 1000, context.invoked_function_arn
    if event.secret_id:
        tell(preflight.run(event.secret_id, os.environ, seconds=seconds, function_arn=arn))
        return reports[0]
    left_out = preflight.run_all(os.environ, tell, seconds=seconds, function_arn=arn)
    logger.remove_keys(["secret_id"])
    logger.info("The preflight has looked at %d of %d secrets.", len(reports), len(reports) + len(left_out))
    if left_out:
        told = "There was no time for %d secrets; the next preflights begin with others."
        logger.warning(told, len(left_out), hint="Raise Timeout, or run the preflight more often (PreflightSchedule).")
    return preflight.answer(reports, left_out)
