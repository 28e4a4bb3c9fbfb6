"""Applications that log in again and again while a credential rotates: as examples/ shows, and without the fallback."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

import psycopg2
from aws_lambda_powertools.utilities.parameters import SecretsProvider

from examples.database import REFUSED, Database

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mypy_boto3_secretsmanager import SecretsManagerClient
    from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, whatever psycopg2 calls it

    from local.servers.postgres import PostgresServer
    from local.servers.secrets_manager import SecretsManagerServer

PAUSE_S = 0.02
PATIENCE_S = 30  # with a client of which nothing is heard: more than its own deadline


class CurrentOnly(Database):
    """The same without the fallback: every connect reads AWSCURRENT, and the database's first answer is the last."""

    def connect(self, **parameters: object) -> Connection:
        """Return a new session, or raise what stood in the way of the only try."""
        connection: Connection = self._log_in(self._read("AWSCURRENT", max_age=0, force_fetch=True), parameters)
        return connection


@dataclass(slots=True)
class Client:
    """One application.

    `reads` are the labels it has asked Secrets Manager for, in order; `refusals` tell by the wall clock, which the
    server has too, when a refused login began and when it had its answer.
    """

    database: Database
    reads: list[str]
    accepted: int = 0
    refusals: list[tuple[float, float]] = field(default_factory=list)
    windows: int = 0
    slowest: float = 0.0

    @property
    def refused(self) -> int:
        """How many logins were refused."""
        return len(self.refusals)

    @property
    def logins(self) -> int:
        """How many logins have had their answer."""
        return self.accepted + self.refused

    def work(self, stop: Event) -> None:
        """Log in until `stop`; as many windows begin as logins are refused after one that was not."""
        refused = False
        while not stop.wait(PAUSE_S):
            began, began_at = time.monotonic(), time.time()
            try:
                self.database.connect().close()
            except psycopg2.OperationalError as error:
                if not REFUSED.search(str(error)):
                    raise
                self.refusals.append((began_at, time.time()))
                self.windows += not refused
                refused = True
            else:
                self.accepted += 1
                refused = False
            self.slowest = max(self.slowest, time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class Clients:
    """As many clients with the fallback as without, each with a cache of its own."""

    with_fallback: list[Client]
    without: list[Client]

    def wait(self) -> None:
        """Return once every client has logged in afresh: the second answer from now on is to a login of from now on."""
        everybody = [*self.with_fallback, *self.without]
        enough = [client.logins + 2 for client in everybody]
        deadline = time.monotonic() + PATIENCE_S
        while any(client.logins < least for client, least in zip(everybody, enough, strict=True)):
            if time.monotonic() > deadline:
                raise TimeoutError("A client does not log in any more.")
            time.sleep(0.01)

    def report(self) -> str:
        """Say what the clients with the fallback did for it; afterwards, once none of them logs in any more."""
        reads = [label for client in self.with_fallback for label in client.reads]
        slowest = max(client.slowest for client in self.with_fallback)
        current, pending = reads.count("AWSCURRENT"), reads.count("AWSPENDING")
        return f"Fallback: read AWSCURRENT {current} times, AWSPENDING {pending}; slowest login {slowest:.2f} seconds."


@contextmanager
def run_clients(
    number: int, secret_id: str, secrets_manager: SecretsManagerServer, postgres: PostgresServer
) -> Iterator[Clients]:
    """Let `number` clients of either kind log in, each some 20 times a second, until the block ends.

    What stops a client, other than a refused password, is raised there.
    """

    def make(kind: type[Database]) -> Client:
        provider, reads = make_provider(secrets_manager.client(user_agent_extra="application"))
        return Client(kind(secret_id, provider, sslrootcert=postgres.ca_file, application_name="client"), reads)

    clients = Clients([make(Database) for _ in range(number)], [make(CurrentOnly) for _ in range(number)])
    stop = Event()
    with ThreadPoolExecutor(2 * number) as pool:
        work = [pool.submit(client.work, stop) for client in (*clients.with_fallback, *clients.without)]
        try:
            yield clients
        finally:
            stop.set()
            for one in work:
                one.result()


def make_provider(client: SecretsManagerClient) -> tuple[SecretsProvider, list[str]]:
    """Return Powertools' provider, and the list that each label it asks Secrets Manager for is added to."""
    reads: list[str] = []

    def note(params: Mapping[str, str], **_: object) -> None:
        reads.append(params.get("VersionStage", ""))

    client.meta.events.register("provide-client-params.secretsmanager.GetSecretValue", note)
    return SecretsProvider(boto3_client=client), reads


def count(clients: Sequence[Client]) -> tuple[int, int]:
    """Return how many logins of theirs were accepted, and how many refused."""
    return sum(client.accepted for client in clients), sum(client.refused for client in clients)
