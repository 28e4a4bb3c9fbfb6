"""The emulator without HTTP in between, in a fraction of the time, for tests that are about something else."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from botocore import xform_name
from botocore.parsers import create_parser
from moto.secretsmanager.models import secretsmanager_backends
from moto.secretsmanager.responses import SecretsManagerResponse
from werkzeug.exceptions import HTTPException

from local.servers.secrets_manager import REGION, protect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from botocore.client import BaseClient
    from botocore.model import OperationModel, Shape
    from botocore.parsers import ResponseParser

    from local.servers.secrets_manager import Refuse, SecretsManagerServer


def make_client(
    keeper: SecretsManagerServer,
    arn: str,
    *,
    over_http: bool,
    refuse: Refuse = lambda _: None,
) -> Any:  # noqa: ANN401 - boto3 makes it
    """Make a client of the account that the ARN is in; what `refuse` names fails before it is carried out."""
    return keeper.client() if over_http else Direct(keeper.client(), Answering(account_of(arn), refuse))


@contextmanager
def answered_directly(keeper: SecretsManagerServer, *clients: BaseClient) -> Iterator[None]:
    """Have calls of these clients answered without HTTP in between; the server notes them as if it had been asked."""
    answering = Answering(account_of(keeper.function_arn))

    def ask(model: OperationModel, params: Mapping[str, Any], **_: object) -> Any:  # noqa: ANN401 - stubs know no answer
        keeper.calls.append(model.name)
        status, answer = answering.ask(model, json.loads(params["body"]))
        return SimpleNamespace(status_code=status), answer

    for client in clients:
        client.meta.events.register("before-call", ask)
    try:
        yield
    finally:
        for client in clients:
            client.meta.events.unregister("before-call", ask)


def account_of(arn: str) -> str:
    return arn.split(":")[4]


def forget(arn: str) -> None:
    """Have the emulator know no more of the secret than if it had never been."""
    secrets = secretsmanager_backends[account_of(arn)][REGION].secrets
    dict.pop(secrets, secrets[arn].name)


@dataclass(frozen=True, slots=True)
class Direct:
    """Has the methods and exceptions of a client, but not what botocore does around each call."""

    client: Any  # boto3 makes it
    answering: Answering

    @property
    def exceptions(self) -> Any:  # noqa: ANN401 - boto3's
        return self.client.exceptions

    def __getattr__(self, name: str) -> Callable[..., Any]:
        model = self.client.meta.service_model.operation_model(self.client.meta.method_to_api_mapping[name])

        def call(**parameters: object) -> Any:  # noqa: ANN401 - as boto3's
            status, answer = self.answering.ask(model, parameters)
            if status == HTTPStatus.OK:
                return answer
            raise self.exceptions.from_code(answer["Error"]["Code"])(answer, model.name)

        return call


@dataclass(frozen=True, slots=True)
class Answering:
    """What moto does for an account, without the request and the response of HTTP around it."""

    account: str
    refuse: Refuse = lambda _: None
    parser: ResponseParser = field(default_factory=lambda: create_parser("json"))

    def ask(self, model: OperationModel, parameters: Mapping[str, object]) -> tuple[int, Any]:
        """Have the operation carried out; return the status, and the answer as botocore reads it."""
        status, body = self._carry_out(model.name, parameters)
        shape = cast("Shape", model.output_shape)  # no operation of Secrets Manager answers nothing
        return status, self.parser.parse({"status_code": status, "headers": {}, "body": body.encode()}, shape)

    def _carry_out(self, operation: str, parameters: Mapping[str, object]) -> tuple[int, str]:
        taken = protect(self.account, parameters) if operation == "PutSecretValue" else None
        if refusal := self.refuse(operation) or taken:
            return refusal[0], json.dumps({"__type": refusal[1], "message": "refused"})
        try:
            return HTTPStatus.OK, getattr(_Response(self.account, parameters), xform_name(operation))()
        except HTTPException as error:
            return error.code or HTTPStatus.BAD_REQUEST, str(error.description)


class _Response(SecretsManagerResponse):
    def __init__(self, account: str, parameters: Mapping[str, object]) -> None:
        super().__init__()
        self.current_account, self.region, self.parameters = account, REGION, parameters

    def _get_param(self, param_name: str, if_none: Any = None) -> Any:  # noqa: ANN401 - as in moto
        return self.parameters.get(param_name, if_none)
