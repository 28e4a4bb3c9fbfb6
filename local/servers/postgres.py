"""Stand-in for RDS: an embedded PostgreSQL that asks for SCRAM, has TLS if built with it, and leaves no trace."""

from __future__ import annotations

import os
import pwd
import secrets
import select
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

import psycopg2
import trustme
from psycopg2 import sql

from local import CannotRunError
from local.servers.installation import find_installation, run_program, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, whatever psycopg2 calls it

ADDRESSES = {"127.0.0.1": "localhost", "0.0.0.0": "0.0.0.0, ::1"}  # noqa: S104 - where a container may have to get in
SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "shared_buffers": "16MB"}
LAST_WORDS = 5_000
MEMORY, ROOM = Path("/dev/shm"), 2**30  # noqa: S108 - each server makes a folder of its own there, by mkdtemp
SMALL = {"max_connections": "40", "unix_socket_directories": ""}

# What libpq is told, be it nothing, it does not take from the environment. PGSERVICE cannot be overruled (service=""
# is an error), but a service's entries do not win over these.
NOT_FROM_THE_ENVIRONMENT: Mapping[str, object] = dict(
    **dict.fromkeys(("options", "application_name", "sslcert", "sslkey", "sslcrl", "sslcrldir"), ""),
    **dict.fromkeys(("gssencmode", "sslcertmode", "load_balance_hosts"), "disable"),
    require_auth="scram-sha-256,md5,password,none",
    channel_binding="prefer",
    sslnegotiation="postgres",
    ssl_min_protocol_version="TLSv1.2",
    ssl_max_protocol_version="",
    target_session_attrs="any",
    client_encoding="UTF8",
    connect_timeout=10,
    passfile=os.devnull,
)

# Waits for a line or the end of its input: a process that is killed writes no line, but its pipe closes all the same.
SWEEPER = """
read -r line
postmaster=$(head -n 1 "$1/data/postmaster.pid") && kill -s QUIT "$postmaster"
for pooler in "$1"/pgbouncer-*/pid; do
    [ -e "$pooler" ] && kill -s KILL "$(cat "$pooler")"
done
for attempt in $(seq 100); do
    [ -e "$1/data/postmaster.pid" ] || { rm -rf -- "$1" && exit; }
    sleep 0.05
done
rm -rf -- "$1"
"""


SERVERS: WeakSet[PostgresServer] = WeakSet()
"""Every server that this process has started and still knows of, be it that it has ended."""


class ServerNotStartedError(CannotRunError):
    """PostgreSQL did not come up; the message ends with what it said."""


class PortTakenError(ServerNotStartedError):
    """Another server listens on the port."""


