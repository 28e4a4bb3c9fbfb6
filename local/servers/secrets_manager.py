"""Stand-in for Secrets Manager: a moto server on the loopback interface, with a function for RotateSecret to name."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from http import HTTPStatus
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from secrets import randbelow
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from botocore.config import Config
from werkzeug.test import EnvironBuilder, run_wsgi_app

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from ssl import SSLContext
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    import boto3

REGION = "us-east-1"
WRITES = frozenset({"PutSecretValue", "UpdateSecretVersionStage"})
"""The calls of a rotation that count against the quota of writes (AWS: Secrets Manager quotas)."""
READS = tuple(f"secretsmanager.{verb}" for verb in ("Describe", "Get", "List"))
"""How the names of calls begin that change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsManagerServer:
    """A Secrets Manager on this machine.

    `environment` brings any boto3 client here, `function_arn` names a function that does nothing, and `calls` are the
    names of the Secrets Manager operations that arrived, in order (appended by the server's threads; clear it at will).
    An operation that is a key of `carried_out` is carried out by its value instead of moto. At `tls_port` the same is
    served over HTTPS, if that is not 0.
    """

    port: int
    tls_port: int = 0
    address: str = "127.0.0.1"
    function_arn: str = ""
    calls: list[str] = field(default_factory=list)
    carried_out: dict[str, Operation] = field(default_factory=dict, repr=False)
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        """Return a boto3 client of this server, untouched by the environment: a new one where it has Config options.

        The others are kept: to make one takes longer than a dozen calls.
        """
        if not config and service in self._kept:
            return self._kept[service]
        client = _session().client(  # type: ignore[call-overload]
            service,
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",  # noqa: S106 - moto takes anything
            aws_session_token="testing",  # noqa: S106
            config=Config(**{"proxies": {}, **config}),
        )
        if not config:
            self._kept[service] = client
        return client

    def create_secret(self, name: str, value: str | Mapping[str, object]) -> str:
        """Keep `value` (JSON, unless it is text already) as AWSCURRENT of a new secret and return the secret's ARN."""
        text = value if isinstance(value, str) else json.dumps(dict(value))
        arn: str = self.client().create_secret(Name=name, SecretString=text)["ARN"]
        return arn


Answer = tuple[int, dict[str, Any]]
"""The status of an answer, and what is in it."""

Operation = Callable[[dict[str, Any], Callable[[dict[str, Any]], Answer]], Answer]
"""Answers a request; it may hand one on to moto, by the function that it gets."""

Refuse = Callable[[str], "tuple[int, str] | None"]
"""Tells with which status and error code an operation fails; None lets it pass."""


