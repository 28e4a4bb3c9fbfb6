"""What answers in place of the database: at an address that is not the server's any more, or in between without TLS."""

from __future__ import annotations

import json
import re
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from local.servers.postgres import run_postgres
from rotation_lambda import errors
from rotation_lambda.postgres import tls
from rotation_lambda.settings import SHIPPED_BUNDLE
from tests import ROOT
from tests.worlds.scenes import Scene, lets_in, scene, set_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from local.servers.postgres import PostgresServer
    from tests.conftest import Role

__all__ = ["scene", "set_scene"]

MOST_MB = 64

# A login in a process of its own, which tells how it ended and how much more memory it has had at most.
CHILD = """
import json, re, sys, time
from dataclasses import replace
from pathlib import Path
from rotation_lambda.credential import Credential, SslMode
from rotation_lambda.deadline import Deadline
from rotation_lambda.errors import DatabaseError
from rotation_lambda.postgres import Postgres
from rotation_lambda.settings import SHIPPED_BUNDLE
login = Credential("127.0.0.1", int(sys.argv[1]), "postgres", sys.argv[2], sys.argv[3])
def most():  # of this program; getrusage counts what the process was before it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024
before = most()
try:
    database = Postgres(SslMode.DISABLE, SHIPPED_BUNDLE, Deadline(time.monotonic() + float(sys.argv[4])))
    with database.log_in(login) as session:
        if len(sys.argv) > 5:
            session.change_password(replace(login, password="new"))
    ended = "let in"
except DatabaseError as error:
    ended = f"{type(error).__name__}: {error.what}"
print(json.dumps([ended, most() - before]))
"""


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


