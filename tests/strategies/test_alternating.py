"""Two users by turns on every version of PostgreSQL: who gets in when, and that the clone stays in step."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from psycopg2 import sql

from rotation_lambda import errors
from rotation_lambda.postgres.session import Session
from tests.worlds.scenes import VERSIONS, Scene, database, every_scene, lets_in, scene, set_scene, statements_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.servers.postgres import PostgresServer
    from rotation_lambda.postgres.roles import Plan
    from tests.conftest import Role

__all__ = ["every_scene", "scene", "set_scene"]

SINCE_16 = [version for version in VERSIONS if version >= 16]

CALLS = [
    *("DescribeSecret", "GetSecretValue", "GetSecretValue", "GetRandomPassword", "PutSecretValue"),
    *("DescribeSecret", "DescribeSecret", "GetSecretValue", "DescribeSecret"),
    "DescribeSecret",
    *("DescribeSecret", "DescribeSecret", "UpdateSecretVersionStage"),
]

# By ALTER ROLE … SET, as an administrator would type it: what stands after TO.
SETTINGS = {
    "search_path": """ "$user", public, "weird schema", "a""b", 'it''s' """,
    "temp_tablespaces": "'a b', pg_default",
    "application_name": r"E'it''s a \\ \"test\", 100%s %(x)s; -- '",
    "statement_timeout": "2345",
    "lock_timeout": "'50 ms'",
    "idle_session_timeout": "60000",
    "default_transaction_read_only": "true",
    "default_transaction_isolation": "serializable",
    "client_encoding": "latin1",
    "datestyle": "'german'",
    "timezone": "'utc'",
    "standard_conforming_strings": "off",
    "work_mem": "5120",
    "row_security": "off",
    "password_encryption": "md5",
    "default_tablespace": "''",
}


class TestTurns:
    def test_each_logs_in_and_the_last_one_goes_on_until_the_next_rotation(self, every_scene: Scene) -> None:
        scene = every_scene
        before, seen = scene.secret.document(), []
        for _ in range(3):
            after = scene.rotate()
            assert {**before, "username": after["username"], "password": after["password"]} == after
            assert list(after) == list(before)
            assert scene.ask("SELECT session_user, current_user", after) == [(after["username"], scene.role.name)]
            assert lets_in(scene, before)
            seen.append(before)
            before = after
        assert [one["username"] for one in (*seen, before)] == [scene.role.name, scene.clone] * 2
        assert [lets_in(scene, one) for one in (*seen, before)] == [False, False, True, True]
        assert scene.notes() == ""

    def test_one_needs_thirteen_calls_six_logins_and_no_refusal(self, scene: Scene) -> None:
        for _ in range(2):
            token = scene.begin()
            scene.secret.server.calls.clear()
            logged = len(scene.server.log())
            scene.take(token)
            log = scene.server.log()[logged:]
            assert scene.secret.server.calls == CALLS
            assert log.count("connection received") == 6
            assert log.count("password authentication failed") == 0

    def test_a_step_that_comes_twice_does_no_harm(self, scene: Scene) -> None:
        token = scene.begin()
        for step in ("createSecret", "createSecret", "setSecret", "setSecret", "testSecret", "finishSecret"):
            scene.take(token, step)
        scene.take(token)
        assert scene.secret.labels["AWSCURRENT"] == token
        assert scene.ask("SELECT session_user") == [(scene.clone,)]

    def test_the_user_in_use_and_what_is_in_step_are_not_written(self, every_scene: Scene) -> None:
        scene = every_scene
        for name, value in SETTINGS.items():
            scene.role.alter(f"SET {name} TO {value}")
        scene.role.alter("CONNECTION LIMIT 7 VALID UNTIL '2099-12-31 23:59:59.5+01'")
        written = scene.written()
        scene.rotate()
        assert written <= scene.written()
        own = {row for row in scene.written() if row[1].strip('"') == scene.clone and row[0] != "role"}
        assert {row[0] for row in own} == {"setting", "member"}
        scene.rotate()
        scene.rotate()
        assert own <= scene.written()

    def test_nothing_but_the_password_is_changed_where_nothing_differs(self, scene: Scene) -> None:
        scene.rotate()
        for user in (scene.role.name, scene.clone):
            logged = len(scene.server.log())
            assert scene.rotate()["username"] == user
            made, held = statements_in(scene.server.log()[logged:])
            assert made.startswith(f'ALTER ROLE "{user}" PASSWORD \'SCRAM-SHA-256$')
            assert held.endswith("ALTER ROLE SESSION_USER"), "finishSecret rolls it back"

    def test_live_sessions_of_the_user_whose_password_changes_are_told(self, scene: Scene) -> None:
        before = scene.secret.document()
        scene.rotate()
        assert "sessions" not in scene.notes()
        with closing(scene.log_in(before)):
            scene.rotate()
        assert f"{scene.role.name!r}, whose password changes now, still has 1 sessions" in scene.notes()

    @pytest.mark.parametrize("attribute", ["CREATEROLE", "BYPASSRLS", "REPLICATION"])
    def test_goes_on_where_the_original_has_an_attribute_that_no_clone_gets(self, attribute: str, scene: Scene) -> None:
        """The clone runs as the original, and so has what that has."""
        scene.role.alter(attribute)
        for user in (scene.clone, scene.role.name):
            assert scene.rotate()["username"] == user
        [row] = scene.query(
            f"SELECT rolcreaterole, rolbypassrls, rolreplication FROM pg_roles WHERE rolname = '{scene.clone}'"
        )
        assert row == (False, False, False)


class TestStep:
    """What the original has, the clone has after the next rotation, byte for byte."""

    def attributes(self, scene: Scene, name: str) -> tuple[object, ...]:
        [row] = scene.server.query(
            "SELECT rolcanlogin, rolinherit, rolconnlimit, rolvaliduntil::text FROM pg_roles WHERE rolname = %s",
            (name,),
        )
        return row

    def test_attributes(self, scene: Scene) -> None:
        before = scene.secret.document()
        scene.role.alter("CONNECTION LIMIT 7 VALID UNTIL '2099-12-31 23:59:59.5+01'")
        scene.rotate()
        assert self.attributes(scene, scene.clone) == (True, True, 7, "2099-12-31 22:59:59.5+00")
        scene.role.alter("CONNECTION LIMIT -1 VALID UNTIL 'infinity'")
        scene.query("ALTER ROLE {} NOLOGIN NOINHERIT VALID UNTIL '2001-01-01'", scene.clone)
        scene.put(before)
        scene.rotate()
        assert self.attributes(scene, scene.clone) == (True, True, -1, "infinity")

    def test_settings_per_role_and_per_database(self, every_scene: Scene) -> None:
        scene = every_scene
        for name, value in SETTINGS.items():
            scene.role.alter(f"SET {name} TO {value}")
        if scene.server.version >= 17:
            scene.role.alter("SET transaction_timeout = 2345")
        with database(scene.server, "a \"b' %s; é") as other:
            for name in other, "postgres":
                scene.query("ALTER ROLE {} IN DATABASE {} SET search_path TO DEFAULT", scene.role.name, name)
                scene.query("ALTER ROLE {} IN DATABASE {} SET work_mem = '6 MB'", scene.role.name, name)
                scene.query("ALTER ROLE {} IN DATABASE {} SET search_path = ''", scene.role.name, name)
            scene.rotate()
            stored = scene.settings(scene.role.name)
            assert set(stored) == {"", other, "postgres"}
            assert len(stored[""]) >= len(SETTINGS)
            assert scene.settings(scene.clone) == stored

    def test_a_clone_runs_as_an_original_that_has_made_roles(
        self, every_scene: Scene, make_role: Callable[..., Role]
    ) -> None:
        """From 16 on it has ADMIN OPTION on them alone: the clone has it only by way of the original."""
        scene = every_scene
        scene.role.alter("CREATEROLE")
        made = make_role(scene.server)
        scene.server.query(
            sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(*map(sql.Identifier, (made.name, scene.role.name)))
        )
        if scene.server.version >= 16:
            scene.query("GRANT {} TO {} WITH INHERIT FALSE, SET FALSE", made.name, scene.role.name)
        scene.query("CREATE ROLE {}", scene.clone)
        scene.query("GRANT {} TO {}", scene.role.name, scene.clone)
        if scene.server.version >= 16:
            scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
        for _ in range(3):
            after = scene.rotate()
            assert scene.ask("SELECT current_user", after) == [(scene.role.name,)]

    @pytest.mark.parametrize("version", SINCE_16)
    def test_a_clone_may_inherit_a_predefined_role_that_its_original_only_inherits(
        self, version: int, set_scene: Callable[..., Scene], postgres_of: Callable[[int], PostgresServer]
    ) -> None:
        scene = set_scene(postgres_of(version))
        scene.query("GRANT pg_read_all_data TO {} WITH INHERIT TRUE, SET FALSE", scene.role.name)
        scene.query("CREATE ROLE {}", scene.clone)
        scene.query("GRANT {} TO {}", scene.role.name, scene.clone)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
        for _ in range(2):
            assert lets_in(scene, scene.rotate())

    def test_a_clone_that_another_makes_meanwhile_is_taken_over(
        self, every_scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An administrator, or a twin, has made it since it was looked for: the change starts over."""
        scene, plan, plans = every_scene, Session.plan, []

        def and_then(session: Session, *rest: Any) -> Plan:  # noqa: ANN401 - what plan() takes
            plans.append(plan(session, *rest))
            if len(plans) == 2:
                scene.query("CREATE ROLE {}", scene.clone)
                scene.query("GRANT {} TO {}", scene.role.name, scene.clone)
                scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
            return plans[-1]

        monkeypatch.setattr(Session, "plan", and_then)
        assert lets_in(scene, scene.rotate())
        assert len(plans) == 4

    def test_a_setting_that_the_original_has_no_more_disappears(self, scene: Scene) -> None:
        scene.role.alter("SET work_mem = '5MB'")
        scene.query("ALTER ROLE {} IN DATABASE postgres SET search_path = x", scene.role.name)
        before = scene.secret.document()
        scene.rotate()
        assert scene.settings(scene.clone) == scene.settings(scene.role.name) != {}
        scene.role.alter("RESET ALL")
        scene.query("ALTER ROLE {} IN DATABASE postgres RESET ALL", scene.role.name)
        scene.put(before)
        scene.rotate()
        assert scene.settings(scene.clone) == {}
        assert scene.ask("SELECT current_user") == [(scene.role.name,)]

    @pytest.mark.parametrize(
        ("setting", "value"),
        [("transaction_read_only", "on"), ("transaction_isolation", "read committed"), ("seed", "0.5")],
    )
    def test_a_setting_that_no_role_gets_rid_of_is_not_copied(
        self, setting: str, value: str, every_scene: Scene
    ) -> None:
        """From 16 on RESET refuses it (0A000); a clone that has it already keeps it. It does nothing for a role."""
        scene = every_scene
        scene.role.alter("SET default_transaction_read_only = on")
        scene.role.alter(f"SET {setting} = '{value}'")
        scene.rotate()
        assert scene.settings(scene.clone) == {"": ["default_transaction_read_only=on"]}
        scene.query(f"ALTER ROLE {{}} SET {setting} = '{value}'", scene.clone)
        scene.role.alter("RESET default_transaction_read_only")
        scene.rotate()
        scene.rotate()
        assert scene.settings(scene.clone) == {"": [f"{setting}={value}"]}

    def test_the_role_that_the_original_starts_under(self, every_scene: Scene, make_role: Callable[..., Role]) -> None:
        scene = every_scene
        group, other = make_role(scene.server), make_role(scene.server)
        for one in (group, other):
            scene.query("GRANT {} TO {}", one.name, scene.role.name)
        scene.role.alter(f"SET role = {group.name}")
        scene.query(f"ALTER ROLE {{}} IN DATABASE postgres SET role = {other.name}", scene.role.name)
        for user in (scene.clone, scene.role.name):
            scene.rotate()
            assert scene.ask("SELECT session_user, current_user") == [(user, other.name)]
            assert scene.ask("SELECT session_user, current_user", dbname="template1") == [(user, group.name)]


