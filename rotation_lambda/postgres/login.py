"""Where credentials are used: log in to PostgreSQL, and tell what the server answered."""

import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg2

from rotation_lambda import errors
from rotation_lambda.credential import Credential, SslMode
from rotation_lambda.deadline import Deadline
from rotation_lambda.postgres import tls
from rotation_lambda.postgres.answers import name_login, read_answer
from rotation_lambda.postgres.session import MD5, OPTIONS, SCRAM, Session
from rotation_lambda.postgres.wire import wait
from rotation_lambda.settings import PLATFORM_ROOTS

CONNECT_TIMEOUT_S = 5.0
LOOK_TIMEOUT_S = 3.0
MUCH_CPU_S = 0.5  # an honest login takes a tenth of it; 1,000,000 iterations of a verifier take about as long

_DNS = "Check the DNS server of the function's VPC: its DHCP options, its resolver rules, and the way to it on port 53."

COSTLY = (
    "Set scram_iterations = 4096 for the user, and its password again as docs/runbook.md#applications-are-locked-out "
    "shows: its SCRAM verifier has too many iterations."
)
_MD5_WANTED = "server requested a hashed password"


def _addresses(credential: Credential) -> list[str]:
    """Return the addresses of the credential's host, each once.

    Raises HostNotFoundError where DNS has none, and DatabaseTimeoutError where it does not answer.
    """
    host, port = credential.address
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        what = f"{name_login(credential)}: could not look up the host: {error.strerror}."
        unknown = error.errno in {socket.EAI_NONAME, socket.EAI_NODATA}
        raise (errors.HostNotFoundError(what) if unknown else errors.DatabaseTimeoutError(what, hint=_DNS)) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True)
