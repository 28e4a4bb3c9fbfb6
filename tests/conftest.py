"""The real servers, started once for a run, and what a test puts into them."""

from __future__ import annotations

import io
import json
import logging
import os
import secrets
import signal
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import hypothesis
import psycopg2
import pytest
from botocore.loaders import JSONFileLoader
from psycopg2 import sql

from local.servers.installation import NotInstalledError, find_installation
from local.servers.postgres import SERVERS, PostgresServer, run_postgres
from local.servers.secrets_manager import SecretsManagerServer, run_secrets_manager
from rotation_lambda import clients, handler
from rotation_lambda.credential import CLONE
from tests.worlds.clients import answered_directly, forget
from tests.worlds.sample import header, not_drawn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import TextIO

    from mypy_boto3_rds import RDSClient

    from local.servers.installation import Part

TALKATIVE = {
    "log_connections": "on",
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_min_error_statement": "debug5",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track_utility": "on",
}

_Request = TypeVar("_Request")

SAID = pytest.StashKey[dict[PostgresServer, int]]()

OUTSIDE = {"benchmarks", "deployment", "examples", "local", "pages", "promises"}
"""The folders of tests that try the whole function, or what is around it."""

WHOLE = "ROTATION_TESTS_WHOLE"
"""Where the workers learn from the process that started them whether the run is of all tests, or of some by name."""

LEFT_OUT: list[str] = []
"""What this machine has no server for, in whole sentences; everything else is looked at, or the run fails."""

FIGURES: list[str] = []
"""What was measured on the way, in whole sentences."""


def has(part: Part, otherwise: str) -> bool:
    """Tell whether this machine has the part; if not, `otherwise` is left out, unless REQUIRE_PGBOUNCER … is set."""
    if part.missing:
        required = f"REQUIRE_{part.name.upper()}" in os.environ
        assert not required, part.missing
        leave_out(f"{part.name} is not on this machine: {otherwise} was not looked at.")
    return not part.missing


def leave_out(sentence: str) -> None:
    if sentence not in LEFT_OUT:
        LEFT_OUT.append(sentence)


def pytest_configure(config: pytest.Config) -> None:
    """Let what the tests start be interrupted, even where the run itself was started in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    named = config.args_source is config.ArgsSource.ARGS or config.option.keyword or config.option.markexpr
    os.environ.setdefault(WHOLE, "" if named else "yes")
    keep_to_one_core()
    read = cache(partial(JSONFileLoader.load_file, JSONFileLoader()))
    # A session of its own, as an example has, reads megabytes afresh.
    JSONFileLoader.load_file = lambda _, path: read(path)  # type: ignore[method-assign, assignment]
    slow = [hypothesis.HealthCheck.too_slow]  # a machine may be as slow as it likes
    hypothesis.settings.register_profile("any machine", deadline=None, suppress_health_check=slow)
    hypothesis.settings.load_profile("any machine")


def keep_to_one_core() -> None:
    """Have a worker, and the servers that it starts, keep to a core of its own.

    They act by turns, and so do the explorer's threads; to wake another core takes longer than many a turn.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_xdist_auto_num_workers() -> int:
    """Use every core that this process may run on; xdist itself would count only one of two threads of a core."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pytest_report_header() -> str:
    return header()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not drawn today; who names files or tests gets all of them.

    Coverage hangs on nothing random, and the rooms' own tests have all of it: to watch the others takes a tenth longer.
    """
    for item in items:
        if item.get_closest_marker("hypothesis") or item.path.parent.name in OUTSIDE:
            item.add_marker(pytest.mark.no_cover)
    left_out = set(not_drawn(items)) if os.environ[WHOLE] else set()
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=list(left_out))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a worker has to tell to the process that prints it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput.update(left_out=LEFT_OUT, figures=FIGURES)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # noqa: ANN401 - xdist has no types
    """Take it over; a worker that died has nothing to tell."""
    told = getattr(node, "workeroutput", {})
    FIGURES.extend(told.get("figures", []))
    for sentence in told.get("left_out", []):
        leave_out(sentence)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note how much each server has said before the test."""
    item.stash[SAID] = {server: server.log_file.stat().st_size for server in SERVERS if server.log_file.exists()}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show below a failure what each server said during the test; the function's lines are there by themselves."""
    report = yield
    if report.failed:
        before = item.stash.get(SAID, {})
        for server in SERVERS:
            if said := server.last_words(before.get(server, 0)):
                report.sections.append((f"PostgreSQL {server.version} on port {server.port} said last", said))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for sentence in FIGURES:
        terminalreporter.write_line(sentence)
    for sentence in LEFT_OUT:
        terminalreporter.write_line(sentence, yellow=True)


