"""Connect to PostgreSQL with credentials that rotate, also while they do."""

from __future__ import annotations

import logging
import os
import random
import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import psycopg2
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError, TransformParameterError
from botocore.config import Config

MAX_AGE_S = 300  # of cached credentials: far less than the time between two rotations
READ_AGAIN_S = 0.25  # between two reads because a password was refused
DEADLINE_S = 10  # for a connect whose every password is refused
WAIT_S = 40  # for a server that starts, fails over or wakes up; a paused Aurora cluster takes 15 to 30 seconds

# https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem
RDS_BUNDLE = Path(__file__).with_name("rds-global-bundle.pem")

CLIENT = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "max_attempts": 3})

# libpq gives no SQLSTATE for a failed connect, only a text: PostgreSQL's, PgBouncer's or RDS Proxy's, in English.
REFUSED = re.compile(
    r'failed: FATAL:  (?:password authentication failed(?: for user ".*")?|SASL authentication failed'
    r"|The password that was provided for the role .* is wrong\.?"
    r"|This RDS [Pp]roxy has no credentials for the role .*)\s*\Z"
)
PASSES = re.compile(
    r"failed: (?:Connection refused|Connection reset|Connection timed out|timeout expired|server closed the connection"
    r"|No route to host|Network is unreachable|could not (?:receive|send) |SSL SYSCALL error: "
    r"|SSL error: unexpected eof|FATAL:  the database system is "
    r"|FATAL:  sorry, too many clients|FATAL:  canceling authentication due to timeout"
    r"|FATAL:  terminating connection due to (?!idle-|transaction)"
    r"|FATAL:  (?:no pg_hba\.conf entry|pg_hba\.conf rejects connection) for (?!.*no encryption))"
    r"|connection timeout expired|DNS does not answer"
)
UNKNOWN_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)}  # of all answers of DNS these stay
SSL = {"true": "verify-full", "false": "disable", "": "verify-full"}
MODES = {"disable", "require", "verify-ca", "verify-full"}  # allow and prefer would downgrade
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
NAMES = {"dbname", "username", "password"}  # blanks belong to them

logger = logging.getLogger(__name__)
logging.getLogger("botocore").setLevel(logging.INFO)  # at DEBUG it logs what it receives: the password


def login_of(secret: dict[str, Any]) -> dict[str, Any]:
    """Return libpq's parameters for a secret of the rotation's format; ValueError or LookupError where it is none."""
    tidy = {
        key: value.strip(" ") if isinstance(value, str) and key not in NAMES else value for key, value in secret.items()
    }
    given = {key: value for key, value in tidy.items() if value not in (None, "")}
    mode = given.get("sslmode", SSL[str(given.get("ssl", "")).lower()])
    names = [given["host"], given.get("dbname", "postgres"), given["username"], given["password"]]
    if mode not in MODES or CONTROL.search("".join(names)):
        raise ValueError
    login = dict(zip(("host", "dbname", "user", "password"), names, strict=True))
    name = {"name": given["tlsServerName"]} if "tlsServerName" in given else {}
    return {**login, "port": int(given.get("port", 5432)), "sslmode": mode, **name}


