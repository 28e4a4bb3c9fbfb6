"""The stand-ins next door behave as the services they stand for, and are gone when they should be."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psycopg2
import pytest
from botocore.exceptions import EndpointConnectionError

from local.servers import installation, postgres, rotation, secrets_manager
from local.servers.stack import MASTER, STRATEGIES, USERNAME, run_stack
from tests import ROOT
from tests.worlds.clocks import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.servers.postgres import PostgresServer
    from local.servers.secrets_manager import SecretsManagerServer

pytestmark = pytest.mark.costly("programs")

WRONG_PASSWORD = "password authentication failed"


@pytest.fixture(scope="module", params=[16, 17, 18])
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with postgres.run_postgres(version=request.param) as running:
        running.query("CREATE ROLE app LOGIN PASSWORD 'right'")
        yield running


@pytest.fixture(scope="module")
def tls_server() -> Iterator[PostgresServer]:
    with postgres.run_postgres(version=17, server_names=("localhost", "db.example.com")) as running:
        yield running


@pytest.fixture
def secrets() -> Iterator[SecretsManagerServer]:
    with secrets_manager.run_secrets_manager() as running:
        yield running


@pytest.fixture
def arn(secrets: SecretsManagerServer) -> str:
    return secrets.create_secret("db", {"username": "app", "password": "first"})


@pytest.fixture
def place() -> Iterator[Path]:
    """Make a folder that the account nobody can enter, which pytest's tmp_path is not."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def runs(pid: int) -> bool:
    """Tell whether a process runs; one that ended before anybody waited for it does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_until(truth: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not truth() and time.monotonic() < deadline:
        time.sleep(0.01)
    return truth()


def test_postgres_is_the_version_asked_for(server: PostgresServer) -> None:
    [(number,)] = server.query("SHOW server_version_num")
    assert int(number) // 10_000 == server.version


def test_refuses_a_wrong_password(server: PostgresServer) -> None:
    with pytest.raises(psycopg2.OperationalError, match=WRONG_PASSWORD):
        server.connect("app", "wrong")


def test_asks_for_scram(server: PostgresServer) -> None:
    server.connect("app", "right", require_auth="scram-sha-256").close()
    with pytest.raises(psycopg2.OperationalError, match="SASL"):
        server.connect("app", "right", require_auth="md5,password,none")


def test_trusts_nobody(server: PostgresServer) -> None:
    methods = server.query("SELECT DISTINCT auth_method FROM pg_hba_file_rules")
    assert methods == [("scram-sha-256",)]


def test_runs_as_an_ordinary_user_even_under_root(server: PostgresServer) -> None:
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0


def test_does_not_hear_the_terminals_ctrl_c(server: PostgresServer) -> None:
    assert server.pid is not None
    assert os.getsid(server.pid) == server.pid


def test_keeps_port_and_data_across_a_restart(server: PostgresServer) -> None:
    port, pid = server.port, server.pid
    server.query("CREATE TABLE kept AS SELECT 1 AS one")
    server.restart()
    assert (server.port, server.query("TABLE kept")) == (port, [(1,)])
    assert server.pid != pid
    server.query("DROP TABLE kept")


def test_is_out_of_reach_between_stop_and_start(server: PostgresServer) -> None:
    server.query("CHECKPOINT")  # or the role, committed a moment ago, might be lost with synchronous_commit = off
    server.stop("immediate")
    assert server.pid is None
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        server.query("SELECT 1")
    server.start()
    server.query("SELECT 1")


def test_is_under_the_new_hba_as_soon_as_it_is_replaced(server: PostgresServer) -> None:
    for _ in range(10):
        server.use_hba("host all app all reject")
        with pytest.raises(psycopg2.OperationalError, match="rejects connection"):
            server.connect("app", "right")
        server.use_hba(server.default_hba)
        server.connect("app", "right").close()


def test_keeps_its_hba_when_a_line_cannot_be_read(server: PostgresServer) -> None:
    with pytest.raises(ValueError, match="line 2"):
        server.use_hba("host all all nonsense")
    server.connect("app", "right").close()


def test_is_under_new_settings_as_soon_as_they_are_made(server: PostgresServer) -> None:
    for value in ("all", "ddl", "all"):
        server.configure(log_statement=value)
        assert server.query("SHOW log_statement") == [(value,)]
    server.configure(log_statement=None)
    assert server.query("SHOW log_statement") == [("none",)]


def test_logs_statements_where_the_caller_can_read_them(server: PostgresServer) -> None:
    server.configure(log_statement="all")
    server.query("SELECT %s", ("a needle",))
    assert "SELECT 'a needle'" in server.log()
    server.configure(log_statement=None)


def test_helpers_take_nothing_from_the_environment(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "HOSTADDR": "192.0.2.1",
        "PORT": "1",
        "OPTIONS": "-c work_mem=99MB",
        "SSLMODE": "require",
    }.items():
        monkeypatch.setenv(f"PG{name}", value)
    for name in ("SSLROOTCERT", "SSLCERT", "PASSFILE", "REQUIREAUTH", "SSLNEGOTIATION", "TARGETSESSIONATTRS"):
        monkeypatch.setenv(f"PG{name}", "nonsense")
    assert server.query("SHOW work_mem") == [("4MB",)]


def test_keeps_its_password_out_of_repr(server: PostgresServer) -> None:
    assert server.password not in repr(server)


def test_offers_tls_only_where_it_was_built_with_it(server: PostgresServer) -> None:
    assert (server.ca_file is not None) == (server.version == 17)


def test_tls_proves_each_name(tls_server: PostgresServer) -> None:
    for name in ("localhost", "db.example.com"):
        with closing(tls_server.connect("postgres", tls_server.password, host=name, sslmode="verify-full")) as session:
            assert session.info.ssl_in_use


def test_tls_does_not_prove_another_name(tls_server: PostgresServer) -> None:
    with pytest.raises(psycopg2.OperationalError, match="does not match host name"):
        tls_server.connect("postgres", tls_server.password, host="other.example.com")


def test_tls_is_not_proved_by_another_authority(tls_server: PostgresServer) -> None:
    with (
        postgres.run_postgres(version=17) as other,
        pytest.raises(psycopg2.OperationalError, match="certificate verify failed"),
    ):
        tls_server.connect("postgres", tls_server.password, sslrootcert=other.ca_file)


def test_tls_is_the_only_way_in(tls_server: PostgresServer) -> None:
    with pytest.raises(psycopg2.OperationalError, match="no encryption"):
        tls_server.connect("postgres", tls_server.password, sslmode="disable")


@pytest.mark.parametrize("mask", [0o027, 0o077])
def test_starts_whatever_the_umask_is(mask: int) -> None:
    """Under root PostgreSQL runs as another account, which has to read its certificate all the same."""
    usual = os.umask(mask)
    try:
        with postgres.run_postgres() as server:
            server.connect(server.superuser, server.password).close()
    finally:
        os.umask(usual)


def test_tls_can_be_left_out() -> None:
    with postgres.run_postgres(version=17, settings={"ssl": "off"}) as plain:
        assert (plain.ca_file, plain.query("SHOW ssl")) == (None, [("off",)])


def test_takes_settings_that_only_a_start_can_set() -> None:
    settings = {"shared_preload_libraries": "pg_stat_statements", "cluster_name": r"it's a \ name"}
    with postgres.run_postgres(settings=settings) as server:
        server.query("CREATE EXTENSION pg_stat_statements")
        assert server.query("SELECT count(*) > 0 FROM pg_stat_statements") == [(True,)]
        assert server.query("SHOW cluster_name") == [(settings["cluster_name"],)]


def test_listens_on_every_address_when_asked() -> None:
    with postgres.run_postgres(bind="0.0.0.0") as server:
        server.connect("postgres", server.password, hostaddr="127.0.0.2").close()


def test_runs_beside_another_one() -> None:
    with postgres.run_postgres() as one, postgres.run_postgres() as other:
        assert one.port != other.port


def test_names_the_versions_there_are_when_there_is_no_such_one() -> None:
    with (
        pytest.raises(installation.NotInstalledError, match=r"PostgreSQL 9 .*\b16\b.*\b17\b.*\b18\b"),
        postgres.run_postgres(version=9),
    ):
        pass


def test_finds_a_module_of_the_version_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(tmp_path).removeprefix("/")
    monkeypatch.setattr(installation, "PLACES", (f"{here}/a/*", f"{here}/b-*"))
    module = tmp_path / "b-17" / "lib" / "check.so"
    module.parent.mkdir(parents=True)
    module.touch()
    assert installation.find_module("check") == module
    assert installation.find_module("check", 16) is None
    assert installation.find_module("other") is None


@pytest.mark.parametrize("version", [16, 17, 18])
def test_runs_from_a_place_that_only_its_owner_can_enter(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under root PostgreSQL cannot read a virtual environment in /root, so what it needs is copied."""
    tmp_path.chmod(0o700)
    for package in installation.find_installation(version).root.parent.parent.glob("*p*g*s*"):
        if package.name.partition(".")[0] in installation.WHEELS:
            (tmp_path / package.name).symlink_to(package)
    monkeypatch.syspath_prepend(tmp_path)
    with postgres.run_postgres(version=version) as server:
        assert server.program.is_relative_to(server.data.parent) == (os.geteuid() == 0)
        server.query("CREATE TABLE t AS SELECT 1")