@dataclass(slots=True, weakref_slot=True, eq=False, kw_only=True)
class PostgresServer:
    """A PostgreSQL on this machine; `ca_file` is the authority its certificate chains to, None where it has no TLS."""

    version: int
    host: str = "localhost"
    port: int = 0
    ca_file: Path | None
    log_file: Path
    data: Path
    superuser: str = "postgres"
    password: str = field(repr=False)
    server_name: str = field(default="localhost", repr=False)
    program: Path = field(repr=False)
    surroundings: Mapping[str, Any] = field(repr=False)
    _process: subprocess.Popen[Any] | None = field(default=None, init=False, repr=False)
    _last_words: str = field(default="", init=False, repr=False)
    _idle: list[Connection] = field(default_factory=list, init=False, repr=False)

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None while the server is stopped."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def default_hba(self) -> str:
        """The line of pg_hba.conf a new server has for all users: SCRAM and TLS, as RDS where rds.force_ssl is on."""
        return f"{'hostssl' if self.ca_file else 'host'} all all all scram-sha-256"

    def connect(self, user: str, password: str, **overrides: object) -> Connection:
        """Log in, verifying the server where it has TLS; `overrides` are libpq's parameters. The caller closes."""
        server = {"host": self.server_name, "hostaddr": "127.0.0.1", "port": self.port, "dbname": "postgres"}
        tls = {"sslmode": "verify-full", "sslrootcert": self.ca_file} if self.ca_file else {"sslmode": "disable"}
        login = {"user": user, "password": password}
        parameters: dict[str, Any] = {**NOT_FROM_THE_ENVIRONMENT, **server, **tls, **login, **overrides}
        connection: Connection = psycopg2.connect(**parameters)
        return connection

    def query(
        self, query: str | sql.Composed, params: Sequence[object] | None = None, *, dbname: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run one statement in an autocommitted session of the superuser's and return its rows.

        A session that served in the database postgres is kept for the next query, for a login costs more than most.
        """
        with ExitStack() as stack:
            connection = self._session(dbname)
            stack.callback(connection.close)
            with connection.cursor() as cursor:
                cursor.execute(query, params)
                rows = cursor.fetchall() if cursor.description else []
            if dbname == "postgres":
                stack.pop_all()
                self._idle.append(connection)
            return rows

    def _session(self, dbname: str) -> Connection:
        """Return an idle session of the superuser's that the server has not ended, or a new one."""
        while dbname == "postgres" and self._idle:
            with suppress(IndexError):  # another thread may have taken it
                connection = self._idle.pop()
                if not select.select([connection], [], [], 0)[0]:  # what there is to read unasked is a goodbye
                    return connection
                connection.close()
        connection = self.connect(self.superuser, self.password, dbname=dbname)
        connection.autocommit = True
        return connection

    def start(self) -> None:
        """Start the server and wait until it takes connections; raises PortTakenError or ServerNotStartedError."""
        if self.pid is not None:
            return
        SERVERS.add(self)
        known = len(self.log())
        command = [str(self.program), "-D", str(self.data), "-p", str(self.port)]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self.surroundings)  # noqa: S603
        deadline = time.monotonic() + 30
        while self.pid is not None and not self._is_ready() and time.monotonic() < deadline:
            time.sleep(0.005)
        says = self.log()[known:]
        taken = "Address already in use" in says  # one of several addresses is enough, and only a warning to PostgreSQL
        if taken or not self._is_ready():
            self.stop("immediate")
            error = PortTakenError if taken else ServerNotStartedError
            raise error(f"PostgreSQL {self.version} did not start on port {self.port}:\n{says}")

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """End the server as pg_ctl would and wait for it; past 30 seconds, or when interrupted, it ends immediately."""
        self._end_idle()
        if self._process is None or self.pid is None:
            return
        self._process.send_signal(SIGNALS[mode])
        try:
            self._process.wait(30)
        except BaseException as error:
            self._process.send_signal(SIGNALS["immediate"])
            self._process.wait(30)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise

    def restart(self) -> None:
        """Stop and start the server; its port and data stay."""
        self.stop()
        self.start()

    def use_hba(self, *lines: str) -> None:
        """Let in whom `lines` let in, and the superuser; if PostgreSQL cannot read one, ValueError and no change."""
        hba = self.data / "pg_hba.conf"
        before = hba.read_text()
        own = self.default_hba.replace("all all", f"all {self.superuser}", 1)
        hba.write_text("\n".join((own, *lines, "")))
        if errors := self.query("SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL"):
            hba.write_text(before)
            raise ValueError("; ".join(f"pg_hba.conf, line {line}: {error}" for line, error in errors))
        self.reload()

    def configure(self, **settings: str | None) -> None:
        """Set parameters by ALTER SYSTEM (None resets one) and reload; what needs a restart waits for the caller's."""
        for name, value in settings.items():
            change = sql.SQL("ALTER SYSTEM RESET {}" if value is None else "ALTER SYSTEM SET {} = {}")
            self.query(change.format(sql.Identifier(*name.split(".")), sql.Literal(value)))
        self.reload()

    def reload(self) -> None:
        """Reread the configuration, and wait until who connects is under it: pg_reload_conf() does no more than ask."""
        [(loaded, _)] = self.query("SELECT pg_conf_load_time(), pg_reload_conf()")
        deadline = time.monotonic() + 10
        while self._ask_afresh("SELECT pg_conf_load_time()") == [(loaded,)]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not take its new configuration:\n{self.log()[-1000:]}")

    def _ask_afresh(self, query: str) -> list[tuple[Any, ...]]:
        """Ask in a new session: one that is there already rereads its part, be it before the server has pg_hba.conf."""
        self._end_idle()
        return self.query(query)

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def log(self) -> str:
        """Return the whole log; its first refused login is the one that run_postgres tried."""
        return self.log_file.read_text(errors="replace")

    def last_words(self, since: int = 0) -> str:
        """Return the end of what it wrote after the first `since` bytes of its log, even if the log is gone with it."""
        try:
            said = self.log_file.read_bytes()[since:].decode(errors="replace")
        except FileNotFoundError:
            return self._last_words
        return said if len(said) <= LAST_WORDS else said[-LAST_WORDS:].partition("\n")[2]

    def _is_ready(self) -> bool:
        """Tell by postmaster.pid, as pg_ctl does: to knock would leave lines in the log."""
        try:
            lines = (self.data / "postmaster.pid").read_text().split()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(self.pid)] and lines[-1] in {"ready", "standby"}

    def _prove_refusal(self) -> None:
        """Raise RuntimeError unless a wrong password is refused: else a login would prove nothing."""
        try:
            self.connect(self.superuser, f"not {self.password}", require_auth="scram-sha-256").close()
        except psycopg2.OperationalError as error:
            if "password authentication failed" in str(error):
                return
            raise
        raise RuntimeError(f"PostgreSQL {self.version} on port {self.port} let a wrong password in")


