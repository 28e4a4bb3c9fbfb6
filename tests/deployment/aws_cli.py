"""Stand-in for the AWS CLI: `aws SERVICE OPERATION --parameter value …` becomes one call, by botocore's own model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import jmespath  # type: ignore[import-untyped]
from botocore import xform_name

if TYPE_CHECKING:
    from collections.abc import Iterator


def main() -> None:
    """Make the call that the command line asks for, and print its answer as `--query` and `--output` want it."""
    service, operation, *rest = sys.argv[1:]
    client: Any = boto3.Session().client(service)  # type: ignore[call-overload]
    if (service, operation) == ("logs", "tail"):
        group, *_ = rest
        events = client.filter_log_events(logGroupName=group)["events"]
        print(*(event["message"].rstrip("\n") for event in events), sep="\n")  # noqa: T201
        return
    names = {xform_name(name, "-"): name for name in client.meta.method_to_api_mapping.values()}
    shape = client.meta.service_model.operation_model(names[operation]).input_shape
    members = {f"--{xform_name(name, '-')}": (name, member.type_name) for name, member in shape.members.items()}
    given = dict(_options(rest, {option for option, (_, kind) in members.items() if kind == "boolean"}))
    query, output = given.pop("--query", "@"), given.pop("--output", "json")
    given.pop("--cli-binary-format", None)
    outfile = given.pop("", None)
    parameters = {members[option][0]: _value(value, members[option][1]) for option, value in given.items()}
    answer = getattr(client, operation.replace("-", "_"))(**parameters)
    answer.pop("ResponseMetadata")
    if outfile:
        Path(outfile).write_bytes(answer.pop("Payload").read())
    found = jmespath.search(query, answer)
    print(_as_text(found) if output == "text" else json.dumps(found, default=str, indent=4))  # noqa: T201


def _options(words: list[str], switches: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield each option with its value: of a switch, whether it is on; of a word that is no option's, the word."""
    words = list(words)
    while words:
        word = words.pop(0)
        if word in switches:
            yield word, True
        elif f"--{word.removeprefix('--no-')}" in switches:
            yield f"--{word.removeprefix('--no-')}", False
        elif word.startswith("--"):
            yield word, words.pop(0)
        else:
            yield "", word


def _value(value: Any, kind: str) -> Any:  # noqa: ANN401 - what botocore takes
    if isinstance(value, bool):
        return value
    text = Path(value.removeprefix("file://")).read_text() if value.startswith("file://") else value
    return json.loads(text) if kind in {"structure", "list", "map"} else text


def _as_text(found: object) -> str:
    """Return it as the AWS CLI's text output has it: a list's parts with tabs between them, None for null."""
    return "\t".join(map(_as_text, found)) if isinstance(found, list) else str(found)
