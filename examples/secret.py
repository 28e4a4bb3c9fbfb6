"""Read a secret of key/value pairs from Secrets Manager, with the cache of Powertools for AWS Lambda."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from aws_lambda_powertools.utilities.parameters import get_secret
from aws_lambda_powertools.utilities.parameters.exceptions import TransformParameterError

logging.getLogger("botocore").setLevel(logging.INFO)  # at DEBUG it logs what it receives: the secret


def read_secret(secret_id: str, *, max_age_s: int = 300) -> dict[str, Any]:
    """Return what the secret's AWSCURRENT holds, not older than `max_age_s`; GetParameterError if it cannot be read.

    A customer managed key changes nothing here: Secrets Manager decrypts, for a role that has kms:Decrypt on the key.
    """
    with suppress(TransformParameterError, UnicodeDecodeError):  # both carry the secret along
        return get_secret(secret_id, transform="json", max_age=max_age_s, VersionStage="AWSCURRENT")
    raise ValueError(f"{secret_id} does not hold JSON.")


def read_version(secret_id: str, label: str) -> dict[str, Any]:
    """Return what the version with the staging label, say AWSPREVIOUS, holds at this moment; nothing is cached.

    Powertools' cache knows a secret by its name alone: with another max_age, the next caller for AWSCURRENT would be
    given this version.
    """
    with suppress(TransformParameterError, UnicodeDecodeError):
        return get_secret(secret_id, transform="json", max_age=0, force_fetch=True, VersionStage=label)
    raise ValueError(f"{label} of {secret_id} does not hold JSON.")