class TestWhatTheSuperuserMayNot:
    """It stops before the password changes; the hint has the statements; with them the next rotation succeeds."""

    def check(self, scene: Scene, *expected: str) -> None:
        token = scene.begin()
        before = scene.written()
        error = scene.fail(errors.RoleNotPreparedError, "createSecret", "setSecret", token=token)
        assert error.message.endswith("Nothing was changed.")
        assert scene.written() == before
        statements = scene.follow(error)
        for part in expected:
            assert part in statements
        scene.take(token)
        scene.rotate()
        assert scene.settings(scene.clone) == scene.settings(scene.role.name)

    def test_copy_a_superusers_setting_to_a_new_clone(self, every_scene: Scene) -> None:
        scene = every_scene
        scene.role.alter("SET log_statement = 'none'")
        self.check(
            scene, f'CREATE ROLE "{scene.clone}";', f'ALTER ROLE "{scene.clone}" SET "log_statement" TO \'none\''
        )

    def test_copy_a_superusers_setting(self, scene: Scene) -> None:
        """Nobody else may set these, nor a name that no extension has defined."""
        before = scene.secret.document()
        scene.rotate()
        scene.put(before)
        scene.role.alter("SET log_statement = 'none'")
        scene.role.alter(r"SET app.tenant = E'a \\ ''b'' %'")
        scene.role.alter("SET search_path = hostile, pg_catalog")
        scene.role.alter("SET work_mem = 5120")
        self.check(scene, '"log_statement" TO ', '"app"."tenant" TO ')

    def test_alter_the_original_from_16_on(self, every_scene: Scene) -> None:
        scene = every_scene
        if scene.server.version < 16:
            scene.rotate()  # CREATEROLE is enough
            return
        scene.query("REVOKE {} FROM {}", scene.role.name, scene.superuser.name)
        grant = f'GRANT "{scene.role.name}" TO "{scene.superuser.name}" WITH ADMIN OPTION;'
        self.check(scene, grant)

    @pytest.mark.parametrize("how", ["INHERIT FALSE, SET FALSE", "INHERIT FALSE, SET TRUE", "INHERIT TRUE, SET FALSE"])
    @pytest.mark.parametrize("version", SINCE_16)
    def test_grant_the_original(
        self,
        version: int,
        how: str,
        set_scene: Callable[..., Scene],
        postgres_of: Callable[[int], PostgresServer],
        make_role: Callable[..., Role],
    ) -> None:
        """GRANT takes an ADMIN OPTION whose owner's rights the superuser inherits; ALTER ROLE does with any."""
        scene = set_scene(postgres_of(version))
        group = make_role(scene.server)
        scene.query("REVOKE {} FROM {}", scene.role.name, scene.superuser.name)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.role.name, group.name)
        scene.query(f"GRANT {{}} TO {{}} WITH {how}", group.name, scene.superuser.name)
        if how.startswith("INHERIT FALSE"):
            self.check(scene, f'GRANT "{scene.role.name}" TO "{scene.superuser.name}" WITH ADMIN OPTION;')
        for _ in range(2):
            scene.rotate()

    def test_alter_a_clone_that_another_master_made(self, every_scene: Scene) -> None:
        scene = every_scene
        scene.query("CREATE ROLE {} LOGIN", scene.clone)
        scene.query("GRANT {} TO {}", scene.role.name, scene.clone)
        if scene.server.version < 16:
            scene.rotate()
            return
        scene.query("REVOKE {} FROM {}", scene.role.name, scene.superuser.name)
        grants = [
            f'GRANT "{name}" TO "{scene.superuser.name}" WITH ADMIN OPTION;' for name in (scene.role.name, scene.clone)
        ]
        self.check(scene, *grants)

    @pytest.mark.parametrize("is_there", [True, False])
    def test_alter_any_role(self, *, is_there: bool, scene: Scene) -> None:
        if is_there:
            before = scene.secret.document()
            scene.rotate()
            scene.put(before)
        scene.query("ALTER ROLE {} NOCREATEROLE", scene.superuser.name)
        self.check(scene, f'ALTER ROLE "{scene.superuser.name}" CREATEROLE;')

    def test_alter_what_only_superusers_alter(self, scene: Scene) -> None:
        """An original with SUPERUSER: CREATEROLE does not reach it, whatever it was granted."""
        scene.role.alter("SUPERUSER")
        before = scene.written()
        error = scene.fail(errors.RoleNotPreparedError)
        assert scene.written() == before
        assert "has SUPERUSER" in error.what
        assert "single-user" in error.hint


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ['"; DROP ROLE x; --', "%s %(x)s", "it's", "\\ $user", "ü" * 28 + "x", "FATAL:  "],
    )
    def test_are_names_whatever_they_hold(
        self, name: str, set_scene: Callable[..., Scene], postgres: PostgresServer
    ) -> None:
        with database(postgres, f"db {name}") as dbname:
            scene = set_scene(postgres, name, dbname=dbname)
            scene.role.alter("SET work_mem = '5MB'")
            scene.query("ALTER ROLE {} IN DATABASE {} SET search_path = 'a b', c", name, dbname)
            before = scene.secret.document()
            for user in (name + "_clone", name):
                assert scene.rotate()["username"] == user
                assert scene.ask("SELECT session_user, current_user") == [(user, name)]
                assert lets_in(scene, before)
                before = scene.secret.document()
            assert scene.settings(scene.clone) == scene.settings(name)

    @pytest.mark.parametrize("size", [58, 63])
    def test_that_leave_no_room_for_a_clone_are_told_of_usernames(
        self, size: int, set_scene: Callable[..., Scene], postgres: PostgresServer
    ) -> None:
        scene = set_scene(postgres, "x" * size)
        error = scene.fail(errors.InvalidSecretError, "createSecret")
        assert "usernames" in error.hint
        assert f"{size + 6} bytes" in error.what

    def test_that_end_in_clone_are_the_clones(
        self, set_scene: Callable[..., Scene], postgres: PostgresServer, make_role: Callable[..., Role]
    ) -> None:
        """A role of its own with such a name is refused unless it is a member of the role that it is not a clone of."""
        other = make_role(postgres, "shop")
        scene = set_scene(postgres, "shop_clone")
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", other.name, scene.superuser.name)
        written = scene.server.query("SELECT xmin FROM pg_authid WHERE rolname = 'shop'")
        error = scene.fail(errors.RoleNotPreparedError, "createSecret", "setSecret")
        assert "is not one that 'shop_clone' may become by SET ROLE" in error.what
        assert scene.server.query("SELECT xmin FROM pg_authid WHERE rolname = 'shop'") == written
        assert other.lets_in(other.password)


