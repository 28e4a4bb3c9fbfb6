"""Whose objects are whose while two users take turns; clones that somebody else has made; memberships that get lost."""

from __future__ import annotations

import re
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg2
import pytest
from psycopg2 import sql

from rotation_lambda import errors
from rotation_lambda.postgres.roles import ANEW
from tests.worlds.clocks import wait_until
from tests.worlds.scenes import Scene, database, every_scene, lets_in, run, scene, set_scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Role

__all__ = ["every_scene", "scene", "set_scene"]

MAKE = """
CREATE SCHEMA {0};
CREATE TABLE {0}.orders (id serial PRIMARY KEY, what text);
CREATE SEQUENCE {0}.numbers;
CREATE FUNCTION {0}.twice(n integer) RETURNS integer LANGUAGE sql AS 'SELECT 2 * n';
CREATE PROCEDURE {0}.nothing() LANGUAGE sql AS 'SELECT 1';
CREATE VIEW {0}.seen AS SELECT * FROM {0}.orders;
CREATE TYPE {0}.mood AS ENUM ('good');
"""
USE = """
INSERT INTO {0}.orders (what) VALUES ('it');
UPDATE {0}.orders SET what = 'that';
SELECT count(*), nextval('{0}.numbers'), {0}.twice(1) FROM {0}.seen;
CALL {0}.nothing();
ALTER TABLE {0}.orders ADD COLUMN "{1}" integer;
ALTER TYPE {0}.mood ADD VALUE '{1}';
CREATE OR REPLACE FUNCTION {0}.twice(n integer) RETURNS integer LANGUAGE sql AS 'SELECT n + n';
GRANT SELECT ON {0}.orders TO PUBLIC;
CREATE TABLE {0}."{1}" (LIKE {0}.orders INCLUDING ALL);
"""
DROP = "DROP TABLE {0}.orders CASCADE; DROP SCHEMA {0} CASCADE"
OWNERS = """
SELECT DISTINCT pg_get_userbyid(refobjid)::text FROM pg_shdepend
    WHERE deptype = 'o' AND refclassid = 'pg_authid'::regclass
    AND refobjid IN (SELECT oid FROM pg_roles WHERE rolname IN (%s, %s))
"""


def sample_clone(scene: Scene, grant: str | None = "GRANT {} TO {}", options: str = "") -> dict[str, object]:
    """Make the clone as the AWS sample does, with a table of its own; return what its version of the secret held."""
    scene.query(f"CREATE ROLE {{}} LOGIN PASSWORD 'sample' {options}", scene.clone)
    if grant:
        scene.query(grant, scene.role.name, scene.clone)
    if scene.server.version >= 16:
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
    scene.query("GRANT CREATE ON DATABASE postgres TO {}", scene.role.name)
    document = {**scene.secret.document(), "username": scene.clone, "password": "sample"}
    schema = f"of_{scene.clone}"
    scene.query("CREATE SCHEMA {} AUTHORIZATION {}", schema, scene.clone)
    scene.ask(f'CREATE TABLE "{schema}".things AS SELECT 42 AS id', document)
    return document


def read_things(scene: Scene) -> str:
    return f'SELECT id FROM "of_{scene.clone}".things'


class TestObjects:
    def test_of_either_user_are_used_by_both_after_every_swap(self, every_scene: Scene) -> None:
        scene = every_scene
        scene.query("GRANT CREATE ON DATABASE postgres TO {}", scene.role.name)
        names = [f"{scene.role.name}_{number}" for number in range(3)]
        versions = [scene.secret.document()]
        scene.ask(MAKE.format(names[0]))
        for turn in (1, 2):
            versions.append(scene.rotate())
            scene.ask(MAKE.format(names[turn]))
            for name in names[: turn + 1]:
                for version in versions[-2:]:
                    scene.ask(USE.format(name, f"{turn} by {version['username']}"), version)
        assert scene.server.query(OWNERS, (scene.role.name, scene.clone)) == [(scene.role.name,)]
        assert "REASSIGN" not in scene.notes()
        for name in names:
            scene.ask(DROP.format(name), versions[1])
            break
        for name in names[1:]:
            scene.ask(DROP.format(name), versions[2])

    def test_that_a_session_makes_in_the_middle_of_a_rotation_are_the_originals(self, scene: Scene) -> None:
        scene.query("GRANT CREATE ON DATABASE postgres TO {}", scene.role.name)
        scene.rotate()
        token = scene.begin()
        scene.take(token, "createSecret", "setSecret")
        with closing(scene.log_in()) as session:
            run(session, MAKE.format(scene.role.name))
            scene.take(token)
            run(session, USE.format(scene.role.name, "later"))
        assert scene.server.query(OWNERS, (scene.role.name, scene.clone)) == [(scene.role.name,)]
        scene.ask(DROP.format(scene.role.name))


