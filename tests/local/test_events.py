"""A container gets at the stack of `make local`, verifies it, and finds the events of a rotation that has begun."""

from __future__ import annotations

import json
import os
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from local import StoppedError, events
from local.servers import rotation
from local.servers.stack import Stack, run_stack
from rotation_lambda.credential import Credential
from rotation_lambda.event import RotationEvent, Step
from tests import ROOT
from tests.deployment.cloudformation import as_written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVENTS = sorted((ROOT / "events").glob("*.json"))
STEPS = {"create_secret": "createSecret", "set_secret": "setSecret", "test_secret": "testSecret"}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with run_stack(container_host=events.HOST) as running:
        yield running


@pytest.fixture(scope="module")
def other() -> Iterator[Stack]:
    with run_stack(container_host=events.HOST) as running:
        yield running


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """What `sam build` leaves, as far as its files matter."""
    build = tmp_path / "build"
    (build / "RotationFunction").mkdir(parents=True)
    (build / "RotationFunction" / "handler.py").touch()
    (build / "template.yaml").touch()
    return build


def prepare(folder: Path, build: Path, port: int | None = None) -> list[Path]:
    """Do what `make events` does."""
    return events.prepare(events.find_stack(folder, port), folder, build)


def parse(file: Path) -> RotationEvent:
    return RotationEvent.parse(json.loads(file.read_text()))


def test_there_is_an_event_for_every_step() -> None:
    rotating = [file for file in EVENTS if file.stem != "preflight"]
    assert {file.stem: str(parse(file).step) for file in rotating} == {**STEPS, "finish_secret": "finishSecret"}
    assert {str(step) for step in Step} >= set(STEPS.values())


def test_a_rotation_has_begun_and_the_events_are_its_own(stack: Stack, build: Path, tmp_path: Path) -> None:
    with events.announced(stack, tmp_path):
        written = prepare(tmp_path, build)
    labels = rotation.labels(stack.secrets_manager.client(), stack.container_arn)
    assert {file.name for file in written} == {file.name for file in EVENTS}
    for event in [parse(file) for file in written if file.stem != "preflight"]:
        assert (event.secret_id, event.client_request_token) == (stack.container_arn, labels.versions["AWSPENDING"])
    assert labels.empty == {labels.versions["AWSPENDING"]}


def test_each_time_another_rotation_begins(stack: Stack, build: Path, tmp_path: Path) -> None:
    with events.announced(stack, tmp_path):
        first, second = (parse(prepare(tmp_path, build)[0]).client_request_token for _ in range(2))
    assert first != second


def test_the_authority_is_in_the_copy_and_not_in_the_build(stack: Stack, build: Path, tmp_path: Path) -> None:
    folder = tmp_path / "local"
    with events.announced(stack, folder):
        prepare(folder, build)
    assert stack.postgres.ca_file
    assert (folder / "RotationFunction" / events.CA_FILE).read_bytes() == stack.postgres.ca_file.read_bytes()
    assert (folder / "RotationFunction" / "handler.py").exists()
    assert (folder / "template.yaml").exists()
    assert not (build / "RotationFunction" / events.CA_FILE).exists()


def test_the_environment_leads_there_by_variables_that_the_template_has(
    stack: Stack, build: Path, tmp_path: Path
) -> None:
    """`sam local` drops every other one without a word."""
    with events.announced(stack, tmp_path):
        prepare(tmp_path, build)
    environment = json.loads((tmp_path / "environment.json").read_text())["Parameters"]
    function = as_written()["Resources"]["RotationFunction"]["Properties"]
    assert environment == {
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": f"http://{events.HOST}:{stack.secrets_manager.port}",
        "PGSSLROOTCERT": f"/var/task/{events.CA_FILE}",
        "ROTATION_STRATEGY": stack.strategy,
    }
    assert environment.keys() <= function["Environment"]["Variables"].keys()


def test_the_function_connects_where_the_container_knows_the_server(stack: Stack) -> None:
    value = stack.secrets_manager.client().get_secret_value(SecretId=stack.container_arn, VersionStage="AWSCURRENT")
    credential = Credential.parse(value["SecretString"])
    assert credential.host == "localhost"
    assert credential.address == (events.HOST, stack.postgres.port)
    login = {"host": events.HOST, "hostaddr": "127.0.0.1", "sslmode": "verify-full"}
    stack.postgres.connect(credential.username, credential.password, **login).close()


def test_nothing_is_prepared_without_a_stack(build: Path, tmp_path: Path, stack: Stack) -> None:
    with events.announced(stack, tmp_path):
        pass
    with pytest.raises(StoppedError, match="No local stack is running: type `make local`"):
        prepare(tmp_path, build)


class TestTwoStacks:
    """Two of `make local` in one checkout do not know of each other."""

    def test_the_end_of_one_leaves_the_other_where_it_is(self, stack: Stack, other: Stack, tmp_path: Path) -> None:
        with events.announced(stack, tmp_path):
            with events.announced(other, tmp_path):
                pass
            assert events.find_stack(tmp_path)["ca_file"] == str(stack.postgres.ca_file)
        assert not list(tmp_path.iterdir())

    def test_the_last_one_is_taken_or_that_whose_port_is_named(
        self, stack: Stack, other: Stack, tmp_path: Path
    ) -> None:
        with events.announced(stack, tmp_path), events.announced(other, tmp_path):
            os.utime(tmp_path / f"stack-{stack.secrets_manager.port}.json", (1, 1))
            assert events.find_stack(tmp_path)["ca_file"] == str(other.postgres.ca_file)
            assert events.find_stack(tmp_path, stack.secrets_manager.port)["ca_file"] == str(stack.postgres.ca_file)
            with pytest.raises(StoppedError, match="No local stack is running on port 1: "):
                events.find_stack(tmp_path, 1)

    def test_one_that_was_killed_is_passed_over(self, stack: Stack, tmp_path: Path) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as closed:
            port = closed.getsockname()[1]
        stale = tmp_path / f"stack-{port}.json"
        with events.announced(stack, tmp_path):
            server = {"port": port, "function_arn": stack.secrets_manager.function_arn}
            stale.write_text(json.dumps({"secrets_manager": server, "secret_arn": stack.secret_arn}))
            assert events.find_stack(tmp_path)["ca_file"] == str(stack.postgres.ca_file)
        assert not list(tmp_path.iterdir())


def test_the_bridge_is_an_address_of_this_machine_or_there_is_none() -> None:
    address = events.bridge_address()
    if address is not None:
        with closing(socket.create_server((address, 0))) as server:
            assert server.getsockname()[0] == address