class TestUsernames:
    """Two users that somebody made are rotated, and neither made nor altered otherwise."""

    @pytest.fixture(params=["x" * 63, '"; %s'])
    def pair(self, request: pytest.FixtureRequest, scene: Scene, make_role: Callable[..., Role]) -> Scene:
        other = make_role(scene.server, request.param, options="CONNECTION LIMIT 3")
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", other.name, scene.superuser.name)
        scene.role.alter("SET work_mem = '5MB'")
        scene.put({**scene.secret.document(), "usernames": [other.name, scene.role.name]})
        return scene

    def test_take_turns(self, pair: Scene) -> None:
        scene = pair
        names = [name for name in scene.secret.document()["usernames"] if name != scene.role.name]
        for user in (*names, scene.role.name):
            logged, before = len(scene.server.log()), scene.secret.document()
            assert scene.rotate()["username"] == user
            made, held = statements_in(scene.server.log()[logged:])
            assert " PASSWORD 'SCRAM-SHA-256$" in made
            assert held.endswith("ALTER ROLE SESSION_USER")
            assert scene.ask("SELECT session_user, current_user") == [(user, user)]
            assert lets_in(scene, before)
        assert scene.settings(names[0]) == {}
        assert not scene.server.query("SELECT 1 FROM pg_roles WHERE rolname = %s", (scene.clone,))

    def test_are_never_made(self, scene: Scene) -> None:
        scene.put({**scene.secret.document(), "usernames": [scene.role.name, "nobody"]})
        error = scene.fail(errors.RoleNotPreparedError)
        assert "'nobody' does not exist" in error.what
        assert not scene.server.query("SELECT 1 FROM pg_roles WHERE rolname = 'nobody'")

    def test_are_not_the_superuser(self, scene: Scene) -> None:
        scene.put({**scene.secret.document(), "usernames": [scene.role.name, scene.superuser.name]})
        scene.fail(errors.SuperuserMismatchError)
        assert scene.superuser.lets_in(scene.superuser.password)

    @pytest.mark.parametrize("right", ["CREATEROLE", "SUPERUSER", "REPLICATION", "BYPASSRLS", "pg_monitor", "a group"])
    def test_have_no_further_rights(self, right: str, scene: Scene, make_role: Callable[..., Role]) -> None:
        """Unless more than the secret's value says that it is for both."""
        other, group = make_role(scene.server), make_role(scene.server)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", other.name, scene.superuser.name)
        if right.isupper():
            other.alter(right)
        else:
            scene.query("GRANT {} TO {}", right if right == "pg_monitor" else group.name, other.name)
        scene.put({**scene.secret.document(), "usernames": [scene.role.name, other.name]})
        token = scene.begin()
        error = scene.fail(errors.RoleNotPreparedError, "createSecret", "setSecret", token=token)
        assert other.lets_in(other.password)
        assert (right if right != "a group" else group.name) in error.what
        scene.secret.tag(other.name)
        if right == "SUPERUSER":
            scene.fail(errors.RoleNotPreparedError, "setSecret", token=token)
        else:
            scene.take(token)