NOTICE = message(b"N", b"SNOTICE\0VNOTICE\0C00000\0M" + b"x" * 20000 + b"\0\0")
NOTIFICATION = message(b"A", struct.pack("!I", 1) + b"c\0" + b"x" * 7000 + b"\0")
PARAMETER = message(b"S", b"name\0" + b"x" * 8000 + b"\0")
ROW = message(b"D", struct.pack("!HI", 1, 30000) + b"x" * 30000)
COLUMN = message(b"T", struct.pack("!H", 1) + b"a\0" + struct.pack("!IHIhIh", 0, 0, 25, -1, 0xFFFFFFFF, 0))
ENDLESS_ROW = COLUMN + b"D" + struct.pack("!I", 0x3FFFFF00) + struct.pack("!HI", 1, 0x3FFFFF00 - 10)
LONG_ROW = COLUMN + b"D" + struct.pack("!I", 15_000_000) + struct.pack("!HI", 1, 15_000_000 - 10)
ENDLESS_ERROR = b"E" + struct.pack("!I", 0x3FFFFF00) + b"SERROR\0C42501\0M"
ASKS_FOR_MD5 = message(b"R", struct.pack("!I", 5) + b"salt")
SETTINGS = {b"server_version": b"17.0", b"DateStyle": b"ISO, MDY", b"client_encoding": b"UTF8"}
ASKS_FOR_SCRAM = message(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0")
LETS_IN = message(b"R", struct.pack("!I", 0)) + b"".join(
    message(b"S", b"\x00".join([*one, b""])) for one in SETTINGS.items()
)
READY = message(b"K", struct.pack("!II", 1, 1)) + message(b"Z", b"I")
MUCH = b"x" * 4_000_000
FULL = message(b"E", b'SFATAL\0VFATAL\0C53300\0Mtoo many connections for role "it"\0\0')

# What it answers to the first query, or while it lets the client in: once, and then without an end.
FLOODS = {
    "parameters": (b"", PARAMETER),
    "notices": (b"", NOTICE),
    "notifications": (b"", NOTIFICATION),
    "rows": (COLUMN, ROW),
    "one endless row": (ENDLESS_ROW, MUCH),
    "one endless row, which begins slowly": (ENDLESS_ROW + b"x" * 33000, MUCH),
    "one long row, which begins slowly": (LONG_ROW + b"x" * 33000, MUCH),
    "one endless error": (ENDLESS_ERROR, MUCH),
}

DONE = message(b"C", b"SELECT 1\0") + message(b"Z", b"I")


def rows(columns: list[int], *found: list[bytes | None]) -> bytes:
    """Answer with rows of columns of these types."""
    described = b"".join(b"a\0" + struct.pack("!IHIhIh", 0, 0, kind, -1, 0xFFFFFFFF, 0) for kind in columns)
    values = [
        b"".join(struct.pack("!i", -1) if one is None else struct.pack("!i", len(one)) + one for one in row)
        for row in found
    ]
    sent = b"".join(message(b"D", struct.pack("!H", len(columns)) + value) for value in values)
    return message(b"T", struct.pack("!H", len(columns)) + described) + sent + DONE


TEXT, INTEGERS, NUMBER, TIME = 25, 1007, 1700, 1114
WHO = b'["app", "app", 1, false, false]'
LOOKS_HONEST = rows([TEXT], [WHO])
ANSWERS = {
    "a copy in both ways": message(b"W", b"\0\0\0"),
    "a copy that goes out": message(b"H", b"\0\0\0"),
    "no row": COLUMN + DONE,
    "nothing": message(b"I", b"") + message(b"Z", b"I"),
    "one column": rows([TEXT], [b"x"]),
    "null": rows([TEXT], [None]),
    "two rows": rows([TEXT], [WHO], [WHO]),
    "two columns": rows([TEXT, TEXT], [WHO, WHO]),
    "too few values": rows([TEXT], [b'["app"]']),
    "no list": rows([TEXT], [b"5"]),
    "no number": rows([NUMBER], [b"abc"]),
    "no UTF-8": rows([TEXT], [b"\xff"]),
    "an odd time": rows([TIME], [b"999999999999-01-01 00:00:00"]),
    "deep JSON": rows([TEXT], [b"[" * 9000 + b"]" * 9000]),
    "an array without an end, over which psycopg2 ends the process": rows([INTEGERS], [b'{"a']),
}


@contextmanager
def server(talk: Callable[[socket.socket, bytes], None]) -> Iterator[int]:
    """Have it talk to each connection, after what the client says first."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            talk(connection, connection.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def log_in(
    port: int,
    user: str = "app",
    password: str = "secret",  # noqa: S107
    seconds: float = 30,
    *further: str,
) -> tuple[str, int]:
    child = [sys.executable, "-c", CHILD, str(port), user, password, str(seconds), *further]
    done = subprocess.run(child, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    ended, megabytes = json.loads(done.stdout)
    return ended, megabytes


class TestAFlood:
    """A server that lets the function in by md5, for which it need not know the password."""

    @pytest.mark.parametrize("flood", FLOODS)
    def test_costs_little_memory(self, flood: str) -> None:
        first, then = FLOODS[flood]

        def talk(connection: socket.socket, _: bytes) -> None:
            connection.sendall(ASKS_FOR_MD5)
            if not connection.recv(65536):
                return
            connection.sendall(LETS_IN)
            if flood != "parameters":
                connection.sendall(READY)
                connection.recv(65536)
            connection.sendall(first)
            if "slowly" in flood:
                time.sleep(0.3)
            while True:
                connection.sendall(then)

        with server(talk) as port:
            ended, megabytes = log_in(port)
        assert re.search("sent more than|cannot allocate memory|lost synchronization", ended), ended
        assert megabytes < MOST_MB

    @pytest.mark.parametrize("answer", ANSWERS)
    def test_of_another_kind_than_was_asked_for_is_no_login(self, answer: str) -> None:
        def talk(connection: socket.socket, _: bytes) -> None:
            connection.sendall(ASKS_FOR_MD5)
            if connection.recv(65536):
                connection.sendall(LETS_IN + READY)
                connection.recv(65536)
                connection.sendall(ANSWERS[answer])
                connection.recv(65536)

        with server(talk) as port:
            ended, _ = log_in(port)
        assert ended.startswith("ConnectionFailedError"), ended

    def test_ends_before_a_login_has_begun(self) -> None:
        def talk(connection: socket.socket, _: bytes) -> None:
            while True:
                connection.sendall(NOTICE)

        with server(talk) as port:
            ended, megabytes = log_in(port)
        assert ended.startswith("ConnectionFailedError"), ended
        assert megabytes < MOST_MB

    def test_of_single_bytes_ends_when_time_is_up(self) -> None:
        def talk(connection: socket.socket, _: bytes) -> None:
            connection.sendall(b"E" + struct.pack("!I", 29000))
            while True:
                connection.sendall(b"S")
                time.sleep(0.05)

        with server(talk) as port:
            assert log_in(port, seconds=1)[0].startswith("DatabaseTimeoutError")

    def test_is_not_what_an_honest_server_sends(self, postgres_of: Callable[[int], PostgresServer]) -> None:
        there = postgres_of(16)
        ended, megabytes = log_in(there.port, there.superuser, there.password)
        assert ended == "let in"
        assert megabytes < MOST_MB


class TestAVerifier:
    """A server that lets the function in by md5 is asked for the form of the next password."""

    @pytest.mark.parametrize(
        ("first", "then"),
        [
            (LOOKS_HONEST, rows([TEXT], [b"[null]"])),  # libpq would ask once more by itself, and wait without an end
            (message(b"S", b"scram_iterations\x002147483647\0") + LOOKS_HONEST, rows([TEXT], [b'["scram-sha-256"]'])),
            (message(b"S", b"scram_iterations\0many\0") + LOOKS_HONEST, rows([TEXT], [b'["scram-sha-256"]'])),
            (message(b"S", b"scram_iterations\x001\0") + LOOKS_HONEST, rows([TEXT], [b'["scram-sha-256"]'])),
            (LOOKS_HONEST, rows([TEXT], [b'["md5", "md5"]'])),
        ],
        ids=["of no form", "of very many iterations", "of a word of iterations", "of one iteration", "of two forms"],
    )
    def test_is_not_made_without_an_end(self, first: bytes, then: bytes) -> None:
        def talk(connection: socket.socket, _: bytes) -> None:
            connection.sendall(ASKS_FOR_MD5)
            connection.recv(65536)
            connection.sendall(LETS_IN + READY)
            for answer in (first, then):
                connection.recv(65536)
                connection.sendall(answer)
            while connection.recv(65536):
                pass

        with server(talk) as port:
            ended, _ = log_in(port, "app", "secret", 1, "change the password")
        assert ended.startswith(("PasswordChangeError", "ConnectionFailedError")), ended

    @pytest.mark.parametrize("where", ["message", "rows", "user"])
    def test_is_not_told(self, where: str) -> None:
        """As its words about an error, as the holder of the row, or as the user of another session."""
        verifiers: list[bytes] = []

        def answer(query: bytes) -> bytes:
            if found := re.search(rb"SCRAM-SHA-256\$[^']+", query):
                verifiers.append(found[0])
                state, words = (b"42501", found[0]) if where == "message" else (b"55P03", b"locked")
                return message(b"E", b"SERROR\0VERROR\0C" + state + b"\0M" + words + b"\0\0") + message(b"Z", b"T")
            if b"pg_locks" in query:
                return rows([TEXT], [json.dumps([f"process 1 {verifiers[0].decode()}{'x' * 5000}"]).encode()])
            if b"pg_is_in_recovery" in query and where == "user":
                return rows([TEXT], [json.dumps(["md5" + "0" * 32 + "x" * 5000, "app", 1, False, True]).encode()])
            if b"pg_is_in_recovery" in query:
                return LOOKS_HONEST
            if b"password_encryption" in query:
                return rows([TEXT], [b'["scram-sha-256"]'])
            return message(b"C", b"BEGIN\0") + message(b"Z", b"T")

        def talk(connection: socket.socket, _: bytes) -> None:
            connection.sendall(ASKS_FOR_MD5)
            connection.recv(65536)
            connection.sendall(LETS_IN + READY)
            while query := connection.recv(65536):
                connection.sendall(answer(query))

        with server(talk) as port:
            ended, _ = log_in(port, "app", "secret", 3, "change the password")
        kinds = {"message": "PasswordChangeError", "rows": "RoleLockedError", "user": "PoolerError"}
        assert ended.startswith(kinds[where]), ended
        assert re.search(r"…|\\u2026", ended)
        assert len(ended) < 1000
        assert not any(one.decode() in ended for one in verifiers)

    def test_is_made_as_an_honest_server_wants_it(
        self, postgres_of: Callable[[int], PostgresServer], make_role: Callable[..., Role]
    ) -> None:
        role = make_role(postgres_of(16))
        ended, _ = log_in(role.server.port, role.name, role.password, 30, "change the password")
        assert ended == "let in"
        assert role.lets_in("new")


class TestACertificateThatNeverEnds:
    """The look at a certificate, which explains a failed login, has its seconds for all of it."""

    def test_keeps_its_seconds(self) -> None:
        def talk(connection: socket.socket, _: bytes) -> None:
            connection.sendall(b"S\x16\x03\x03\x40\x00")
            while True:
                connection.sendall(b"\x02")
                time.sleep(0.02)

        with server(talk) as port:
            began = time.monotonic()
            with pytest.raises(OSError, match="timed out"):
                tls.look_at("127.0.0.1", port, "localhost", SHIPPED_BUNDLE, 0.3)
            assert time.monotonic() - began >= 0.3

    def test_is_not_what_an_honest_server_has(self, postgres: PostgresServer) -> None:
        assert tls.look_at("127.0.0.1", postgres.port, "localhost", str(postgres.ca_file), 5)


class TestARefusalAfterAuthentication:
    """Without TLS, what is in between can say that a password was right, and that the user has its connections."""

    def scene(self, set_scene: Callable[..., Scene], there: PostgresServer, port: int) -> tuple[Scene, Role]:
        """Have both secrets lead to the port, and the value name another user, with a made-up password."""
        scene = set_scene(there)
        victim, master = scene.role, scene.master.document()
        client = scene.secret.server.client()
        client.put_secret_value(SecretId=scene.master.arn, SecretString=json.dumps({**master, "port": port}))
        scene.put({**scene.secret.document(), "port": port, "password": "made-up"})
        return scene, victim

    def test_gives_no_authority_over_the_user(
        self,
        set_scene: Callable[..., Scene],
        postgres_of: Callable[[int], PostgresServer],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("ROTATION_STRATEGY", "superuser")
        there, users = postgres_of(16), set[str]()

        def talk(connection: socket.socket, startup: bytes) -> None:
            if any(f"\0{user}\0".encode() in startup for user in users):
                connection.sendall(ASKS_FOR_MD5)
                if connection.recv(65536):
                    connection.sendall(FULL)
                return
            with socket.create_connection((there.host, there.port)) as real:
                real.sendall(startup)
                carry(connection, real)

        with server(talk) as port:
            scene, victim = self.scene(set_scene, there, port)
            users.add(victim.name)
            error = scene.fail(errors.RoleNotPreparedError)
        assert "is not shown to accept AWSCURRENT's password" in error.what
        assert victim.lets_in(victim.password)

    def test_is_honest_where_the_user_has_its_one_session(
        self,
        set_scene: Callable[..., Scene],
        postgres_of: Callable[[int], PostgresServer],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As the verdict on a change it counts, without TLS as well."""
        monkeypatch.setenv("ROTATION_STRATEGY", "single-user")
        scene = set_scene(postgres_of(16))
        scene.role.alter("CONNECTION LIMIT 1")
        assert lets_in(scene, scene.rotate())


class TestAPasswordOfAnotherServer:
    """The writer of a value, who cannot read it, sends the login with an older version's password to a host of its own.

    That passes it on to the database, without what would bind it to the channel: the session is the host's then.
    """

    @pytest.mark.parametrize("strategy", ["single-user", "superuser"])
    @pytest.mark.parametrize(("sslmode", "version"), [("disable", 17), ("require", 16)])
    def test_is_not_passed_on(
        self,
        sslmode: str,
        version: int,
        strategy: str,
        set_scene: Callable[..., Scene],
        postgres_of: Callable[[int], PostgresServer],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("ROTATION_STRATEGY", strategy)
        scene = set_scene(postgres_of(version))
        scene.rotate()
        ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trustme.CA().issue_cert("localhost").configure_cert(ours)
        theirs.check_hostname, theirs.verify_mode = False, ssl.CERT_NONE
        asked, let_in = list[bytes](), list[bytes]()

        def talk(connection: socket.socket, startup: bytes) -> None:
            with ExitStack() as opened:
                if startup == tls._SSL_REQUEST:
                    connection.sendall(b"S")
                    connection = opened.enter_context(ours.wrap_socket(connection, server_side=True))
                    startup = connection.recv(65536)
                real = opened.enter_context(socket.create_connection(("127.0.0.1", scene.server.port)))
                if scene.server.ca_file:
                    real.sendall(tls._SSL_REQUEST)
                    assert real.recv(1) == b"S"
                    real = opened.enter_context(theirs.wrap_socket(real))
                asked.append(startup)
                real.sendall(startup)
                while (answer := real.recv(65536)) and LETS_IN[:9] not in answer:
                    offers_scram = answer.startswith(b"R") and b"\0SCRAM-SHA-256\0" in answer
                    connection.sendall(ASKS_FOR_SCRAM if offers_scram else answer)
                    if not (said := connection.recv(65536)):
                        return
                    real.sendall(said)
                let_in.append(startup)

        with server(talk) as port:
            elsewhere = {"host": "localhost", "port": port, "sslmode": sslmode, "password": "made-up"}
            scene.put({**scene.secret.document(), **elsewhere})
            error = scene.fail(errors.LoginRefusedError if strategy == "single-user" else errors.SuperuserMismatchError)
            assert "retained versions could not be tried" in error.what + scene.notes()
            scene.look()
        assert len(asked) > 2
        assert let_in == []

    @pytest.mark.parametrize("strategy", ["single-user", "superuser"])
    def test_lets_an_honest_user_in_at_its_own_server(
        self, strategy: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever the case of its name; where the server has another one now, a person sets the password."""
        monkeypatch.setenv("ROTATION_STRATEGY", strategy)
        before = scene.secret.document()
        scene.put({**before, "host": "LOCALHOST", "password": "mistyped"})
        assert "AWSPREVIOUS" in scene.look()["login AWSCURRENT"]["seen"]
        assert lets_in(scene, scene.rotate())
        scene.put({**before, "host": "127.0.0.1", "tlsServerName": "localhost", "password": "mistyped"})
        scene.fail(errors.LoginRefusedError if strategy == "single-user" else errors.SuperuserMismatchError)
        assert "is for another server" in scene.notes()


class TestALoginElsewhere:
    """The writer of a value says how its own login goes: without TLS, or to a name that it has a certificate for.

    What is in between sends that login to a server of its own, and all others to the real one.
    """

    @pytest.fixture
    def evil(self) -> Iterator[PostgresServer]:
        with run_postgres(server_names=["127.0.0.1"]) as server:
            yield server

    @pytest.fixture
    def between(self, evil: PostgresServer, postgres: PostgresServer) -> Iterator[int]:
        def talk(connection: socket.socket, startup: bytes) -> None:
            hello, to = b"", evil
            if startup == tls._SSL_REQUEST:
                connection.sendall(b"S")
                hello = connection.recv(65536)
                to = postgres if b"localhost" in hello else evil  # the name that it asks for
            with socket.create_connection(("127.0.0.1", to.port)) as real:
                real.sendall(startup)
                if hello:
                    assert real.recv(1) == b"S"
                    real.sendall(hello)
                carry(connection, real)

        with server(talk) as port:
            yield port

    @pytest.fixture
    def prepare(
        self,
        evil: PostgresServer,
        postgres: PostgresServer,
        set_scene: Callable[..., Scene],
        make_role: Callable[..., Role],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> Callable[[str, int], tuple[Scene, Role]]:
        """Make a scene whose superuser logs in by verify-full at the port, and a user whom the writer has made there.

        The CAs of both servers are trusted.
        """

        def make(strategy: str, port: int) -> tuple[Scene, Role]:
            monkeypatch.setenv("ROTATION_STRATEGY", strategy)
            scene = set_scene(postgres)
            scene.rotate()
            trusted = tmp_path / "trusted.pem"
            trusted.write_text("".join(Path(str(one.ca_file)).read_text() for one in (postgres, evil)))
            monkeypatch.setenv("PGSSLROOTCERT", str(trusted))
            victim = make_role(postgres)
            scene.query("GRANT {} TO {} WITH ADMIN OPTION", victim.name, scene.superuser.name)
            replace(scene, secret=scene.master).put({**scene.master.document(), "port": port, "sslmode": "verify-full"})
            for user in (victim.name, f"{victim.name}_clone"):
                evil.query(f"CREATE ROLE \"{user}\" LOGIN PASSWORD 'chosen-by-the-writer'")
            evil.use_hba("host all all all scram-sha-256")
            return scene, victim

        return make

    def attack(self, scene: Scene, victim: Role, port: int, how: Mapping[str, str]) -> None:
        theirs = {"username": victim.name, "password": "chosen-by-the-writer"}
        scene.put({**scene.secret.document(), "port": port, **theirs, **how})
        error = scene.fail(errors.RoleNotPreparedError)
        assert "is not shown to accept AWSCURRENT's password" in error.what
        assert victim.lets_in(victim.password)

    @pytest.mark.parametrize("strategy", ["superuser", "alternating-users"])
    @pytest.mark.parametrize("how", [{"sslmode": "disable"}, {"sslmode": "verify-full", "tlsServerName": "127.0.0.1"}])
    @pytest.mark.parametrize("honest", [False, True], ids=["attack", "honest"])
    def test_gives_no_authority_over_a_user_but_honest_ones_go_on(
        self,
        honest: bool,  # noqa: FBT001 - a parameter
        how: dict[str, str],
        strategy: str,
        between: int,
        prepare: Callable[[str, int], tuple[Scene, Role]],
    ) -> None:
        scene, victim = prepare(strategy, between)
        if honest:
            before = scene.secret.document()
            scene.put({**before, "port": between, "sslmode": "verify-full"})
            assert scene.rotate()["password"] != before["password"]
            return
        self.attack(scene, victim, between, how)
        assert scene.look()["password change"]["code"] == "role-not-prepared"

    @pytest.mark.parametrize("strategy", ["superuser", "alternating-users"])
    @pytest.mark.parametrize("sslmode", ["require", "verify-ca"])
    def test_with_less_tls_than_the_superuser_s_gives_none_at_the_same_address(
        self,
        sslmode: str,
        strategy: str,
        evil: PostgresServer,
        postgres: PostgresServer,
        prepare: Callable[[str, int], tuple[Scene, Role]],
    ) -> None:
        """A certificate of a CA that is trusted can be had for another name: what is in between answers by it once."""
        diverted = [False] * 2  # createSecret logs in nowhere

        def talk(connection: socket.socket, startup: bytes) -> None:
            first = diverted[0] and not diverted[1]
            diverted[1] |= first
            with socket.create_connection(("127.0.0.1", (evil if first else postgres).port)) as real:
                real.sendall(startup)
                carry(connection, real)

        with server(talk) as port:
            scene, victim = prepare(strategy, port)
            diverted[0] = True
            self.attack(scene, victim, port, {"sslmode": sslmode})
        assert diverted[1]


def carry(client: socket.socket, real: socket.socket) -> None:
    """Pass on what each says to the other."""
    while ready := select.select([client, real], [], [])[0]:
        for end in ready:
            data = end.recv(65536)
            if not data:
                return
            (real if end is client else client).sendall(data)
