"""Who may connect to the database, and no more: an application's own user among them."""

from __future__ import annotations

from contextlib import closing, contextmanager
from threading import Timer
from typing import TYPE_CHECKING

import psycopg2
import pytest

from rotation_lambda import errors, handler, rotation
from rotation_lambda.postgres import login
from rotation_lambda.postgres.session import OPTIONS
from tests.worlds.clocks import Hasty
from tests.worlds.scenes import Scene, every_scene, run, scene, set_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Role

__all__ = ["every_scene", "scene", "set_scene"]


class TestARoleThatAUserStoresForItself:
    """Every user may have its sessions start under any role, and is let in as itself where it may not."""

    def store(self, scene: Scene, role: str, where: str) -> None:
        with closing(scene.log_in()) as connection:
            run(
                connection,
                f"SET ROLE NONE; ALTER ROLE \"{scene.secret.document()['username']}\" {where} SET role = '{role}'",
            )

    @pytest.mark.parametrize("where", ["", "IN DATABASE postgres", "IN DATABASE template1"])
    def test_neither_stops_a_rotation_nor_gets_anything(self, where: str, every_scene: Scene) -> None:
        scene = every_scene
        self.store(scene, "postgres", where)
        for user in (scene.clone, scene.role.name, scene.clone):
            assert scene.rotate()["username"] == user
            assert scene.ask("SELECT session_user, current_user") == [(user, scene.role.name)]
            assert scene.ask("SELECT current_user", dbname="template1") == [(scene.role.name,)]
            assert scene.ask("SELECT pg_has_role('postgres', 'MEMBER')") == [(False,)]
            self.store(scene, "postgres", where) if user == scene.role.name else None
        assert "postgres" not in scene.notes()
        assert scene.look()["password change"]["status"] == "ok"

    def test_is_not_handed_out_by_a_hint(self, every_scene: Scene) -> None:
        """The clone's own session stores it, between two steps."""
        scene = every_scene
        token = scene.begin()
        scene.take(token, "createSecret", "setSecret")
        with closing(scene.log_in(scene.secret.document("AWSPENDING"))) as clone:
            run(clone, f"SET ROLE NONE; ALTER ROLE \"{scene.clone}\" IN DATABASE postgres SET role = 'postgres'")
        error = scene.fail(errors.RoleNotPreparedError, "testSecret", token=token)
        assert "GRANT" not in error.hint
        scene.take(token)  # setSecret takes it back

    @pytest.mark.parametrize("where", ["", "IN DATABASE postgres"])
    def test_is_followed_where_it_is_honestly_the_users(
        self, where: str, every_scene: Scene, make_role: Callable[..., Role]
    ) -> None:
        scene = every_scene
        group = make_role(scene.server)
        scene.query("GRANT {} TO {}", group.name, scene.role.name)
        self.store(scene, group.name, where)
        for user in (scene.clone, scene.role.name, scene.clone):
            scene.rotate()
            assert scene.ask("SELECT session_user, current_user") == [(user, group.name)]


class TestALock:
    """Who may connect may lock a few views, and who may create roles may leave one half made."""

    def test_of_the_view_of_settings_stops_no_preflight(self, scene: Scene, make_role: Callable[..., Role]) -> None:
        stranger = make_role(scene.server)
        with closing(scene.server.connect(stranger.name, stranger.password)) as connection:
            run(connection, "BEGIN; LOCK TABLE pg_settings IN ACCESS EXCLUSIVE MODE")
            found = scene.look()
        assert {found[check]["status"] for check in ("primary", "role", "password change")} == {"ok"}

    def test_by_an_honest_transaction_that_ends_is_waited_out(self, every_scene: Scene) -> None:
        scene = every_scene
        scene.rotate()
        token = scene.begin()
        scene.take(token, "createSecret")
        with closing(scene.server.connect(scene.server.superuser, scene.server.password)) as connection:
            connection.cursor().execute(f'ALTER ROLE "{scene.role.name}" CONNECTION LIMIT -1')
            Timer(0.5, connection.commit).start()
            scene.take(token)

    def test_of_a_clones_name_is_waited_out_and_the_clone_looked_at(
        self, every_scene: Scene, make_role: Callable[..., Role]
    ) -> None:
        scene = every_scene
        stranger, token = make_role(scene.server, options="CREATEROLE"), scene.begin()
        scene.take(token, "createSecret")
        with closing(scene.server.connect(stranger.name, stranger.password)) as connection:
            connection.autocommit = False
            connection.cursor().execute(f'CREATE ROLE "{scene.clone}"')
            commits = Timer(0.5, connection.commit)
            commits.start()
            if scene.server.version >= 16:  # who made it is its first member
                scene.fail(errors.RoleNotPreparedError, "setSecret", token=token)
            else:
                scene.take(token)
            commits.join()


class TestTheRowOfAnotherUser:
    """`BEGIN; ALTER ROLE app;` keeps all others from changing it; from PostgreSQL 16 on every user may do that."""

    @contextmanager
    def held(self, scene: Scene, stranger: Role) -> Iterator[None]:
        with closing(scene.server.connect(stranger.name, stranger.password)) as connection:
            run(connection, f'ALTER ROLE "{scene.role.name}"')
            yield

    @pytest.fixture
    def turn(self, every_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
        """It is the original's turn; nothing is waited for long."""
        monkeypatch.setattr(login, "OPTIONS", OPTIONS.replace("lock_timeout=3s", "lock_timeout=50ms"))
        monkeypatch.setattr(rotation, "HOLD_S", 0.5)
        every_scene.rotate()
        return every_scene

    @pytest.mark.parametrize("exits", [False, True], ids=["as it comes", "errors end a session"])
    def test_delays_a_change_and_never_the_move(
        self,
        exits: bool,  # noqa: FBT001 - a parameter
        turn: Scene,
        make_role: Callable[..., Role],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if exits:  # as an owner of the superuser's database can have it
            turn.superuser.alter("SET exit_on_error = on")
        stranger, token = make_role(turn.server), turn.begin()
        turn.take(token, "createSecret")
        if turn.server.version < 16:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege), self.held(turn, stranger):
                pass
            return
        before = turn.written()
        with self.held(turn, stranger), monkeypatch.context() as patch:
            patch.setattr(handler, "Deadline", Hasty)
            error = turn.fail(errors.RoleLockedError, "setSecret", token=token)
        assert f"of user '{stranger.name}'" in error.what
        assert turn.written() == before
        turn.take(token, "setSecret")
        with self.held(turn, stranger):
            turn.take(token, "testSecret", "finishSecret")
        assert turn.secret.labels["AWSCURRENT"] == token
        assert turn.ask("SELECT session_user") == [(turn.role.name,)]

    def test_is_held_by_an_honest_rotation_which_lets_go(self, turn: Scene, make_role: Callable[..., Role]) -> None:
        assert turn.rotate()["username"] == turn.role.name
        if turn.server.version >= 16:
            with self.held(turn, make_role(turn.server)):
                pass
