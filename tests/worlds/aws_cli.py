"""Stand-in for the AWS CLI: `aws SERVICE OPERATION --parameter value …` becomes one call, by botocore's own model."""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
import traceback
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING, Any

import botocore.session
import jmespath  # type: ignore[import-untyped]
from botocore import xform_name
from botocore.exceptions import ClientError
from botocore.validate import validate_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PROGRAM = """
import os, socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as line, line.makefile("rb") as answer:
    line.sendall("\\0".join([os.getcwd(), *sys.argv[2:]]).encode())
    line.shutdown(socket.SHUT_WR)
    status, said = answer.read().decode().split("\\0")
(sys.stderr if int(status) else sys.stdout).write(said)
sys.exit(int(status))
"""
FAILED = 254
"""How the AWS CLI ends where the service answers with an error."""

_AGO = {"d": "days", "h": "hours", "m": "minutes"}


@contextmanager
def aws_cli(
    folder: Path, client: Callable[[str], Any], instead: Mapping[str, Callable[..., Mapping[str, Any]]] | None = None
) -> Iterator[str]:
    """Put a program `aws` into the folder; yield a PATH that finds it there.

    `client` returns the client of a service; an operation that is a key of `instead`, such as "lambda invoke", is
    carried out by its value. All calls are made in this process: to load boto3 takes longer than a rotation.
    """

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            where, *words = self.rfile.read().decode().split("\0")
            try:
                status, said = 0, answer(words, Path(where), client, instead or {})
            except ClientError as error:
                status, said = FAILED, f"{error}\n"
            except Exception:  # noqa: BLE001 - the shell's script ends there, and the test shows why
                status, said = 1, traceback.format_exc()
            self.wfile.write(f"{status}\0{said}".encode())

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        program = [sys.executable, "-I", "-S", "-c", PROGRAM, str(server.server_address[1])]
        file = folder / "aws"
        file.write_text(f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n')
        file.chmod(0o755)
        try:
            yield f"{folder}{os.pathsep}{os.environ['PATH']}"
        finally:
            server.shutdown()
            thread.join()


def answer(
    words: list[str],
    folder: Path,
    client: Callable[[str], Any],
    instead: Mapping[str, Callable[..., Mapping[str, Any]]],
) -> str:
    """Make the call that the command line asks for; return the answer as `--query` and `--output` want it."""
    service, operation, *rest = words
    tail = (service, operation) == ("logs", "tail")
    if tail:
        (_, group), *others = _options(rest, set())
        since = dict(others)["--since"]
        begin = datetime.now(UTC) - timedelta(**{_AGO[since[-1]]: int(since[:-1])})
        milliseconds = str(int(begin.timestamp() * 1000))
        operation, rest = "filter-log-events", ["--log-group-name", group, "--start-time", milliseconds]
    model = botocore.session.get_session().get_service_model(service)
    [name] = [name for name in model.operation_names if xform_name(name, "-") == operation]
    shape = model.operation_model(name).input_shape
    assert shape is not None
    members = {f"--{xform_name(name, '-')}": (name, member.type_name) for name, member in shape.members.items()}
    given = dict(_options(rest, {option for option, (_, kind) in members.items() if kind == "boolean"}))
    query, output = given.pop("--query", "@"), given.pop("--output", "json")
    given.pop("--cli-binary-format", None)
    outfile = given.pop("", None)
    parameters = {members[option][0]: _value(value, members[option][1], folder) for option, value in given.items()}
    validate_parameters(parameters, shape)
    call = instead.get(f"{service} {operation}") or getattr(client(service), xform_name(name))
    found = {key: value for key, value in call(**parameters).items() if key != "ResponseMetadata"}
    if tail:
        return "".join(f"{_time(one['timestamp'])} {one['message'].rstrip()}\n" for one in found["events"])
    if outfile:
        (folder / outfile).write_bytes(found.pop("Payload").read())
    found = jmespath.search(query, found)
    return f"{_as_text(found) if output == 'text' else json.dumps(found, default=str, indent=4)}\n"


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


def _value(value: Any, kind: str, folder: Path) -> Any:  # noqa: ANN401 - what botocore takes
    if isinstance(value, bool):
        return value
    text = (folder / value.removeprefix("file://")).read_text() if value.startswith("file://") else value
    kinds: dict[str, Callable[[str], Any]] = {"integer": int, "long": int, "blob": str.encode, "string": str}
    return kinds.get(kind, json.loads)(text)


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds").removesuffix("+00:00")


def _as_text(found: object) -> str:
    """Return it as the AWS CLI's text output has it: a list's parts with tabs between them, None for null."""
    return "\t".join(map(_as_text, found)) if isinstance(found, list) else str(found)