def test_a_database_with_a_name_like_advice_is_named_as_one(scene: Scene) -> None:
    theirs = sample_clone(scene)
    scene.put(theirs)
    odd = "shop (2). Run in each of them: GRANT postgres TO mallory; --"
    with database(scene.server, odd, scene.clone):
        scene.query("CREATE SCHEMA {} AUTHORIZATION {}", "of_ours", scene.clone, dbname=odd)
        scene.rotate()
    assert f'"{odd}" (' in scene.notes()


class TestACloneOfTheAwsSample:
    def test_is_taken_over_without_a_break(self, every_scene: Scene) -> None:
        scene = every_scene
        theirs = sample_clone(scene)
        with closing(scene.log_in(theirs)) as session:
            for user in (scene.clone, scene.role.name):
                token = scene.begin()
                for step in ("createSecret", "setSecret", "testSecret", "finishSecret"):
                    scene.take(token, step)
                    assert run(session, read_things(scene)) == [(42,)]
                assert scene.secret.document()["username"] == user
                if user == scene.clone:
                    theirs = scene.secret.document()
                assert scene.ask(read_things(scene), theirs) == [(42,)]
                assert scene.ask("SELECT current_user", theirs) == [(scene.clone,)]
        [statement, *again] = re.findall(r"REASSIGN OWNED BY .*?;", scene.notes())
        assert set(again) <= {statement}
        assert "postgres (2)" in scene.notes()
        assert "of_" in "".join(line["message"] for line in scene.log() if "owns in this database" in line["message"])
        scene.server.query(statement)
        noted = len(scene.notes())
        scene.rotate()
        assert "REASSIGN" not in scene.notes()[noted:]
        assert scene.ask("SELECT session_user, current_user") == [(scene.clone, scene.role.name)]
        assert scene.ask(read_things(scene)) == [(42,)]

    def test_is_taken_over_while_it_is_the_one_in_use(self, scene: Scene) -> None:
        theirs = sample_clone(scene)
        scene.put(theirs)
        assert scene.rotate()["username"] == scene.role.name
        assert lets_in(scene, theirs)
        assert "REASSIGN OWNED BY" in scene.notes()
        scene.rotate()
        assert scene.ask(read_things(scene)) == [(42,)]

    def test_that_owns_default_privileges_alone_runs_as_the_original(self, scene: Scene) -> None:
        """REASSIGN OWNED does not move them, and nobody needs them to see what is there."""
        theirs = sample_clone(scene)
        scene.ask("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor", theirs)
        scene.rotate()
        [statement] = re.findall(r"REASSIGN OWNED BY .*?;", scene.notes())
        scene.server.query(statement)
        scene.put({**theirs, "username": scene.role.name, "password": scene.role.password})
        scene.rotate()
        assert scene.ask("SELECT session_user, current_user") == [(scene.clone, scene.role.name)]

    def test_that_has_grants_of_its_own_goes_on_as_itself(self, scene: Scene) -> None:
        sample_clone(scene)
        scene.query("REASSIGN OWNED BY {} TO postgres", scene.clone)
        scene.query("GRANT USAGE ON SCHEMA {} TO {}", f"of_{scene.clone}", scene.clone)
        scene.query("GRANT SELECT ON {}.things TO {}", f"of_{scene.clone}", scene.clone)
        scene.rotate()
        assert scene.ask(read_things(scene)) == [(42,)]
        assert "grants of its own" in scene.notes()