def versions_here(left_out: str) -> list[int]:
    """Return the versions of PostgreSQL on this machine: of 15 there is no wheel, and without it that is `left_out`."""
    try:
        find_installation(15)
    except NotInstalledError:
        assert "REQUIRE_POSTGRESQL15" not in os.environ, "PostgreSQL 15 is not on this machine"
        leave_out(f"PostgreSQL 15 is not on this machine: {left_out}")
        return [16, 17, 18]
    return [15, 16, 17, 18]


@contextmanager
def serving(body: bytes, status: int, read: Callable[[bytes], _Request]) -> Iterator[tuple[str, list[_Request]]]:
    """Serve every call over HTTP the same answer; yield where, and the requests as they are read."""
    requests: list[_Request] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            requests.append(read(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()


class Copy(io.StringIO):
    """Keeps what passes on to another stream."""

    def __init__(self, other: TextIO) -> None:
        super().__init__()
        self.other = other

    def write(self, text: str) -> int:
        self.other.write(text)
        return super().write(text)

    def flush(self) -> None:
        """Pass it on as well: what stays in a buffer belongs to no test, unless Python has been told to keep none."""
        self.other.flush()


@pytest.fixture
def log() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Read the lines that the function has written so far."""
    [writer] = handler.logger.handlers
    assert isinstance(writer, logging.StreamHandler)
    stream = Copy(writer.stream)
    usual = writer.setStream(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    writer.setStream(usual)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of this machine's AWS, PostgreSQL or Powertools settings reach a test."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "PG", "POWERTOOLS_", "ROTATION_", "SUPERUSER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL with TLS that logs all it can, as a nosy administrator would have it."""
    with run_postgres(settings=TALKATIVE) as server:
        server.query("CREATE EXTENSION pg_stat_statements")
        yield server


@pytest.fixture(scope="session")
def postgres_of(postgres: PostgresServer) -> Iterator[Callable[[int], PostgresServer]]:
    """Each PostgreSQL that there is a wheel of, started when it is first asked for; 16 and 18 are built without TLS."""
    servers = {17: postgres}
    with ExitStack() as stack:

        def start(version: int) -> PostgresServer:
            if version not in servers:
                servers[version] = stack.enter_context(run_postgres(version=version))
            return servers[version]

        yield start


@pytest.fixture(scope="session")
def plain_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL whose logins cost the least, for who logs in thousands of times."""
    with run_postgres(version=18, settings={"scram_iterations": "1", "ssl": "off"}) as server:
        yield server


@pytest.fixture(scope="session")
def secrets_manager() -> Iterator[SecretsManagerServer]:
    with run_secrets_manager() as server:
        yield server


@pytest.fixture(scope="session")
def rds(secrets_manager: SecretsManagerServer) -> RDSClient:
    """Ask for `one`, its replica `two` and that one's replica `three`; and for `clu`, with a member and a replica."""
    client: RDSClient = secrets_manager.client("rds")
    login: dict[str, Any] = {"MasterUsername": "postgres", "MasterUserPassword": "not-a-secret"}
    size: dict[str, Any] = {"DBInstanceClass": "db.r6g.large", "Engine": "aurora-postgresql"}
    client.create_db_instance(
        DBInstanceIdentifier="one", DBInstanceClass="db.t4g.micro", Engine="postgres", AllocatedStorage=20, **login
    )
    for name, source in (("two", "one"), ("three", "two")):
        client.create_db_instance_read_replica(DBInstanceIdentifier=name, SourceDBInstanceIdentifier=source)
    cluster = client.create_db_cluster(DBClusterIdentifier="clu", Engine="aurora-postgresql", **login)["DBCluster"]
    client.create_db_instance(DBInstanceIdentifier="clu-1", DBClusterIdentifier="clu", **size)
    client.create_db_cluster(
        DBClusterIdentifier="clu2",
        Engine="aurora-postgresql",
        ReplicationSourceIdentifier=cluster["DBClusterArn"],
        **login,
    )
    return client


@dataclass(frozen=True, slots=True)
class Role:
    """A role of a real server, and the password it was made with."""

    server: PostgresServer
    name: str
    password: str

    def lets_in(self, password: str) -> bool:
        """Ask the server itself whether the password is the role's."""
        try:
            self.server.connect(self.name, password).close()
        except psycopg2.OperationalError as error:
            if "password authentication failed" in str(error):
                return False
            raise
        return True

    def alter(self, clause: str) -> None:
        """ALTER ROLE … clause, as the superuser."""
        self.server.query(sql.SQL("ALTER ROLE {} {}").format(sql.Identifier(self.name), sql.SQL(clause)))

    @property
    def document(self) -> dict[str, Any]:
        """The secret's JSON for this role."""
        login = {"username": self.name, "password": self.password}
        return {"engine": "postgres", "host": self.server.host, "port": self.server.port, "dbname": "postgres", **login}


@pytest.fixture
def make_role() -> Iterator[Callable[..., Role]]:
    """Make roles; they are dropped at the end."""
    made: list[Role] = []

    def make(server: PostgresServer, name: str | None = None, password: str | None = None, options: str = "") -> Role:
        role = Role(server, name or f"app_{uuid4().hex[:8]}", password or f"old-{secrets.token_urlsafe(18)}")
        server.query(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} {}").format(
                sql.Identifier(role.name), sql.Literal(role.password), sql.SQL(options)
            )
        )
        made.append(role)
        return role

    yield make
    for role in made:
        if role.server.pid is None:  # the whole server is gone already
            continue
        for name in (role.name + CLONE, role.name):
            if role.server.query("SELECT 1 FROM pg_roles WHERE rolname::text = %s", (name,)):
                for statement in ("DROP OWNED BY {}", "DROP ROLE {}"):
                    role.server.query(sql.SQL(statement).format(sql.Identifier(name)))


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret in the real HTTP emulator."""

    server: SecretsManagerServer
    arn: str

    @property
    def labels(self) -> dict[str, str]:
        """Which version has which label."""
        stages = self.server.client().describe_secret(SecretId=self.arn)["VersionIdsToStages"]
        return {label: version for version, labels in stages.items() for label in labels}

    def document(self, label: str = "AWSCURRENT") -> dict[str, Any]:
        """Read what the version with this label holds."""
        value = self.server.client().get_secret_value(SecretId=self.arn, VersionStage=label)["SecretString"]
        return dict(json.loads(value))

    def tag(self, users: str, key: str = "rotation:users") -> None:
        """Name users in the secret's tag, as an administrator does."""
        self.server.client().tag_resource(SecretId=self.arn, Tags=[{"Key": key, "Value": users}])


