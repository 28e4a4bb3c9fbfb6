"""Who may connect to the database, and no more: an application's own user among them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from rotation_lambda import errors
from tests.worlds.scenes import Scene, every_scene, run, scene, set_scene

if TYPE_CHECKING:
    from collections.abc import Callable

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
