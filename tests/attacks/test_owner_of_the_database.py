"""Who owns the secret's database decides how sessions begin there: the application's, and the superuser's."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.worlds.scenes import VERSIONS, Scene, database, run, set_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.servers.postgres import PostgresServer
    from tests.conftest import Role

__all__ = ["set_scene"]


class Owner:
    """The owner of a database that the application and the superuser log in to."""

    def __init__(self, scene: Scene, role: Role, dbname: str) -> None:
        self.scene, self.role, self.dbname = scene, role, dbname

    def run(self, query: str) -> None:
        with closing(self.role.server.connect(self.role.name, self.role.password, dbname=self.dbname)) as connection:
            connection.autocommit = True
            run(connection, query)

    def set(self, setting: str) -> None:
        self.run(f'ALTER DATABASE "{self.dbname}" {setting}')


@pytest.fixture(params=VERSIONS)
def owner(
    request: pytest.FixtureRequest,
    set_scene: Callable[..., Scene],
    postgres_of: Callable[[int], PostgresServer],
    make_role: Callable[..., Role],
) -> Iterator[Owner]:
    server = postgres_of(request.param)
    role = make_role(server)
    with database(server, f"shop_{uuid4().hex[:8]}", role.name) as dbname:
        scene = set_scene(server, dbname=dbname)
        replace(scene, secret=scene.master).put({**scene.master.document(), "dbname": dbname})
        yield Owner(scene, role, dbname)


class TestWhatAServerTells:
    def test_megabytes_of_parse_trees_stop_no_honest_rotation(self, owner: Owner) -> None:
        owner.set("SET client_min_messages = log")
        for what in ("print_parse", "print_rewritten", "print_plan", "pretty_print"):
            owner.set(f"SET debug_{what} = on")
        owner.scene.rotate()


class TestARoleForEverySession:
    """ALTER DATABASE … SET role makes sessions run as that role, of those who may become it."""

    def runs_as(self, scene: Scene) -> str:
        [(user,)] = scene.ask("SELECT current_user")
        return str(user)

    @pytest.mark.parametrize("role", ["postgres", "pg_execute_server_program", "{owner}"])
    def test_that_the_user_may_not_become_gets_it_nothing(self, role: str, owner: Owner) -> None:
        scene = owner.scene
        owner.set(f"SET role = '{role.format(owner=owner.role.name)}'")
        for user in (scene.clone, scene.role.name, scene.clone):
            assert scene.rotate()["username"] == user
            assert self.runs_as(scene) == scene.role.name
            assert scene.ask(f"SELECT pg_has_role('{role.format(owner=owner.role.name)}', 'MEMBER')") == [(False,)]
        assert "role" not in scene.notes()

    def test_that_the_superuser_may_become_gets_the_owner_nothing(
        self, owner: Owner, make_role: Callable[..., Role]
    ) -> None:
        """The superuser's session starts as the owner's role: it must not go on as that."""
        scene = owner.scene
        scene.query("GRANT {} TO {}", owner.role.name, scene.superuser.name)
        owner.set(f'SET role = "{owner.role.name}"')
        for user in (scene.clone, scene.role.name):
            assert scene.rotate()["username"] == user
        [(member,)] = scene.query(f"SELECT pg_has_role('{owner.role.name}', '{scene.clone}', 'MEMBER')")
        assert not member

    @pytest.mark.parametrize(
        ("how", "inherit"),
        [
            ("ALTER DATABASE {} SET role = {}", "NOINHERIT"),
            ("ALTER ROLE ALL IN DATABASE {} SET role = {}", "INHERIT"),
        ],
    )
    def test_is_honestly_followed_by_the_clone_when_it_is_set_and_unset(
        self, how: str, inherit: str, owner: Owner, make_role: Callable[..., Role]
    ) -> None:
        scene = owner.scene
        group = make_role(scene.server)
        scene.role.alter(inherit)
        scene.query("GRANT {} TO {}", group.name, scene.role.name)
        for setting, runs_as in ((how, group.name), (how.replace("SET role = {}", "RESET role"), scene.role.name)):
            scene.query(setting, owner.dbname, group.name)
            assert self.runs_as(scene) == runs_as
            plan = scene.look()["password change"]
            assert plan["status"] == "ok"
            assert (f'IN DATABASE "{owner.dbname}" SET "role" TO \'{group.name}\'' in plan["seen"]) == (
                runs_as == group.name
            )
            for user in (scene.clone, scene.role.name, scene.clone, scene.role.name):
                assert scene.rotate()["username"] == user
                assert self.runs_as(scene) == runs_as
                assert scene.ask("SELECT current_user", dbname="postgres") == [(scene.role.name,)]

    def test_that_changes_between_two_rotations_stops_neither(
        self, owner: Owner, make_role: Callable[..., Role]
    ) -> None:
        """An original is right as it is; its clone follows at the next rotation."""
        scene = owner.scene
        group = make_role(scene.server)
        scene.query("GRANT {} TO {}", group.name, scene.role.name)
        owner.set(f'SET role = "{group.name}"')
        scene.rotate()
        owner.set("RESET role")
        assert self.runs_as(scene) == group.name
        scene.rotate()
        assert self.runs_as(scene) == scene.role.name
        owner.set(f'SET role = "{group.name}"')
        scene.query("REVOKE {} FROM {}", group.name, scene.role.name)
        for _ in range(3):
            scene.rotate()
            assert self.runs_as(scene) == scene.role.name


class TestASearchPath:
    """ALTER DATABASE … SET search_path has every name without a schema found in the owner's first."""

    EVIL = """
    CREATE SCHEMA evil;
    CREATE FUNCTION evil.pg_has_role(oid, oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
    CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS
        $$BEGIN EXECUTE 'ALTER ROLE "{owner}" CREATEROLE'; RETURN ''; END$$;
    CREATE VIEW evil.pg_roles AS SELECT * FROM pg_catalog.pg_roles;
    CREATE FUNCTION evil.pg_backend_pid() RETURNS integer LANGUAGE plpgsql AS
        $$BEGIN EXECUTE 'GRANT "{app}" TO "{owner}"'; RETURN pg_catalog.pg_backend_pid(); END$$;
    GRANT USAGE ON SCHEMA evil TO PUBLIC
    """

    def test_has_the_superuser_run_nothing_of_the_owners(self, owner: Owner) -> None:
        scene = owner.scene
        owner.run(self.EVIL.format(owner=owner.role.name, app=scene.role.name))
        owner.set("SET search_path = evil, pg_catalog, public")
        for user in (scene.clone, scene.role.name):
            assert scene.rotate()["username"] == user
        [row] = scene.query(
            f"SELECT rolcreaterole, pg_has_role('{owner.role.name}', '{scene.role.name}', 'MEMBER') FROM pg_roles "
            f"WHERE rolname = '{owner.role.name}'"
        )
        assert row == (False, False)

    def test_is_honestly_the_applications(self, owner: Owner) -> None:
        scene = owner.scene
        owner.set("SET search_path = shop")
        for _ in range(2):
            scene.rotate()
            assert scene.ask("SHOW search_path") == [("shop",)]