class Postgres:
    """Logs in to every database server, with the TLS that a secret gets where it does not ask for its own.

    Of libpq's environment only PGSSLMODE and PGSSLROOTCERT count, and they come by the settings. The other PG variables
    are taken out of this process, as libpq would follow them elsewhere (PGHOSTADDR, PGSERVICE, PGOPTIONS …, PostgreSQL
    32.15): the process is the function's own.
    """

    sslmode: SslMode
    sslrootcert: str
    deadline: Deadline
    look_up: Callable[[Credential], list[str]] = _addresses

    def __post_init__(self) -> None:
        """Make libpq deaf to the environment."""
        for name in {name for name in os.environ if name.startswith("PG")} - {"PGSSLMODE", "PGSSLROOTCERT"}:
            del os.environ[name]
        if self.sslrootcert == PLATFORM_ROOTS:
            os.environ["SSL_CERT_FILE"] = tls.platform_roots()

    def log_in(self, credential: Credential, *, scram_only: bool = False, reserve: float = 0.0) -> Session:
        """Return an open session in which the server itself, and no pooler, knows the credential's user.

        The answer has three forms. *Accepted*: a session, or LoginNotAllowedError where the password is right and the
        login is rejected. *Refused*: LoginRefusedError. *Unknown*: every other DatabaseError; the caller must stop.
        All but the look-up of the host takes CONNECT_TIMEOUT_S at most, and never touches the last `reserve` seconds of
        the step.

        SCRAM is asked for first, with which a server proves that it knows the password and never learns it (RFC 5802).
        Only where it says that it wants an md5 hash is that allowed, in a second connection, and not with `scram_only`;
        a server that asks for clear text or for nothing is refused (PostgreSQL 32.1.2, require_auth).
        """
        what = f"{name_login(credential)}: no time is left for a login, only {reserve:.0f} seconds for what follows."
        self.deadline.check(reserve, what)
        began = time.monotonic()
        addresses = self.look_up(credential)
        now = time.monotonic()
        slow = f"{name_login(credential)}: DNS took {now - began:.1f} seconds, and no time was left for the login."
        self.deadline.check(reserve, slow, hint=_DNS)
        end = now + min(CONNECT_TIMEOUT_S, self.deadline.left(reserve))
        try:
            return self._connect(addresses, credential, SCRAM, end)
        except errors.AuthenticationMethodError as error:
            if scram_only or _MD5_WANTED not in error.what:
                raise
        return self._connect(addresses, credential, MD5, end)

    def sslmode_of(self, credential: Credential) -> SslMode:
        """Return how a login with this credential has the server prove who it is: by its certificate, or not at all."""
        return credential.sslmode or self.sslmode

    def verifies(self, credential: Credential) -> bool:
        """Tell whether a login with this credential looks at the server's certificate."""
        return self.sslmode_of(credential) in {SslMode.VERIFY_CA, SslMode.VERIFY_FULL}

    def _connect(self, addresses: list[str], credential: Credential, require_auth: str, end: float) -> Session:
        """Try one address of the host after the other, until one answers; each gets its share of the time."""
        for number, address in enumerate(addresses):
            seconds = (end - time.monotonic()) / (len(addresses) - number)
            try:
                return self._connect_to(address, credential, require_auth, max(0.0, seconds))
            except (errors.ConnectionFailedError, errors.DatabaseTimeoutError) as error:
                failure = error
        raise failure

    def _connect_to(self, address: str, credential: Credential, require_auth: str, seconds: float) -> Session:
        end, spent = time.monotonic() + seconds, time.process_time()
        host, port = credential.address
        name = credential.tls_server_name or host
        try:
            with ExitStack() as opened:
                connection = psycopg2.connect(
                    host=name,
                    hostaddr=address,
                    port=port,
                    dbname=credential.dbname,
                    user=credential.username,
                    password=credential.password,
                    require_auth=require_auth,
                    sslmode=str(self.sslmode_of(credential)),
                    sslrootcert=tls.roots_for(self.sslrootcert, name) if self.verifies(credential) else "",
                    sslcertmode="disable",
                    channel_binding="prefer",
                    gssencmode="disable",
                    client_encoding="UTF8",
                    options=OPTIONS,
                    application_name="rotation_lambda",
                    async_=True,
                )
                opened.callback(connection.close)
                wait(connection, seconds)
                session = Session(connection, credential, require_auth, self.deadline)
                session.look_around(max(0.0, end - time.monotonic()))
                opened.pop_all()
                return session
        except psycopg2.Error as error:
            failure = read_answer(str(error), credential)
        except TimeoutError:
            what = f"{name_login(credential)}: no answer from {address} within {seconds:.1f} seconds."
            failure = errors.DatabaseTimeoutError(what)
            if (spent := time.process_time() - spent) > MUCH_CPU_S:
                what = f"{name_login(credential)}: the login took {spent:.1f} seconds of this function's own CPU time."
                failure = errors.AuthenticationMethodError(what, hint=COSTLY)
        if isinstance(failure, errors.TlsError) and failure.hint is errors.TlsError.hint:
            failure = self._explain(failure, address, credential)
        raise failure

    def look_at_certificate(self, address: str, credential: Credential) -> tls.Certificate | None:
        """Return the certificate of the server at one of the credential's addresses; None where it has no TLS."""
        host, port = credential.address
        seconds = min(LOOK_TIMEOUT_S, self.deadline.left())
        return tls.look_at(address, port, credential.tls_server_name or host, self.sslrootcert, seconds)

    def _explain(self, failure: errors.TlsError, address: str, credential: Credential) -> errors.TlsError:
        """Add to libpq's words, which name none of it, what the certificate says and what was asked for."""
        try:
            certificate = self.look_at_certificate(address, credential)
        except (OSError, ValueError):  # the witness is gone; libpq's own words have to do
            return failure
        told, hint = tls.advise(certificate, credential.tls_server_name or credential.address[0], self.sslrootcert)
        return errors.TlsError(f"{failure.what} {told}".rstrip(), hint=hint)
