"""The writer of a secret, or the owner of a database, cannot lead a superuser elsewhere or have it run foreign code."""

from __future__ import annotations

import json
import socket
import struct
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from rotation_lambda import errors
from tests.worlds.scenes import Scene, database, every_scene, scene, set_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.servers.postgres import PostgresServer
    from tests.conftest import Role

__all__ = ["every_scene", "scene", "set_scene"]

STRATEGIES = ["alternating-users", "superuser"]
CLEAR_TEXT = b"R" + struct.pack("!II", 8, 3)
TRUST = b"".join(
    [
        b"R" + struct.pack("!II", 8, 0),
        b"S" + struct.pack("!I", 24) + b"server_version\x0017.0\x00",
        b"K" + struct.pack("!III", 12, 1, 1),
        b"Z" + struct.pack("!I", 5) + b"I",
    ]
)
SSL_REQUEST = struct.pack("!II", 8, 80877103)

# What the function asks for in a database, by the names that PostgreSQL would look for along a search_path.
FUNCTIONS = [
    "set_config(text, text, boolean) RETURNS text",
    "pg_has_role(oid, oid, text) RETURNS boolean",
    "pg_has_role(name, text, text) RETURNS boolean",
    "current_setting(text) RETURNS text",
    "hashtext(text) RETURNS integer",
    "pg_try_advisory_lock(integer, integer) RETURNS boolean",
    "pg_backend_pid() RETURNS integer",
    "pg_is_in_recovery() RETURNS boolean",
    "split_part(text, text, integer) RETURNS text",
    "strpos(text, text) RETURNS integer",
    "substr(text, integer) RETURNS text",
    "to_jsonb(anyelement) RETURNS jsonb",
    "array_remove(anycompatiblearray, anycompatible) RETURNS anycompatiblearray",
]


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ROTATION_STRATEGY", request.param)
    return str(request.param)


@dataclass(slots=True)
class Rogue:
    """A server that says `words` to whoever wants to log in, and keeps what it hears."""

    words: bytes
    port: int = 0
    heard: list[bytes] = field(default_factory=list)

    def listen_to(self, client: socket.socket) -> None:
        with client:
            client.settimeout(5)
            while said := client.recv(65536):
                self.heard.append(said)
                client.sendall(b"N" if said == SSL_REQUEST else self.words)


