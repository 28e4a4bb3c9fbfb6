"""Connect to PostgreSQL with a credential that rotates, and be let in while it does."""

from __future__ import annotations

import logging
import os
import random
import re
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import psycopg2
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError, TransformParameterError
from botocore.config import Config
from psycopg2.extensions import make_dsn

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, whatever psycopg2 calls it

MAX_AGE_S = 300  # of a cached credential: far less than the time between two rotations
READ_AGAIN_S = 0.25  # between two readings for the reason that a password was refused
DEADLINE_S = 10  # for a connect whose every password is refused

# https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem
RDS_BUNDLE = Path(__file__).with_name("rds-global-bundle.pem")

CLIENT = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "max_attempts": 3})

# libpq gives no SQLSTATE for a failed connect, only a text: PostgreSQL's, PgBouncer's or RDS Proxy's, in English.
REFUSED = re.compile(
    r'failed: FATAL:  (?:password authentication failed(?: for user ".*")?|SASL authentication failed'
    r"|The password that was provided for the role .* is wrong\.?)\s*\Z"
)

logger = logging.getLogger(__name__)
logging.getLogger("botocore").setLevel(logging.INFO)  # at DEBUG it logs what it receives: the password


class Database:
    """The database that a secret opens. One for a process: its threads share what is read of Secrets Manager.

    libpq's parameters, but for the login, can be given here and to connect(). Unless they say otherwise, the server has
    to prove its name by a certificate of RDS (or of PGSSLROOTCERT), and to let in by SCRAM, which does not show it the
    password.
    """

    def __init__(self, secret_id: str, provider: SecretsProvider | None = None, **parameters: object) -> None:
        self._secret_id = secret_id
        self._provider = provider or SecretsProvider(boto_config=CLIENT)
        self._parameters = parameters
        self._lock = Lock()
        self._pending: dict[str, Any] | None = None  # AWSPENDING's login, while it is ahead of AWSCURRENT's
        self._read_again_at = 0.0

    def connect(self, **parameters: object) -> Connection:
        """Return a new session, which the caller closes.

        Only a refused password leads on: to AWSCURRENT read afresh; to AWSPENDING, which is what the database accepts
        between setSecret and finishSecret; to the same again until the deadline. Everything else is raised at once:
        psycopg2.OperationalError of the database, GetParameterError of Secrets Manager, ValueError of a secret that is
        no credential.
        """
        pause, deadline = 0.1, time.monotonic() + DEADLINE_S
        while True:
            refused = []
            login: dict[str, Any] | None = self._known_login()
            while login:
                try:
                    return self._log_in(login, parameters)
                except psycopg2.OperationalError as error:
                    if not REFUSED.search(str(error)):
                        raise
                    refusal = error
                refused.append(login)
                login = self._other_login(refused)
            if time.monotonic() > deadline:
                refusal.add_note(f"Refused like every password that {self._secret_id} had within {DEADLINE_S} seconds.")
                raise refusal
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

    def _read(self, label: str, **how: Any) -> dict[str, Any]:  # noqa: ANN401 - Powertools' own parameters
        """Return libpq's parameters for the version with the label; ValueError where it holds no such thing."""
        with suppress(TransformParameterError, ValueError, LookupError, TypeError):  # which may carry the secret along
            secret: Any = self._provider.get(self._secret_id, transform="json", VersionStage=label, **how)
            login = {
                "host": secret["host"],
                "port": secret.get("port") or 5432,
                "dbname": secret.get("dbname") or "postgres",
                "user": secret["username"],
                "password": secret["password"],
            }
            make_dsn(**login)  # fails here where connect() would, with an error that carries the password along
            return login
        raise ValueError(f"{label} of {self._secret_id} is not the JSON of a database's credential.")

    def _log_in(self, login: dict[str, Any], parameters: dict[str, object]) -> Connection:
        safe = {"sslmode": "verify-full", "require_auth": "scram-sha-256", "connect_timeout": 5}
        roots = {"sslrootcert": os.environ.get("PGSSLROOTCERT") or RDS_BUNDLE}
        everything: dict[str, Any] = {**safe, **roots, **self._parameters, **parameters, **login}
        connection: Connection = psycopg2.connect(**everything)
        return connection