@contextmanager
def run_postgres(
    *,
    version: int = 17,
    settings: Mapping[str, str] = {},
    bind: str = "127.0.0.1",
    server_names: Sequence[str] = ("localhost",),
    directory: Path | None = None,
) -> Iterator[PostgresServer]:
    """Run a new PostgreSQL that was seen refusing a wrong password; afterwards no process and no folder of it is left.

    It listens on localhost and on `bind`, an IPv4 address. `settings` go into postgresql.conf, `server_names` into the
    certificate. Its folder is made in `directory`, or else where files cost least; PostgreSQL does not run as root, so
    under root the account nobody must be able to get there.
    """
    installation = find_installation(version)
    surroundings = _surroundings()
    with _swept_folder(directory or _memory()) as folder:
        if version_of(installation.root, surroundings) is None:
            installation = installation.copy(folder)
            give(surroundings, *folder.rglob("*"))
        password = secrets.token_urlsafe(24)
        data = _initialise(installation.root, folder, password, surroundings)
        conf = {**FAST, **SMALL, "listen_addresses": ADDRESSES.get(bind, f"localhost, {bind}"), **settings}
        tls = conf.get("ssl") != "off" and run_program(
            installation.root, "postgres", "-D", str(data), "-C", "ssl_library", surroundings=surroundings
        )
        if tls:
            conf = {**_certify(server_names, folder, surroundings), **conf}
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {_quoted(value)}\n" for name, value in conf.items())
        server = PostgresServer(
            version=version,
            ca_file=folder / "ca.pem" if tls else None,
            log_file=folder / "server.log",
            data=data,
            password=password,
            server_name=server_names[0],
            program=installation.root / "bin" / "postgres",
            surroundings=surroundings,
        )
        server.log_file.touch()
        (data / "pg_hba.conf").write_text(f"{server.default_hba}\n")
        try:
            _start_on_a_free_port(server)
            server._prove_refusal()  # noqa: SLF001
            yield server
        finally:
            server.stop()
            server._last_words = server.last_words()  # noqa: SLF001
            (data / "postmaster.pid").unlink(missing_ok=True)


def _surroundings() -> dict[str, Any]:
    """Say how subprocess runs PostgreSQL: away from the terminal and its Ctrl-C, and as nobody where we are root."""
    surroundings = {
        "stdin": subprocess.DEVNULL,
        "cwd": "/",
        "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
        "start_new_session": True,
    }
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        surroundings |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    return surroundings


def give(surroundings: Mapping[str, Any], *paths: Path) -> None:
    """Make the account that runs PostgreSQL the owner of `paths`."""
    for path in paths:
        os.chown(path, surroundings.get("user", -1), surroundings.get("group", -1), follow_symlinks=False)


def _memory() -> Path | None:
    """Return a folder in memory, where a server starts in half the time; None without one that has room for several.

    In a container it has 64 MB as a rule. A TMPDIR of one's own is where temporary files are wanted.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK | os.X_OK):
        return None
    there = os.statvfs(MEMORY)
    return MEMORY if there.f_bavail * there.f_frsize > ROOM and not there.f_flag & os.ST_NOEXEC else None


@contextmanager
def _swept_folder(parent: Path | None) -> Iterator[Path]:
    """Make a folder that a process of its own removes afterwards, ending a server left in it, even if we are killed."""
    folder = Path(mkdtemp(prefix="postgres-", dir=parent)).resolve()
    folder.chmod(0o755)
    with subprocess.Popen(  # noqa: S603
        ["/bin/sh", "-c", SWEEPER, "sweeper", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    ) as sweeper:
        try:
            yield folder
        finally:
            sweeper.communicate(b"done\n")


def _initialise(root: Path, folder: Path, password: str, surroundings: Mapping[str, Any]) -> Path:
    """Make a database cluster whose superuser has `password`, and return its data directory."""
    data, password_file = folder / "data", folder / "password"
    data.mkdir(mode=0o700)
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    give(surroundings, data, password_file)
    login = ("--username=postgres", "--auth=scram-sha-256", f"--pwfile={password_file}")
    contents = ("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
    run_program(root, "initdb", f"--pgdata={data}", *login, *contents, surroundings=surroundings)
    password_file.unlink()
    return data


def _certify(names: Sequence[str], folder: Path, surroundings: Mapping[str, Any]) -> dict[str, str]:
    """Have a new authority (its certificate is ca.pem) sign a certificate for `names`; return the server's settings."""
    authority = trustme.CA()
    leaf = authority.issue_cert(*names)
    key = folder / "server.key"
    key.touch(mode=0o600)
    leaf.private_key_pem.write_to_path(key)
    leaf.cert_chain_pems[0].write_to_path(folder / "server.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for public in ("server.pem", "ca.pem"):
        (folder / public).chmod(0o644)  # whatever the umask is: PostgreSQL may run under another account
    give(surroundings, key)
    return {"ssl": "on", "ssl_cert_file": f"{folder}/server.pem", "ssl_key_file": str(key)}


def _start_on_a_free_port(server: PostgresServer, attempts: int = 20) -> None:
    """Start on a port that is free because it could be taken, and lies below those that outgoing connections get."""
    for attempt in range(1, attempts + 1):
        server.port = 20_000 + secrets.randbelow(12_000)
        try:
            server.start()
        except PortTakenError:
            if attempt == attempts:
                raise
        else:
            break


def _quoted(value: str) -> str:
    """Quote a value as postgresql.conf reads it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