@contextmanager
def rogue(words: bytes) -> Iterator[Rogue]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        one = Rogue(words, listener.getsockname()[1])

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                one.listen_to(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield one
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


class TestAHostThatSomebodyPutIntoTheSecret:
    @pytest.mark.parametrize("words", [CLEAR_TEXT, TRUST], ids=["that wants clear text", "that trusts everybody"])
    def test_hears_no_password_and_of_no_superuser(self, words: bytes, strategy: str, scene: Scene) -> None:
        with rogue(words) as server:
            scene.put({**scene.secret.document(), "host": "127.0.0.1", "port": server.port, "sslmode": "disable"})
            scene.fail(errors.AuthenticationMethodError)
        heard = b"".join(server.heard)
        assert scene.role.name.encode() in heard  # a login was tried: the server was really asked
        for word in (scene.superuser.name, scene.superuser.password, scene.role.password):
            assert word.encode() not in heard

    def test_has_a_role_of_that_name_and_password_and_no_superuser_comes(
        self, strategy: str, scene: Scene, postgres_of: Callable[[int], PostgresServer], make_role: Callable[..., Role]
    ) -> None:
        other = make_role(postgres_of(18), scene.role.name, scene.role.password)
        make_role(other.server, scene.superuser.name, scene.superuser.password, "CREATEROLE")
        address = {"host": other.server.host, "port": other.server.port, "sslmode": "disable"}
        for document in (address, {f"rotation{key.title()}": address[key] for key in ("host", "port")}):
            scene.put({**scene.role.document, "masterarn": scene.master.arn, "sslmode": "disable", **document})
            logged, own = len(other.server.log()), len(scene.server.log())
            error = scene.fail(errors.SuperuserMismatchError)
            assert str(other.server.port) in error.what
            for words in (other.server.log()[logged:], scene.server.log()[own:]):
                assert scene.superuser.name not in words
        assert other.lets_in(other.password)
        assert not other.server.query("SELECT 1 FROM pg_roles WHERE rolname = %s", (scene.clone,))

    def test_refuses_the_password_and_no_superuser_comes(
        self, scene: Scene, postgres_of: Callable[[int], PostgresServer], make_role: Callable[..., Role], strategy: str
    ) -> None:
        other = make_role(postgres_of(18), scene.role.name, "another")
        document = {"host": other.server.host, "port": other.server.port, "sslmode": "disable"}
        scene.put({**scene.secret.document(), **document})
        scene.fail(errors.LoginRefusedError if strategy == "alternating-users" else errors.SuperuserMismatchError)
        assert other.lets_in("another")


class TestTheSuperusersPassword:
    @pytest.mark.parametrize("where", ["the secret", "the function"])
    def test_never_goes_without_tls_unless_its_own_secret_says_so(
        self, where: str, strategy: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = scene.server
        server.use_hba("host all all all scram-sha-256")
        try:
            if where == "the secret":
                scene.put({**scene.secret.document(), "sslmode": "disable"})
            else:
                monkeypatch.setenv("PGSSLMODE", "disable")
            logged = len(server.log())
            scene.rotate()
            lines = [line for line in server.log()[logged:].splitlines() if "connection authorized" in line]
            assert ["SSL enabled" in line for line in lines if scene.superuser.name in line] == [True]
            others = ["SSL enabled" in line for line in lines if scene.superuser.name not in line]
            assert others.count(True) == 1, "AWSCURRENT shows on the superuser's own server that it is right"
        finally:
            server.use_hba(server.default_hba)

    def test_never_goes_to_a_server_without_tls_unless_its_own_secret_says_so(
        self, strategy: str, set_scene: Callable[..., Scene], postgres_of: Callable[[int], PostgresServer]
    ) -> None:
        scene = set_scene(postgres_of(18))
        login = {key: value for key, value in scene.master.document().items() if key != "sslmode"}
        client = scene.secret.server.client()
        client.put_secret_value(SecretId=scene.master.arn, SecretString=json.dumps(login))
        error = scene.fail(errors.TlsError)
        assert scene.superuser.name in error.what

    def test_is_offered_by_scram_alone(self, strategy: str, scene: Scene) -> None:
        """What answers an md5 request is as good as the password, and a stranger at the host could ask for it."""
        server = scene.server
        server.configure(password_encryption="md5")
        scene.superuser.alter(f"PASSWORD '{scene.superuser.password}'")
        server.configure(password_encryption=None)
        server.use_hba(f"hostssl all {scene.superuser.name} all md5", server.default_hba)
        try:
            error = scene.fail(errors.AuthenticationMethodError)
        finally:
            server.use_hba(server.default_hba)
        assert scene.superuser.name in error.what


class TestADatabaseWithFunctionsOfItsOwners:
    """Its owner sets a search_path for everybody who logs in, where PostgreSQL's own functions come last."""

    @pytest.fixture
    def booty(self, scene: Scene) -> Iterator[Callable[[], list[str]]]:
        """Who ran the owner's functions since the trap was set, by the server's log."""
        with database(scene.server, "trap", scene.role.name) as name:
            scene.query("CREATE SCHEMA evil", dbname=name)
            scene.query("GRANT USAGE ON SCHEMA evil TO PUBLIC", dbname=name)
            for function in FUNCTIONS:
                of = function.partition("(")[0]
                scene.query(
                    f"CREATE FUNCTION evil.{function} LANGUAGE plpgsql AS $$ BEGIN "
                    f"RAISE LOG 'trapped: % in {of}', current_user; RETURN NULL; END $$",
                    dbname=name,
                )
            scene.query(
                "CREATE FUNCTION evil.same(name, name) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN "
                "RAISE LOG 'trapped: % in an operator', current_user; RETURN true; END $$",
                dbname=name,
            )
            scene.query("CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.same)", dbname=name)
            scene.query("CREATE VIEW evil.pg_roles AS SELECT evil.same('', '')", dbname=name)
            scene.query("ALTER DATABASE trap SET search_path = evil, pg_catalog", dbname=name)
            master = {**scene.master.document(), "dbname": name}
            scene.secret.server.client().put_secret_value(SecretId=scene.master.arn, SecretString=json.dumps(master))
            scene.put({**scene.secret.document(), "dbname": name})
            logged = len(scene.server.log())
            yield lambda: [line for line in scene.server.log()[logged:].splitlines() if "LOG:  trapped" in line]

    def test_gets_none_of_them_run_by_the_superuser(
        self, booty: Callable[[], list[str]], strategy: str, scene: Scene
    ) -> None:
        scene.role.alter("SET search_path = evil, pg_catalog")
        scene.role.alter("SET statement_timeout = '1234ms'")
        scene.role.alter("SET work_mem = 5120")
        scene.query("ALTER ROLE {} IN DATABASE trap SET search_path = evil, pg_catalog", scene.role.name)
        for _ in range(2):
            scene.rotate()
        assert booty() == []
        scene.ask("SELECT set_config('work_mem', '5MB', false)")
        assert len(booty()) == 1  # the trap works

    def test_gets_none_of_them_run_by_who_follows_a_hint(self, booty: Callable[[], list[str]], scene: Scene) -> None:
        before = scene.secret.document()
        scene.rotate()
        scene.put(before)
        scene.role.alter("SET search_path = evil, pg_catalog")
        scene.role.alter("SET session_preload_libraries = plpgsql")
        scene.role.alter("SET log_statement = 'none'")
        error = scene.fail(errors.RoleNotPreparedError)
        scene.server.query(error.hint.partition(": ")[2], dbname="trap")
        assert booty() == []