class Database:
    """The database that a secret opens. One for a process: its threads share what is read from Secrets Manager.

    `driver` is psycopg2 or psycopg. libpq's parameters, except for the login, can be given here and to connect().
    Unless they or the secret say otherwise, the server has to prove its name by a certificate of RDS (or of
    PGSSLROOTCERT). It has to ask for SCRAM or md5, neither of which shows it the password.
    """

    def __init__(
        self, secret_id: str, provider: SecretsProvider | None = None, driver: Any = psycopg2, **parameters: object
    ) -> None:
        self.driver = driver
        self._secret_id = secret_id
        self._provider = provider or SecretsProvider(boto_config=CLIENT)
        self._parameters = parameters
        self._lock = Lock()
        self._pending: dict[str, Any] | None = None  # AWSPENDING's login, while it is ahead of AWSCURRENT's
        self._read_again_at = 0.0

    def connect(self, **parameters: object) -> Any:
        """Return a new session, which the caller closes.

        A refused password leads to AWSCURRENT read afresh; to AWSPENDING, which the database accepts between setSecret
        and finishSecret; and to both again, for DEADLINE_S. A server that is not ready, and a DNS that does not answer,
        are asked again for WAIT_S. Everything else is raised at once: the driver's OperationalError, also for a host
        that DNS does not know, GetParameterError of Secrets Manager, ValueError of a secret that holds no credentials.
        """
        pause, began = 0.1, time.monotonic()
        while True:
            refused: list[dict[str, Any]] = []
            login: dict[str, Any] | None = self._known_login()
            while login:
                try:
                    return self._log_in(login, parameters, began + WAIT_S - time.monotonic())
                except self.driver.OperationalError as error:
                    failure = error
                if not is_refused(failure):
                    break
                refused.append(login)
                login = self._other_login(refused)
            patience = DEADLINE_S if login is None else WAIT_S if PASSES.search(str(failure)) else 0
            if time.monotonic() - began >= patience:
                failure.add_note(f"Tried for {patience} seconds with what {self._secret_id} holds.")
                raise failure
            logger.warning("No session by %s yet; trying again: %s", self._secret_id, str(failure).strip())
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - it only keeps the callers apart
            pause = min(2 * pause, 2)

    def _known_login(self) -> dict[str, Any]:
        return self._pending or self._read("AWSCURRENT", max_age=MAX_AGE_S)

    def _other_login(self, refused: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Return a login that was not refused; None where Secrets Manager has no other at the moment.

        One caller reads, the others wait for what it finds. However many they are, each label is read once in
        READ_AGAIN_S.
        """
        with self._lock:
            login = self._known_login()
            if login not in refused:
                return login
            if time.monotonic() < self._read_again_at:
                return None
            logger.info("A password of %s was refused; it is read again.", self._secret_id)
            try:
                login = self._read("AWSCURRENT", max_age=MAX_AGE_S, force_fetch=True)
                self._pending = self._read_pending(refused) if login in refused else None
            finally:
                self._read_again_at = time.monotonic() + READ_AGAIN_S
            return self._pending if login in refused else login

    def _read_pending(self, refused: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Return AWSPENDING's login; None where it is missing, empty, not for us to read or refused already."""
        try:
            # max_age=0: Powertools' cache knows a secret by its name alone, and would give it out as AWSCURRENT.
            login = self._read("AWSPENDING", max_age=0, force_fetch=True)
        except (GetParameterError, ValueError) as error:
            logger.info("AWSPENDING of %s is of no help: %s", self._secret_id, error)
            return None
        return None if login in refused else login

    def _read(self, label: str, **how: Any) -> dict[str, Any]:
        """Return the login of the version with the label; ValueError where it holds no such thing."""
        # What these exceptions say may have the secret in it.
        with suppress(TransformParameterError, ValueError, LookupError, TypeError, AttributeError):
            secret: Any = self._provider.get(self._secret_id, transform="json", VersionStage=label, **how)
            return login_of(secret)
        raise ValueError(f"{label} of {self._secret_id} is not the JSON of a database's credentials.")

    def _log_in(self, login: dict[str, Any], parameters: dict[str, object], left: float = WAIT_S) -> Any:
        """Try one address of the host after the other; each gets its share of the seconds that are left."""
        safe = {"require_auth": "scram-sha-256,md5"}
        roots = {"sslrootcert": os.environ.get("PGSSLROOTCERT") or RDS_BUNDLE}
        secret = {key: login[key] for key in ("dbname", "sslmode")}
        everything: dict[str, Any] = {**safe, **roots, **secret, **self._parameters, **parameters}
        everything |= {key: login[key] for key in ("port", "user", "password")}
        everything["host"] = login.get("name", login["host"])  # tlsServerName: the name in the certificate
        end, addresses = time.monotonic() + left, self._look_up(login)
        for number, address in enumerate(addresses):
            share = (end - time.monotonic()) / (len(addresses) - number)
            seconds = {"connect_timeout": max(2, min(5, int(share)))}  # libpq knows no less than 2
            try:
                return self.driver.connect(**{**seconds, **everything, "hostaddr": address})
            except self.driver.OperationalError as error:
                failure = type(error)(*error.args)  # psycopg's own exception has the password in it
            if time.monotonic() >= end or not PASSES.search(str(failure)):
                break
        raise failure

    def _look_up(self, login: dict[str, Any]) -> list[str]:
        try:
            found = socket.getaddrinfo(login["host"], login["port"], type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            told = "does not know" if error.errno in UNKNOWN_HOST else "does not answer for"
            raise self.driver.OperationalError(f"DNS {told} {login['host']}: {error.strerror}") from None
        return list(dict.fromkeys(str(one[4][0]) for one in found))


def is_refused(error: Exception) -> bool:
    """Tell whether the password was refused, as libpq's last line says; psycopg may add lines of earlier attempts."""
    return bool(REFUSED.search(str(error).partition("\nMultiple connection attempts failed")[0]))