@pytest.fixture
def make_secret(secrets_manager: SecretsManagerServer) -> Iterator[Callable[[object], Secret]]:
    """Make secrets; they are forgotten at the end, for the emulator looks through all that there are at each call."""
    made: list[Secret] = []

    def make(value: object) -> Secret:
        text = value if isinstance(value, str) else json.dumps(value)
        made.append(Secret(secrets_manager, secrets_manager.create_secret(f"test/app/{uuid4().hex}", text)))
        return made[-1]

    yield make
    for secret in made:
        forget(secret.arn)


@pytest.fixture
def make_superuser(
    make_role: Callable[..., Role], make_secret: Callable[[object], Secret]
) -> Callable[..., dict[str, Any]]:
    """Make a superuser as RDS has them, who is none: CREATEROLE, and on 16 and newer ADMIN OPTION on the roles.

    Returns what the role's secret has to say of it.
    """

    def make(role: Role, *others: Role) -> dict[str, Any]:
        superuser = make_role(role.server, f"master_{uuid4().hex[:8]}", options="CREATEROLE")
        for one in (role, *others) if role.server.version >= 16 else ():
            names = map(sql.Identifier, (one.name, superuser.name))
            role.server.query(sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(*names))
        tls = {} if role.server.ca_file else {"sslmode": "disable"}
        return {**tls, "masterarn": make_secret({**superuser.document, **tls}).arn}

    return make


@pytest.fixture
def invoke(
    secrets_manager: SecretsManagerServer, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[[object], object]:
    """Invoke the real handler, in an environment as the template would give it."""
    for name, value in {**secrets_manager.environment, "PGSSLROOTCERT": str(postgres.ca_file)}.items():
        monkeypatch.setenv(name, value)
    context = SimpleNamespace(
        function_name="rotation",
        memory_limit_in_mb=256,
        invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:rotation",
        aws_request_id="test",
        get_remaining_time_in_millis=lambda: 60_000,
    )
    return lambda event: handler.lambda_handler(event, context)  # type: ignore[arg-type]


@pytest.fixture
def direct(invoke: object, secrets_manager: SecretsManagerServer) -> Iterator[None]:
    """Have the function's calls of Secrets Manager, and the test's, answered without HTTP in between."""
    with answered_directly(secrets_manager, clients.secrets_manager(), secrets_manager.client()):
        yield
