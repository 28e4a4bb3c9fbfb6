"""Stand-in for Secrets Manager: a moto server on the loopback interface, with a function for RotateSecret to name."""

from __future__ import annotations

import json
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from http.client import HTTPConnection
from secrets import randbelow
from threading import Thread
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

REGION = "us-east-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsManagerServer:
    """A Secrets Manager on this machine.

    `environment` brings any boto3 client here, `function_arn` names a function that does nothing, and `calls` are the
    names of the Secrets Manager operations that arrived, in order (appended by the server's threads; clear it at will).
    """

    port: int
    address: str = "127.0.0.1"
    function_arn: str = ""
    calls: list[str] = field(default_factory=list)

    @property
    def endpoint_url(self) -> str:
        """The address of every service of this server."""
        return f"http://{self.address}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables under which boto3 finds this server, whatever proxy there is; the caller sets them."""
        return {
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": self.endpoint_url,
            "AWS_ENDPOINT_URL_RDS": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_SESSION_TOKEN": "testing",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "NO_PROXY": f"{self.address},localhost",
            "no_proxy": f"{self.address},localhost",
        }

    def client(self, service: str = "secretsmanager", **config: Any) -> Any:  # noqa: ANN401 - boto3 makes the classes
        """Make a boto3 client of this server, untouched by the environment; `config` are botocore's Config options."""
        return _session().client(  # type: ignore[call-overload]
            service,
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",  # noqa: S106 - moto takes anything
            aws_session_token="testing",  # noqa: S106
            config=Config(**{"proxies": {}, **config}),
        )

    def create_secret(self, name: str, value: str | Mapping[str, object]) -> str:
        """Keep `value` (JSON, unless it is text already) as AWSCURRENT of a new secret and return the secret's ARN."""
        text = value if isinstance(value, str) else json.dumps(dict(value))
        arn: str = self.client().create_secret(Name=name, SecretString=text)["ARN"]
        return arn


@contextmanager
def run_secrets_manager(*, bind: str = "127.0.0.1", port: int = 0) -> Iterator[SecretsManagerServer]:
    """Serve an empty Secrets Manager on `bind` (port 0: a free one); afterwards nobody listens.

    moto keeps one state for the whole process, so every server is an AWS account of its own in it, and never met again.
    """
    account = f"{randbelow(10**12):012}"
    calls: list[str] = []
    app = _Account(DomainDispatcherApplication(create_backend_app), account, calls)
    listener = make_server(bind, port, app, threaded=True, request_handler=_QuietHandler)
    thread = Thread(target=listener.serve_forever, args=(0.01,), name="secrets-manager", daemon=True)
    thread.start()
    try:
        address = "127.0.0.1" if bind == "0.0.0.0" else bind  # noqa: S104 - nobody is called there
        server = SecretsManagerServer(port=listener.server_port, address=address, calls=calls)
        yield replace(server, function_arn=_stub_function(server))
    finally:
        listener.shutdown()
        thread.join()


@dataclass(frozen=True, slots=True)
class _Account:
    """The WSGI application of one AWS account, which notes an operation of Secrets Manager before it is answered."""

    app: WSGIApplication
    account: str
    calls: list[str]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        service, _, operation = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")
        if service == "secretsmanager":
            self.calls.append(operation)
        return self.app({**environ, "HTTP_X_MOTO_ACCOUNT_ID": self.account}, start_response)


class _QuietHandler(MotoRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: the standard error belongs to whoever runs this server."""


def _stub_function(server: SecretsManagerServer) -> str:
    """Make a function that does nothing, and its role: RotateSecret refuses the ARN of a function that is not there."""
    connection = HTTPConnection(server.address, server.port, timeout=10)
    with closing(connection):
        connection.request("POST", "/moto-api/config", json.dumps({"lambda": {"use_docker": False}}))
        connection.getresponse().read()
    role = server.client("iam").create_role(RoleName="rotation", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    code = {"ZipFile": b"nothing"}
    function = server.client("lambda").create_function(
        FunctionName="rotation", Runtime="python3.13", Handler="handler.lambda_handler", Role=role, Code=code
    )
    arn: str = function["FunctionArn"]
    return arn


@cache
def _session() -> boto3.Session:
    """Make the one session of these clients, which does not ask which AWS_PROFILE is on."""
    return boto3.Session(botocore_session=botocore.session.Session(session_vars={"profile": (None, None, None, None)}))