def test_moves_on_when_its_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres.run_postgres() as one:
        offers = iter([one.port - 20_000, one.port - 20_000, 11_999, 11_998, 11_997])
        monkeypatch.setattr("secrets.randbelow", lambda _: next(offers))
        with postgres.run_postgres() as other:
            assert other.port != one.port
            one.query("SELECT 1")
            other.query("SELECT 1")


def test_leaves_nothing_behind(place: Path) -> None:
    with postgres.run_postgres(directory=place) as server:
        pid = server.pid
        assert list(place.iterdir()) == [server.data.parent]
    assert pid is not None
    assert not runs(pid)
    assert list(place.iterdir()) == []


class TestMemory:
    """Where a server's files are when nobody says: in memory, if there is room and nobody chose another."""

    @pytest.fixture(autouse=True)
    def folder(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(postgres, "MEMORY", place)
        monkeypatch.delenv("TMPDIR", raising=False)
        return place

    @pytest.fixture
    def free(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        def free(size: int, flags: int = 0) -> None:
            there = SimpleNamespace(f_bavail=size, f_frsize=1, f_flag=flags)
            monkeypatch.setattr(os, "statvfs", lambda _: there)

        return free

    def test_has_them_where_there_is_room(self, folder: Path, free: Callable[..., None]) -> None:
        free(2 * postgres.ROOM)
        with postgres.run_postgres() as server:
            assert [server.data.parent] == list(folder.iterdir())
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize(("size", "flags"), [(64 * 2**20, 0), (2**40, os.ST_NOEXEC)], ids=["too little", "noexec"])
    def test_does_not_where_a_server_could_not_run(self, size: int, flags: int, free: Callable[..., None]) -> None:
        free(size, flags)
        assert postgres._memory() is None

    def test_does_not_where_there_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(postgres, "MEMORY", Path("/no/such/folder"))
        assert postgres._memory() is None

    def test_does_not_where_temporary_files_have_a_place(
        self, free: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free(2**40)
        monkeypatch.setenv("TMPDIR", "/var/tmp")  # noqa: S108
        assert postgres._memory() is None


def test_leaves_nothing_behind_when_its_user_fails(place: Path) -> None:
    with pytest.raises(ZeroDivisionError), postgres.run_postgres(directory=place) as server:  # noqa: PT012 - the case
        pid = server.pid
        _ = 1 / 0
    assert pid is not None
    assert not runs(pid)
    assert list(place.iterdir()) == []


def test_leaves_nothing_behind_when_it_cannot_start(place: Path) -> None:
    nonsense = postgres.run_postgres(settings={"wal_level": "nonsense"}, directory=place)
    with pytest.raises(postgres.ServerNotStartedError, match="wal_level"), nonsense:
        pass
    assert list(place.iterdir()) == []


def test_is_not_handed_over_when_it_lets_everybody_in(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres.PostgresServer, "default_hba", "hostssl all all all trust")
    with (
        pytest.raises(psycopg2.OperationalError, match="did not complete auth"),
        postgres.run_postgres(directory=place),
    ):
        pass
    assert list(place.iterdir()) == []


CHILD = """
import os, sys, time
from local.servers import rotation
from local.servers import postgres
import psycopg2, trustme
if os.geteuid() == 0 and len(sys.argv) > 1:
    os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))
with postgres.run_postgres() as server:
    print(os.geteuid(), server.pid, server.data.parent, server.query("SELECT 42")[0][0], flush=True)
    if sys.stdin.readline() == "":
        time.sleep(60)
"""


def start_child(*arguments: str) -> tuple[subprocess.Popen[str], list[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert child.stdout is not None
    return child, child.stdout.readline().split()


def test_works_for_an_ordinary_user() -> None:
    """Under root the child drops its privileges after its imports: its interpreter may lie where nobody gets."""
    nobody = pwd.getpwnam("nobody")
    child, [user, pid, folder, answer] = start_child(str(nobody.pw_uid), str(nobody.pw_gid))
    assert (user != "0", answer) == (True, "42")
    assert Path(f"/proc/{pid}").stat().st_uid == int(user)
    _, complaint = child.communicate("go\n", timeout=PATIENCE_S)
    assert (child.returncode, complaint) == (0, "")
    assert not runs(int(pid))
    assert not Path(folder).exists()


def test_leaves_nothing_behind_after_ctrl_c() -> None:
    """A terminal sends SIGINT to its whole process group: the server is not in it, and ends in our order."""
    child, [_, pid, folder, _] = start_child()
    os.killpg(child.pid, signal.SIGINT)
    _, complaint = child.communicate(timeout=PATIENCE_S)
    assert "KeyboardInterrupt" in complaint
    assert not runs(int(pid))
    assert not Path(folder).exists()


def test_leaves_nothing_behind_when_killed() -> None:
    child, [_, pid, folder, _] = start_child()
    child.kill()
    child.communicate(timeout=PATIENCE_S)
    assert wait_until(lambda: not runs(int(pid)) and not Path(folder).exists())


def test_secrets_manager_keeps_a_secret(secrets: SecretsManagerServer, arn: str) -> None:
    value = secrets.client().get_secret_value(SecretId=arn)["SecretString"]
    assert json.loads(value) == {"username": "app", "password": "first"}


def test_secrets_manager_begins_empty() -> None:
    for _ in range(2):
        with secrets_manager.run_secrets_manager() as fresh:
            assert fresh.client().list_secrets()["SecretList"] == []
            fresh.create_secret("left over", "text")


def test_secrets_manager_knows_nothing_of_another_one(secrets: SecretsManagerServer, arn: str) -> None:
    with secrets_manager.run_secrets_manager() as other:
        assert other.client().list_secrets()["SecretList"] == []
    rotation.begin(secrets.client(), arn, secrets.function_arn)


def test_secrets_manager_does_not_listen_afterwards() -> None:
    with secrets_manager.run_secrets_manager() as server:
        client = server.client(retries={"max_attempts": 0})
        client.list_secrets()
    with pytest.raises(EndpointConnectionError):
        client.list_secrets()


def test_secrets_manager_listens_on_the_port_asked_for() -> None:
    with secrets_manager.run_secrets_manager() as before:
        port = before.port
    with secrets_manager.run_secrets_manager(port=port, bind="0.0.0.0") as server:
        assert server.endpoint_url == f"http://127.0.0.1:{port}"
        server.create_secret("db", "text")


def test_secrets_manager_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with secrets_manager.run_secrets_manager() as server:
        server.create_secret("db", "text")
    assert capfd.readouterr() == ("", "")


def test_secrets_manager_lists_the_calls_that_arrive(secrets: SecretsManagerServer, arn: str) -> None:
    secrets.calls.clear()
    secrets.client().describe_secret(SecretId=arn)
    secrets.client().get_random_password()
    assert secrets.calls == ["DescribeSecret", "GetRandomPassword"]


def test_secrets_manager_environment_leads_boto3_to_it(secrets: SecretsManagerServer, arn: str) -> None:
    code = "import boto3; print(boto3.client('secretsmanager').list_secrets()['SecretList'][0]['ARN'])"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    nowhere = {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}
    environment = kept | nowhere | secrets.environment
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == arn


def test_secrets_manager_leaves_the_environment_alone() -> None:
    before = dict(os.environ)
    with secrets_manager.run_secrets_manager():
        assert dict(os.environ) == before


def test_secrets_manager_clients_ask_neither_profile_nor_proxy(
    secrets: SecretsManagerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "not there")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    secrets.client().list_secrets()


def test_a_single_users_stack_has_no_superuser() -> None:
    with run_stack() as stack:
        assert "masterarn" not in stack.credential()
        assert stack.environment["ROTATION_STRATEGY"] == "single-user"
        assert stack.postgres.query("SELECT rolname FROM pg_roles WHERE rolcanlogin AND NOT rolsuper") == [(USERNAME,)]


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_the_stacks_superuser_is_one_as_on_rds_and_may_do_what_a_rotation_asks(strategy: str) -> None:
    with run_stack(strategy=strategy, container_host="db.example.com") as stack:
        client, secret = stack.secrets_manager.client(), stack.credential()
        assert "rotationHost" not in secret
        master = json.loads(client.get_secret_value(SecretId=secret["masterarn"])["SecretString"])
        own = {"username", "password", "masterarn"}
        assert {key: value for key, value in master.items() if key not in own} == {
            key: value for key, value in secret.items() if key not in own
        }
        assert stack.environment["ROTATION_STRATEGY"] == strategy
        rights = "rolcreaterole, rolsuper, rolcreatedb, rolreplication, rolbypassrls"
        [found] = stack.postgres.query(f"SELECT {rights} FROM pg_roles WHERE rolname = '{MASTER}'")
        assert found == (True, False, False, False, False)
        with closing(stack.postgres.connect(MASTER, master["password"])) as session, session.cursor() as cursor:
            cursor.execute("CREATE ROLE app_clone LOGIN PASSWORD 'one'")
            cursor.execute("GRANT app TO app_clone WITH INHERIT TRUE, SET TRUE")
            cursor.execute("ALTER ROLE app_clone SET role = app")
            cursor.execute("ALTER ROLE app PASSWORD 'two'")
            session.commit()
        for username, password in (("app_clone", "one"), ("app", "two")):
            with closing(stack.postgres.connect(username, password)) as session, session.cursor() as cursor:
                cursor.execute("SELECT session_user, current_user")
                assert cursor.fetchone() == (username, "app")
