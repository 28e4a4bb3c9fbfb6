"""What is asked: the event with which Secrets Manager invokes the function, once for each step of a rotation."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import NoneType
from typing import Any, Self

from rotation_lambda.errors import InvalidEventError, RotationError

_SECRET_ID = re.compile(r"(arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:)?[\w/+=.@!-]{1,519}", re.ASCII)
_PLAIN = re.compile(r"[!-~]+")
_JSON_TYPES = {NoneType: "null", bool: "a boolean", str: "a string", list: "an array", dict: "an object"}
_ROTATION_TOKEN = re.compile(r"[a-zA-Z0-9-]{36,256}")  # AWS: PutSecretValue, RotationToken


class Step(StrEnum):
    """The four steps, in their order (AWS: Lambda rotation functions), and this function's own preflight."""

    CREATE_SECRET = "createSecret"
    SET_SECRET = "setSecret"
    TEST_SECRET = "testSecret"
    FINISH_SECRET = "finishSecret"
    PREFLIGHT = "preflight"


@dataclass(frozen=True, slots=True)
class RotationEvent:
    """One step for one version of one secret; a preflight is for no version, and may be for all secrets ("")."""

    step: Step
    secret_id: str
    client_request_token: str
    rotation_token: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, event: object) -> Self:
        """Return the event as a value; raise InvalidEventError, naming the key, for anything else than one.

        SecretId is the secret's ARN, as Secrets Manager sends it, or its name, as the API takes it and emulators do.
        Unknown keys are ignored, since AWS may add some. RotationToken is never quoted: it identifies who may store the
        new version (AWS: RotateSecret across accounts).
        """
        if not isinstance(event, Mapping):
            raise InvalidEventError(f"The event is {json_type(event)}, not an object.")
        step = _text(event, "Step")
        if step not in set(Step):
            raise InvalidEventError(f"Step is {_quote(step)}, not one of {', '.join(Step)}.")
        if step == Step.PREFLIGHT and "SecretId" not in event:
            return cls(Step.PREFLIGHT, "", "")
        secret_id = _text(event, "SecretId")
        if not _SECRET_ID.fullmatch(secret_id):
            what = f"SecretId is {_quote(secret_id)}, neither the ARN nor the name of a secret."
            hint = "Pass the secret's whole ARN; `aws secretsmanager describe-secret` prints it."
            raise InvalidEventError(what, hint=hint)
        if step == Step.PREFLIGHT:
            return cls(Step.PREFLIGHT, secret_id, "")
        token = _text(event, "ClientRequestToken")
        if not _PLAIN.fullmatch(token):
            raise InvalidEventError("ClientRequestToken holds a character that no version id has.")
        if not 32 <= len(token) <= 64:  # noqa: PLR2004
            raise InvalidEventError(f"ClientRequestToken has {len(token)} characters; a version id has 32 to 64.")
        rotation_token = None if event.get("RotationToken") is None else _text(event, "RotationToken")
        if rotation_token and not _ROTATION_TOKEN.fullmatch(rotation_token):
            raise InvalidEventError("RotationToken is not one: 36 to 256 letters, digits and hyphens.")
        return cls(Step(step), secret_id, token, rotation_token)


def _text(event: Mapping[Any, object], key: str) -> str:
    return read_text(event, key, key, InvalidEventError, "event")


def read_text(document: Mapping[Any, object], key: str, name: str, error: type[RotationError], place: str) -> str:
    """Return the string that the document has under the key; an error, which calls it by the name, for anything else.

    The value is never quoted.
    """
    if key not in document:
        raise error(f"{name} is missing from the {place}.")
    value = document[key]
    if not isinstance(value, str):
        raise error(f"{name} is {json_type(value)}, not a string.")
    if not value:
        raise error(f"{name} is empty.")
    return value


def _quote(value: str) -> str:
    return ascii(value if len(value) <= 80 else value[:80] + "…")  # noqa: PLR2004


def json_type(value: object) -> str:
    """Return JSON's word for the type of a value (RFC 8259, section 3)."""
    return _JSON_TYPES.get(type(value), "a number")
