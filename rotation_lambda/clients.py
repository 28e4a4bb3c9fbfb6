"""Calls to AWS: clients that live as long as the process, and the one loop that repeats what may still succeed."""

from __future__ import annotations

import logging
import os
import re
import socket
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoRegionError
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.handlers import set_operation_specific_signer
from botocore.loaders import Loader
from urllib3.util import connection

from rotation_lambda.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_rds import RDSClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

    from rotation_lambda.deadline import Deadline

    _Read = Callable[["Failure"], Exception]

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 3, 5
CALL_S = CONNECT_TIMEOUT_S + READ_TIMEOUT_S
"""What a call may take; none begins with less time left."""

READS = 4
"""How often a call that changes nothing is tried."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 3.0
_NO_CREDENTIALS = "Set AWS credentials: in a shell by `aws sso login` or AWS_PROFILE, in Lambda by the execution role."
DENIED = {"AccessDeniedException", "AccessDenied", "UnrecognizedClientException", "403"}
_THROTTLED = ("Throttl", "TooManyRequests", "RequestLimitExceeded", "SlowDown")
_Answer = TypeVar("_Answer")
_connect = connection.create_connection


def _share(address: tuple[str, int], timeout: Any = None, *more: Any, **options: Any) -> socket.socket:  # noqa: ANN401
    """Connect to one of a host's addresses, which share the timeout: an interface endpoint has up to six.

    urllib3 gives it to each of them. The look-ups are not in it.
    """
    if isinstance(timeout, int | float):  # others in the process may have none
        timeout /= len(socket.getaddrinfo(*address, connection.allowed_gai_family(), socket.SOCK_STREAM))
    return _connect(address, timeout, *more, **options)


connection.create_connection = _share  # botocore has no way to set it

# One attempt: botocore's own pauses know no deadline, and what one invocation uses up of its retry quota would be
# missing in the next, since the client is kept.
_CONFIG = Config(connect_timeout=CONNECT_TIMEOUT_S, read_timeout=READ_TIMEOUT_S, retries={"total_max_attempts": 1})


def secrets_manager() -> SecretsManagerClient:
    """Return the process's client of Secrets Manager; ConfigurationError where none can be made."""
    return cast("SecretsManagerClient", _client("secretsmanager"))


def rds() -> RDSClient:
    """Return the process's client of RDS; ConfigurationError where none can be made."""
    return cast("RDSClient", _client("rds"))


class Failure(NamedTuple):
    """Why a call failed, without botocore's exception, which can quote what was sent.

    `what` begins with a verb. `code` is the service's, or botocore's name of what happened on the way; `words` are the
    service's own, which only its adapter can tell to be harmless.
    """

    what: str
    code: str = ""
    words: str = ""
    hint: str | None = None
    may_pass: bool = False


def ask(
    call: Callable[[], _Answer], deadline: Deadline, read: _Read, *, patient: bool = False, answered: bool = False
) -> _Answer:
    """Return the call's answer, tried again while its failure may pass: throttling, 5xx, a connection that was lost.

    A `patient` call is tried until the deadline, one that is patient if `answered` while the service answers, another
    READS times. None begins with less time left than it may need, nor than the one before has taken.
    Raises what `read` makes of the last failure, which says how long the function waited.
    """
    failure = Failure("was not called: the function's time is up")
    began, tries, again = deadline.clock(), 0, deadline.left() >= CALL_S
    while again:
        before = deadline.clock()
        try:
            return call()
        except (ClientError, BotoCoreError) as error:
            failure, patient = _read(error), patient or (answered and isinstance(error, ClientError))
        needed = max(CALL_S, deadline.clock() - before)
        pause = min(_FIRST_PAUSE_S * 2**tries, _LONGEST_PAUSE_S)
        tries += 1
        again = failure.may_pass and (tries < READS or patient) and deadline.pause(pause, needed)
        if again:
            logger.warning("AWS: %s. The call is repeated; %.0f seconds are left.", failure.code, deadline.left())
    if tries > 1:
        waited = f"Waited for {deadline.clock() - began:.0f} seconds, in {tries} tries"
        failure = failure._replace(what=f"{failure.what}. {waited}")
    # Raised here, not above, or botocore's exception would go along as its context (a context manager, whose exit runs
    # while the exception is being handled, could not keep it out).
    raise read(failure)


def is_throttled(code: str) -> bool:
    """Tell whether that is a service's code for too many calls at once."""
    return code.startswith(_THROTTLED)


def _read(error: ClientError | BotoCoreError) -> Failure:
    if isinstance(error, ClientError):
        said, status = error.response.get("Error", {}), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = said.get("Code", "")
        may_pass = (status or 0) >= 500 or is_throttled(code)  # noqa: PLR2004
        return Failure(f"failed with {code}", code, said.get("Message", ""), may_pass=may_pass)
    code = type(error).__name__
    hint = _NO_CREDENTIALS if re.search("Credential|Token|SSO", code) else None
    may_pass = isinstance(error, (NoConnectionError, HTTPClientError))
    return Failure(f"got no answer: {code}", code, hint=hint, may_pass=may_pass)


def _client(service: str) -> Any:  # noqa: ANN401 - botocore makes the classes
    """Return the client for the environment as it is now: its region, endpoints, profile and credentials."""
    environment = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    try:
        return _make(service, environment)
    except (BotoCoreError, ValueError) as error:
        what = f"No client for {service} can be made: {error}"
    raise ConfigurationError(what, hint="Correct AWS_REGION, AWS_PROFILE or AWS_ENDPOINT_URL_… (an https:// address).")


@lru_cache(maxsize=8)
def _make(service: str, _environment: frozenset[tuple[str, str]]) -> Any:  # noqa: ANN401
    session = botocore.session.Session(include_builtin_handlers=False)  # other services need them
    # … but for this one, by which the credentials of a profile (SSO, web identity) are asked for without a signature.
    session.register("choose-signer", set_operation_specific_signer)  # type: ignore[arg-type]
    session.register_component("data_loader", _Loader())
    if not session.get_config_variable("region"):
        raise NoRegionError
    return session.create_client(service, config=_CONFIG)


_FOR_CREDENTIALS = "sts", "sso", "sso-oidc", "signin"  # what botocore asks for those of a profile


class _Loader(Loader):
    """Knows which services are called, where botocore's own looks into 400 folders, and reads only what these need.

    Their models have rules that lead to an endpoint; the list of all endpoints of AWS, 1 MB of JSON, is for older ones.
    """

    def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002 - botocore's
        return ["secretsmanager", "rds", *_FOR_CREDENTIALS]

    def load_data_with_path(self, name: str) -> tuple[Any, str]:
        if name == "endpoints":
            return {"partitions": []}, self.BUILTIN_DATA_PATH  # from elsewhere it would take the place of the rules
        return super().load_data_with_path(name)