@dataclass(slots=True)
class Quota:
    """Lets so many writes a second pass and throttles the others, as Secrets Manager does for an account."""

    per_second: float
    clock: Callable[[], float] = time.monotonic
    throttled: int = 0
    _free_at: float = field(default=0.0, init=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __call__(self, operation: str) -> tuple[int, str] | None:
        """Answer a write that comes too soon after the last one with ThrottlingException."""
        if operation not in WRITES:
            return None
        with self._lock:
            now = self.clock()
            if now < self._free_at:
                self.throttled += 1
                return 400, "ThrottlingException"
            self._free_at = now + 1 / self.per_second
        return None


@contextmanager
def run_secrets_manager(
    *, bind: str = "127.0.0.1", port: int = 0, refuse: Refuse = lambda _: None, tls: SSLContext | None = None
) -> Iterator[SecretsManagerServer]:
    """Serve an empty Secrets Manager on `bind` (port 0: a free one); afterwards it listens no more.

    With `tls`, a server's context, it is served over HTTPS besides. What `refuse` names fails before it is carried out.
    moto keeps one state for the whole process, so every server is an AWS account of its own in it, and never met again.
    """
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415 - slow

    account = f"{randbelow(10**12):012}"
    calls: list[str] = []
    app = _Account(DomainDispatcherApplication(create_backend_app), account, calls, refuse)
    listeners = [_Listener((bind, port), app)]
    if tls:
        listeners.append(_Listener((bind, 0), app, tls))
    threads = [Thread(target=one.serve_forever, args=(0.01,), name="secrets-manager", daemon=True) for one in listeners]
    for thread in threads:
        thread.start()
    try:
        server = SecretsManagerServer(
            port=listeners[0].server_port,
            tls_port=listeners[-1].server_port if tls else 0,
            address="127.0.0.1" if bind == "0.0.0.0" else bind,  # noqa: S104 - no client calls that
            calls=calls,
            carried_out=app.carried_out,
        )
        yield replace(server, function_arn=_stub_function(server))
    finally:
        for listener, thread in zip(listeners, threads, strict=True):
            listener.hang_up()
            thread.join()


@dataclass(frozen=True, slots=True)
class _Account:
    """The WSGI application of one AWS account, which notes an operation of Secrets Manager before it is answered."""

    app: WSGIApplication
    account: str
    calls: list[str]
    refuse: Refuse = lambda _: None
    carried_out: dict[str, Operation] = field(default_factory=dict)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        service, _, operation = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")
        if service == "secretsmanager":
            self.calls.append(operation)
            if refusal := self.refuse(operation) or self._protect(operation, environ):
                status, code = refusal
                start_response(f"{status} {code}", [("Content-Type", "application/x-amz-json-1.1")])
                return [json.dumps({"__type": code, "message": "Refused"}).encode()]
        environ = {**environ, "HTTP_X_MOTO_ACCOUNT_ID": self.account}
        if operation not in self.carried_out:
            return self._moto(environ, start_response)

        def hand_on(request: dict[str, Any]) -> Answer:
            body = json.dumps(request).encode()
            asked = {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
            parts, status, _ = run_wsgi_app(self._moto, asked)
            return int(status.split()[0]), json.loads(b"".join(parts))

        request = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        number, answer = self.carried_out[operation](request, hand_on)
        start_response(f"{number} {HTTPStatus(number).phrase}", [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps(answer).encode()]

    def _protect(self, operation: str, environ: WSGIEnvironment) -> tuple[int, str] | None:
        """Keep the value of a version from being replaced; what is read for it can be read again."""
        if operation != "PutSecretValue":
            return None
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        environ["wsgi.input"] = io.BytesIO(body)
        return protect(self.account, json.loads(body))

    def _moto(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Have moto answer, which takes AWSPENDING's version for the current one from the rotation's first call on.

        What names no label means AWSCURRENT: GetSecretValue, and PutSecretValue, which makes AWSPREVIOUS of it.
        """
        from moto.secretsmanager.models import FakeSecret, secretsmanager_backends  # noqa: PLC0415 - slow

        answer = self.app(environ, start_response)
        if environ.get("HTTP_X_AMZ_TARGET", "").startswith(READS):
            return answer
        for secret in list(secretsmanager_backends[self.account][REGION].secrets.values()):
            if isinstance(secret, FakeSecret):
                labels = ((version, value["version_stages"]) for version, value in list(secret.versions.items()))
                current = next((version for version, stages in labels if "AWSCURRENT" in stages), None)
                secret.set_default_version_id(current)
        return answer


def protect(account: str, request: Mapping[str, Any]) -> tuple[int, str] | None:
    """Refuse PutSecretValue of another value for a version that has one (AWS: PutSecretValue, ClientRequestToken).

    moto does so as well, but not for a version with AWSPENDING.
    """
    from moto.secretsmanager.models import FakeSecret, secretsmanager_backends  # noqa: PLC0415 - slow

    secret = secretsmanager_backends[account][REGION].secrets.get(request["SecretId"])
    version = secret.versions.get(request.get("ClientRequestToken", "")) if isinstance(secret, FakeSecret) else None
    taken = version and version.get("secret_string") not in {None, request.get("SecretString")}
    return (HTTPStatus.BAD_REQUEST, "ResourceExistsException") if taken else None


class _Listener(ThreadingHTTPServer):
    """Serves the application to many at once."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], app: WSGIApplication, tls: SSLContext | None = None) -> None:
        super().__init__(address, _Handler)
        self.app, self.tls = app, tls
        self.connections: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Note who is connected."""
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - a socket and its address
        """Shake hands first, where the other side is to speak TLS."""
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with suppress(OSError), self.tls.wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)

    def close_request(self, request: Any) -> None:  # noqa: ANN401 - a socket
        """Note who is no longer connected."""
        self.connections.discard(request)
        super().close_request(request)

    def hang_up(self) -> None:
        """Listen no more, and end every connection."""
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """Hands requests to the application, and keeps the connection open between them, as AWS does."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer goes out in one piece
    server: _Listener

    def handle(self) -> None:
        """Answer until the other side hangs up, in whatever way."""
        with suppress(ConnectionError):
            super().handle()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url, asked = f"http://{self.headers['Host']}", list(self.headers.items())
        request = EnvironBuilder(self.path, url, method=self.command, headers=asked, data=body)
        parts, status, headers = run_wsgi_app(self.server.app, request.get_environ())
        answer = b"".join(parts)
        self.send_response(int(status.split()[0]))
        for name, value in headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - http.server asks for these names

    def log_message(self, *_: object) -> None:
        """Say nothing: the standard error belongs to the program that runs this server."""


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
    import boto3  # noqa: PLC0415 - with moto a second, which --help and a wrong option need not take
    import botocore.session  # noqa: PLC0415

    return boto3.Session(botocore_session=botocore.session.Session(session_vars={"profile": (None, None, None, None)}))