class TestACloneMadeByHand:
    """It is taken for one where the database, one of the secret's passwords or its tag shows it."""

    def test_without_a_membership_has_to_be_made_a_member_where_it_owns_something(self, every_scene: Scene) -> None:
        """It cannot be made anew, although the secret has its password."""
        scene = every_scene
        before, theirs = scene.secret.document(), sample_clone(scene, grant=None)
        scene.put(theirs)
        scene.put(before)
        token = scene.begin()
        error = scene.fail(errors.PasswordChangeError, "createSecret", "setSecret", token=token)
        assert (error.sqlstate, error.hint) == ("2BP01", ANEW)
        assert scene.look()["password change"]["action"] == error.hint
        scene.query("GRANT {} TO {}", scene.role.name, scene.clone)
        scene.take(token)
        assert scene.ask(read_things(scene)) == [(42,)]

    def test_without_a_membership_is_made_anew_where_the_secret_has_its_password(self, every_scene: Scene) -> None:
        scene = every_scene
        before = scene.secret.document()
        scene.query("CREATE ROLE {} LOGIN PASSWORD 'known'", scene.clone)
        if scene.server.version >= 16:
            scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
        [(oid,)] = scene.query("SELECT {}::regrole::oid".format(f"'{scene.clone}'"))
        scene.put({**before, "username": scene.clone, "password": "known"})
        scene.put(before)
        with closing(scene.server.connect(scene.clone, "known", application_name="rotation_lambda")):  # not gone yet
            scene.rotate()
        assert scene.query("SELECT {}::regrole::oid".format(f"'{scene.clone}'")) != [(oid,)]
        scene.rotate()
        assert scene.ask("SELECT 1") == [(1,)]

    @pytest.mark.parametrize("how", ["in a group", "REPLICATION", "at work", "of which it is a member"])
    def test_without_a_membership_loses_nothing_where_it_has_more_than_a_new_one(
        self, how: str, scene: Scene, make_role: Callable[..., Role]
    ) -> None:
        group, clone = make_role(scene.server), make_role(scene.server, scene.clone)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
        scene.secret.tag(f"{scene.role.name} {scene.clone}")
        if how == "in a group":
            scene.query("GRANT {} TO {}", group.name, scene.clone)
        if how == "REPLICATION":
            clone.alter(how)
        if how == "of which it is a member":
            scene.query("GRANT {} TO {}", scene.clone, scene.role.name)
        with closing(scene.server.connect(scene.clone, clone.password)) as session:
            if how != "at work":
                session.close()
                poll = "SELECT 1 FROM pg_stat_activity WHERE usename = %s"
                wait_until(lambda: not scene.server.query(poll, (scene.clone,)), "the session ends")
            before = scene.written()
            error = scene.fail(errors.RoleNotPreparedError)
            assert error.hint == ANEW
            assert scene.look()["password change"]["action"] == ANEW
        assert scene.written() == before
        assert clone.lets_in(clone.password)

    def test_with_a_membership_that_gives_nothing_is_not_shown_to_be_one(self, scene: Scene) -> None:
        sample_clone(scene, grant="GRANT {} TO {} WITH INHERIT FALSE, SET FALSE")
        scene.fail(errors.RoleNotPreparedError)
        scene.server.connect(scene.clone, "sample").close()

    @pytest.mark.parametrize("how", ["INHERIT FALSE", "SET FALSE"])
    def test_with_half_a_membership_gets_the_other_half(self, how: str, scene: Scene) -> None:
        scene.query("CREATE ROLE {} LOGIN", scene.clone)
        scene.query(f"GRANT {{}} TO {{}} WITH {how}", scene.role.name, scene.clone)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
        scene.rotate()
        assert scene.ask("SELECT session_user, current_user") == [(scene.clone, scene.role.name)]
        scene.rotate()

    @pytest.mark.parametrize("attribute", ["CREATEROLE", "SUPERUSER", "REPLICATION", "BYPASSRLS"])
    def test_with_an_attribute_of_its_own_is_refused(self, attribute: str, scene: Scene) -> None:
        sample_clone(scene, options=attribute)
        token = scene.begin()
        error = scene.fail(errors.RoleNotPreparedError, "createSecret", "setSecret", token=token)
        assert f"has {attribute}, which {scene.role.name!r} has not" in error.what
        scene.query(f"ALTER ROLE {{}} NO{attribute}", scene.clone)
        scene.take(token)

    def test_with_further_memberships_and_none_in_the_original_is_refused(
        self, scene: Scene, make_role: Callable[..., Role]
    ) -> None:
        """The name alone does not make it a clone: it could be somebody's, with rights that this secret has not."""
        group = make_role(scene.server)
        sample_clone(scene, grant=None)
        scene.query("GRANT {} TO {}", group.name, scene.clone)
        token = scene.begin()
        error = scene.fail(errors.RoleNotPreparedError, "createSecret", "setSecret", token=token)
        assert f"is a member of {group.name!r}" in error.what
        scene.server.connect(scene.clone, "sample").close()
        scene.secret.tag(scene.clone)
        scene.query("GRANT {} TO {}", scene.role.name, scene.clone)
        scene.take(token)


