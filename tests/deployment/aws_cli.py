"""Stand-in for the AWS CLI: `aws SERVICE OPERATION --parameter value …` becomes one call, by botocore's own model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import boto3
from botocore import xform_name


def main() -> None:
    """Make the call that the command line asks for, and print its answer."""
    service, operation, *rest = sys.argv[1:]
    client = boto3.Session().client(service)  # type: ignore[call-overload]
    names = {xform_name(name, "-"): name for name in client.meta.method_to_api_mapping.values()}
    members = client.meta.service_model.operation_model(names[operation]).input_shape.members
    parameters = {f"--{xform_name(name, '-')}": name for name in members}
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    answer = getattr(client, operation.replace("-", "_"))(
        **{parameters[option]: _value(value) for option, value in given.items()}
    )
    answer.pop("ResponseMetadata")
    print(json.dumps(answer, default=str))  # noqa: T201 - it is what the command line is for


def _value(text: str) -> str:
    return Path(text.removeprefix("file://")).read_text() if text.startswith("file://") else text