class TestALostMembership:
    """PostgreSQL lets the user in, with a warning that nobody reads, and as itself."""

    def test_stops_both_steps_although_the_password_is_right(self, every_scene: Scene) -> None:
        scene = every_scene
        token = scene.begin()
        scene.take(token, "createSecret", "setSecret")
        scene.query("REVOKE {} FROM {} CASCADE", scene.role.name, scene.clone)
        if scene.server.version >= 16:
            by = f"GRANTED BY {scene.superuser.name} CASCADE"
            scene.query(f"REVOKE {{}} FROM {{}} {by}", scene.role.name, scene.clone)
        for step in ("testSecret", "finishSecret"):
            error = scene.fail(errors.RoleNotPreparedError, step, token=token)
            assert error.code == "role-not-prepared"
        assert lets_in(scene, scene.secret.document("AWSPENDING"))
        assert scene.secret.document()["username"] == scene.role.name
        scene.take(token)  # setSecret grants it again: AWSPENDING's password shows that the clone is one

    def test_of_the_role_that_the_original_starts_under_stops_nothing(
        self, scene: Scene, make_role: Callable[..., Role]
    ) -> None:
        """An original is right as it is, and its clone follows."""
        group = make_role(scene.server)
        scene.query("GRANT {} TO {}", group.name, scene.role.name)
        scene.role.alter(f"SET role = {group.name}")
        scene.rotate()
        scene.query("REVOKE {} FROM {}", group.name, scene.role.name)
        for user in (scene.role.name, scene.clone):
            scene.rotate()
            assert scene.ask("SELECT session_user, current_user") == [(user, scene.role.name)]

    def test_is_mended_by_the_next_rotation_of_the_clone(self, scene: Scene) -> None:
        before = scene.secret.document()
        scene.rotate()
        scene.query(f"REVOKE {{}} FROM {{}} GRANTED BY {scene.superuser.name}", scene.role.name, scene.clone)
        scene.put(before)
        scene.rotate()
        assert scene.ask("SELECT current_user") == [(scene.role.name,)]


def test_an_original_that_is_gone_is_named(scene: Scene) -> None:
    scene.rotate()
    scene.server.query(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(scene.role.name)))
    error = scene.fail(errors.RoleNotPreparedError)
    assert scene.role.name in error.what
    assert lets_in(scene, scene.secret.document())


def test_a_clone_that_is_gone_is_made_again(scene: Scene) -> None:
    before = scene.secret.document()
    scene.rotate()
    scene.put(before)
    scene.server.query(sql.SQL("DROP ROLE {}").format(sql.Identifier(scene.clone)))
    assert scene.rotate()["username"] == scene.clone
    with pytest.raises(psycopg2.OperationalError):
        scene.server.connect(scene.clone, "sample")
