"""Who may write a secret's value names another user in it, another superuser, or what a hint would then hand out."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from rotation_lambda import errors
from rotation_lambda.postgres.session import Session
from tests.worlds.scenes import Scene, every_scene, lets_in, run, scene, set_scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Role, Secret

    MakeRole = Callable[..., Role]

__all__ = ["every_scene", "scene", "set_scene"]

SQL = re.compile(r"\b(GRANT|REVOKE|ALTER ROLE|CREATE ROLE)\b")


def user_of_the_superusers(scene: Scene, make_role: MakeRole, options: str = "") -> Role:
    """Make a user whose password the superuser may change, as RDS's master may that of every user it has made."""
    user = make_role(scene.server, options=options)
    if scene.server.version >= 16:
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", user.name, scene.superuser.name)
    return user


def refused(scene: Scene, victim: Role) -> errors.RoleNotPreparedError:
    """Rotate in vain: the victim's password holds, and the hint gives nothing and nobody away."""
    error = scene.fail(errors.RoleNotPreparedError)
    assert error.message.endswith("Nothing was changed.")
    assert victim.lets_in(victim.password)
    assert not SQL.search(error.hint)
    assert victim.name not in error.hint
    assert "Key=rotation:users,Value=USERS" in error.hint
    return error


class TestAnotherUsersPassword:
    """Strategy superuser: the value alone says whose password is changed."""

    @pytest.fixture(autouse=True)
    def strategy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ROTATION_STRATEGY", "superuser")

    @pytest.mark.parametrize("of", ["", "postgres", "pg_execute_server_program", "pg_read_all_data"])
    def test_stays_whatever_rights_that_user_has(self, of: str, every_scene: Scene, make_role: MakeRole) -> None:
        scene = every_scene
        victim = user_of_the_superusers(scene, make_role)
        if of:
            scene.query(f"GRANT {of} TO {{}}", victim.name)
        scene.put({**scene.secret.document(), "username": victim.name, "password": "does-not-matter"})
        refused(scene, victim)

    def test_stays_where_the_tag_names_others(self, scene: Scene, make_role: MakeRole) -> None:
        victim = user_of_the_superusers(scene, make_role)
        scene.secret.tag(f"{victim.name}x {scene.role.name}")
        scene.secret.tag(victim.name, key="Rotation:Users")
        scene.put({**scene.secret.document(), "username": victim.name, "password": "does-not-matter"})
        refused(scene, victim)

    @pytest.mark.parametrize("label", ["AWSPENDING", "AWSPREVIOUS", "no label"])
    def test_is_changed_by_honest_rotations_once_a_version_of_the_secret_has_it(
        self, label: str, every_scene: Scene
    ) -> None:
        """Somebody set back a password that the secret still knows."""
        scene = every_scene
        token = ""
        for _ in range({"AWSPENDING": 0, "AWSPREVIOUS": 1, "no label": 2}[label]):
            scene.rotate()
        if label == "AWSPENDING":
            token = scene.begin()
            scene.take(token, "createSecret")
            scene.role.alter(f"PASSWORD '{scene.secret.document('AWSPENDING')['password']}'")
        else:
            scene.role.alter(f"PASSWORD '{scene.role.password}'")
        scene.take(token or scene.begin())
        assert lets_in(scene, scene.secret.document())

    def test_is_changed_by_honest_rotations_where_the_tag_names_the_user(self, every_scene: Scene) -> None:
        scene = every_scene
        scene.role.alter("PASSWORD NULL")
        refused_first = scene.begin()
        scene.fail(errors.RoleNotPreparedError, "createSecret", "setSecret", token=refused_first)
        scene.secret.tag(f"somebody {scene.role.name}")
        scene.take(refused_first)
        assert lets_in(scene, scene.secret.document())


def own(scene: Scene, victim: Role) -> None:
    scene.query("CREATE TABLE {} (salary int)", f"t_{victim.name}")
    scene.query("ALTER TABLE {} OWNER TO {}", f"t_{victim.name}", victim.name)


def be_granted(scene: Scene, victim: Role) -> None:
    scene.query("CREATE TABLE {} (salary int)", f"t_{victim.name}")
    scene.query("GRANT SELECT ON {} TO {}", f"t_{victim.name}", victim.name)


def connect(scene: Scene, victim: Role) -> None:
    scene.query("GRANT CREATE ON DATABASE postgres TO {}", victim.name)


def be_a_member(scene: Scene, victim: Role) -> None:
    scene.query("GRANT pg_monitor TO {}", victim.name)


def be_a_member_of_a_member(scene: Scene, victim: Role) -> None:
    """By two steps; and the application's user is one too, but by a membership that gives nothing."""
    middle, far = f"middle_{victim.name}", f"far_{victim.name}"
    scene.query("CREATE ROLE {}", middle)
    scene.query("CREATE ROLE {} CREATEROLE", far)
    scene.query("GRANT {} TO {}", far, middle)
    scene.query("GRANT {} TO {}", middle, victim.name)
    if scene.server.version >= 16:
        for role in (middle, far):
            scene.query("GRANT {} TO {} WITH INHERIT FALSE, SET FALSE", role, scene.role.name)


def administer(scene: Scene, victim: Role) -> None:
    """Both are members of a third user; the other one may hand out that membership, and make more of its own."""
    boss = f"middle_{victim.name}"
    scene.query("CREATE ROLE {}", boss)
    how = " WITH SET FALSE" if scene.server.version >= 16 else ""
    scene.query(f"GRANT {{}} TO {{}}{how}", boss, scene.role.name)
    scene.query("GRANT {} TO {} WITH ADMIN OPTION", boss, victim.name)


def become(scene: Scene, victim: Role) -> None:
    """Both are members of a third user, which only the other one may become; before PostgreSQL 16 there is no such."""
    if scene.server.version < 16:
        administer(scene, victim)
        return
    boss = f"middle_{victim.name}"
    scene.query("CREATE ROLE {}", boss)
    scene.query("GRANT {} TO {} WITH INHERIT TRUE, SET FALSE", boss, scene.role.name)
    scene.query("GRANT {} TO {} WITH INHERIT FALSE, SET TRUE", boss, victim.name)


def administer_what_ours_administers_in_vain(scene: Scene, victim: Role) -> None:
    """Ours is a member of who administers the third user, but by a membership by which nothing can be granted."""
    administer(scene, victim)
    if scene.server.version >= 16:
        boss, far = f"middle_{victim.name}", f"far_{victim.name}"
        scene.query("CREATE ROLE {}", far)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", boss, far)
        scene.query("GRANT {} TO {} WITH INHERIT TRUE, SET TRUE", boss, scene.role.name)
        scene.query("GRANT {} TO {} WITH INHERIT FALSE, SET FALSE", far, scene.role.name)


def alter_who_ours_may_not(scene: Scene, victim: Role) -> None:
    """Both have CREATEROLE; with it any membership of who administers a third user is enough to set its password."""
    if scene.server.version < 16:
        administer(scene, victim)
        return
    boss, far = f"middle_{victim.name}", f"far_{victim.name}"
    for role in (boss, far):
        scene.query("CREATE ROLE {}", role)
    for user in (scene.role, victim):
        user.alter("CREATEROLE")
    scene.query("GRANT {} TO {} WITH ADMIN OPTION", boss, far)
    scene.query("GRANT {} TO {} WITH INHERIT FALSE, SET FALSE", far, victim.name)
    with closing(scene.server.connect(victim.name, victim.password)) as connection:
        run(connection, f"ALTER ROLE {boss} PASSWORD 'known'")


class TestAnotherOfTwoUsers:
    """`usernames`: the value alone says who the other one is."""

    @pytest.fixture
    def pair(self, every_scene: Scene, make_role: MakeRole) -> tuple[Scene, Role]:
        scene = every_scene
        victim = user_of_the_superusers(scene, make_role)
        scene.put({**scene.secret.document(), "usernames": [scene.role.name, victim.name]})
        return scene, victim

    @pytest.mark.parametrize(
        "has",
        [
            *(own, be_granted, connect, be_a_member, be_a_member_of_a_member),
            *(administer, administer_what_ours_administers_in_vain, alter_who_ours_may_not, become),
        ],
    )
    def test_is_left_alone_where_it_has_what_ours_has_not(
        self, has: Callable[[Scene, Role], None], pair: tuple[Scene, Role]
    ) -> None:
        scene, victim = pair
        has(scene, victim)
        try:
            refused(scene, victim)
        finally:
            scene.query("DROP TABLE IF EXISTS {}", f"t_{victim.name}")
            for role in (f"middle_{victim.name}", f"far_{victim.name}"):
                scene.query("DROP ROLE IF EXISTS {}", role)

    @pytest.mark.parametrize("attribute", ["SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS"])
    def test_is_left_alone_where_it_has_an_attribute(self, attribute: str, pair: tuple[Scene, Role]) -> None:
        scene, victim = pair
        victim.alter(attribute)
        refused(scene, victim)

    @pytest.mark.parametrize("attribute", ["REPLICATION", "BYPASSRLS"])
    def test_is_left_alone_where_a_group_of_both_has_an_attribute_too(
        self, attribute: str, pair: tuple[Scene, Role]
    ) -> None:
        """Who becomes the group can do less with it: no login of its own, none of the user's privileges."""
        scene, victim = pair
        victim.alter(attribute)
        group = f"middle_{victim.name}"
        scene.query(f"CREATE ROLE {{}} {attribute}", group)
        for user in (scene.role, victim):
            scene.query("GRANT {} TO {}", group, user.name)
        try:
            refused(scene, victim)
        finally:
            scene.query("DROP ROLE {}", group)

    def test_is_left_alone_where_it_is_the_clone_of_one_whose_member_ours_is(
        self, every_scene: Scene, make_role: MakeRole, make_secret: Callable[[object], Secret]
    ) -> None:
        """All that such a clone has is its membership, which ours has as well."""
        web = every_scene
        web.rotate()
        ours = make_role(web.server)
        web.query("GRANT {} TO {}", web.role.name, ours.name)
        if web.server.version >= 16:
            web.query("GRANT {} TO {} WITH ADMIN OPTION", ours.name, web.superuser.name)
        value = {**web.master.document(), "masterarn": web.master.arn, "usernames": [ours.name, web.clone]}
        secret = make_secret({**value, "username": ours.name, "password": ours.password})
        error = replace(web, secret=secret).fail(errors.RoleNotPreparedError)
        assert f"is the clone of {web.role.name!r}" in error.what
        assert lets_in(web, web.secret.document())

    def test_is_left_alone_while_its_application_is_at_work(self, pair: tuple[Scene, Role]) -> None:
        scene, victim = pair
        with closing(scene.server.connect(victim.name, victim.password)):
            refused(scene, victim)

    def test_is_left_alone_where_the_superuser_has_no_say_over_it_yet(self, scene: Scene, make_role: MakeRole) -> None:
        """Else the hint would have it granted ADMIN OPTION on whatever role the value names."""
        victim = make_role(scene.server)
        scene.put({**scene.secret.document(), "usernames": [scene.role.name, victim.name]})
        refused(scene, victim)

    @pytest.mark.parametrize("by", ["the tag", "a version"])
    def test_takes_honest_turns_once_more_than_the_value_names_it(self, by: str, pair: tuple[Scene, Role]) -> None:
        scene, other = pair
        own(scene, other)
        before = scene.secret.document()
        if by == "the tag":
            scene.secret.tag(f"{scene.role.name} {other.name}")
        else:  # as docs/alternating-users.md has it: the other user's password, stored once
            scene.put({**before, "username": other.name, "password": other.password})
            scene.put(before)
        try:
            for user in (other.name, scene.role.name, other.name):
                assert scene.rotate()["username"] == user
                scene.secret.tag("nobody")
        finally:
            scene.query("DROP TABLE {}", f"t_{other.name}")

    @pytest.mark.parametrize("how", ["INHERIT TRUE, SET FALSE", "INHERIT FALSE, SET TRUE"])
    def test_takes_honest_turns_where_both_administer_by_the_same_group(
        self, how: str, pair: tuple[Scene, Role]
    ) -> None:
        """By either a member can grant what the group can, by SET ROLE where it does not inherit."""
        scene, other = pair
        boss, group = f"boss_{other.name}", f"group_{other.name}"
        for role in (boss, group):
            scene.query("CREATE ROLE {}", role)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", boss, group)
        for user in (scene.role.name, other.name):
            scene.query("GRANT {} TO {}" + (f" WITH {how}" if scene.server.version >= 16 else ""), group, user)
        try:
            for user in (other.name, scene.role.name):
                assert scene.rotate()["username"] == user
        finally:
            for role in (group, boss):
                scene.query("DROP ROLE {}", role)

    @pytest.mark.parametrize("attribute", ["REPLICATION", "BYPASSRLS"])
    def test_takes_honest_turns_where_both_have_an_attribute_by_the_same_group(
        self, attribute: str, pair: tuple[Scene, Role]
    ) -> None:
        scene, other = pair
        group = f"middle_{other.name}"
        scene.query(f"CREATE ROLE {{}} {attribute}", group)
        for user in (scene.role, other):
            scene.query("GRANT {} TO {}", group, user.name)
        try:
            assert scene.rotate()["username"] == other.name
        finally:
            scene.query("DROP ROLE {}", group)

    def test_takes_honest_turns_where_it_has_what_ours_has_too(self, pair: tuple[Scene, Role]) -> None:
        scene, other = pair
        for role in (scene.role, other):
            role.alter("CREATEROLE")
            scene.query("GRANT pg_monitor TO {}", role.name)
        for user in (other.name, scene.role.name):
            assert scene.rotate()["username"] == user


@pytest.mark.parametrize("encoding", ["LATIN1", "UTF8"])
def test_a_name_that_is_another_in_the_superusers_database_is_refused(
    encoding: str, every_scene: Scene, make_role: MakeRole
) -> None:
    """The same letters are other bytes in LATIN1, and a role's name is what bytes it has."""
    scene, dbname = every_scene, f"db_{uuid4().hex[:6]}"
    create = f"CREATE DATABASE {{}} ENCODING {encoding} LOCALE 'C' TEMPLATE template0"
    scene.query(create, dbname)
    user = make_role(scene.server, f"müller_{uuid4().hex[:6]}")
    if scene.server.version >= 16:
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", user.name, scene.superuser.name)
    replace(scene, secret=scene.master).put({**scene.master.document(), "dbname": dbname})
    scene.put({**scene.secret.document(), "username": user.name, "password": user.password})
    if encoding == "UTF8":
        scene.rotate()
    else:
        assert "in LATIN1" in scene.fail(errors.RoleNotPreparedError).what
        assert user.lets_in(user.password)
    scene.query("DROP DATABASE {}", dbname)


class TestAnotherSuperuser:
    """`masterarn`: the value alone says whose password is used for it."""

    @pytest.fixture
    def other(self, scene: Scene, make_secret: Callable[[object], Secret]) -> Secret:
        """The secret of another application, which this function may read as well."""
        return make_secret(scene.master.document())

    def test_is_not_asked_where_it_is_not_listed(self, scene: Scene, other: Secret) -> None:
        scene.put({**scene.secret.document(), "masterarn": other.arn})
        logged = len(scene.server.log())
        error = scene.fail(errors.SuperuserMismatchError)
        assert "SUPERUSER_SECRET_ARNS" in error.what
        assert f"user={scene.superuser.name}" not in scene.server.log()[logged:]
        assert scene.role.lets_in(scene.role.password)

    def test_is_not_asked_where_none_is_to_be(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SUPERUSER_SECRET_ARNS", "none,none")
        scene.fail(errors.SuperuserMismatchError)

    @pytest.mark.parametrize("listed", ["{0},{1}", "{1} {0}", "none,{1}", ""])
    def test_is_asked_in_honest_rotations_where_it_is_listed_or_nothing_is(
        self, listed: str, scene: Scene, other: Secret, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SUPERUSER_SECRET_ARNS", listed.format(scene.master.arn, other.arn))
        scene.put({**scene.secret.document(), "masterarn": other.arn})
        assert scene.rotate()["username"] == scene.clone


class TestAPutBack:
    """Strategy single user: what keeps the new login from the database has the session put a password back."""

    @pytest.fixture(autouse=True)
    def shut(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let nobody log in once the password has changed for the first time."""
        monkeypatch.setenv("ROTATION_STRATEGY", "single-user")
        change = Session.change_password

        def change_and_shut(self: Session, *how: Any) -> list[str]:  # noqa: ANN401
            notes = change(self, *how)
            monkeypatch.setattr(Session, "change_password", change)
            scene.role.alter("VALID UNTIL '-infinity'")
            return notes

        monkeypatch.setattr(Session, "change_password", change_and_shut)

    def test_sets_no_password_that_was_not_in_force(self, scene: Scene) -> None:
        """The writer may not read the value, and stores one with a password of its own."""
        scene.put({**scene.secret.document(), "password": "known"})
        error = scene.fail(errors.UnprovenPasswordError)
        scene.role.alter("VALID UNTIL 'infinity'")
        assert "Nor could AWSPREVIOUS" in error.what
        assert not scene.role.lets_in("known")
        assert scene.role.lets_in(scene.role.password)

    def test_is_honest_where_awscurrent_was_in_force(self, scene: Scene) -> None:
        scene.fail(errors.UnprovenPasswordError)
        scene.role.alter("VALID UNTIL 'infinity'")
        assert scene.role.lets_in(scene.role.password)


class TestAHint:
    """What an administrator runs in good faith."""

    def test_gives_nothing_to_a_superuser_whom_only_the_value_names(
        self, every_scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another application's secret, which the function rotates, stands for the superuser's."""
        scene = every_scene
        monkeypatch.delenv("SUPERUSER_SECRET_ARNS")
        scene.query("ALTER ROLE {} NOCREATEROLE", scene.superuser.name)
        error = scene.fail(errors.RoleNotPreparedError)
        assert scene.superuser.name not in error.hint
        assert "ALTER ROLE SUPERUSER CREATEROLE;" in error.hint

    def test_is_honest_where_an_administrator_has_named_the_superuser(self, every_scene: Scene) -> None:
        scene = every_scene
        scene.query("ALTER ROLE {} NOCREATEROLE", scene.superuser.name)
        token = scene.begin()
        error = scene.fail(errors.RoleNotPreparedError, "createSecret", "setSecret", token=token)
        assert f'ALTER ROLE "{scene.superuser.name}" CREATEROLE;' in scene.follow(error)
        scene.take(token)

    def test_of_a_late_step_makes_no_user_a_clone(self, scene: Scene, make_role: MakeRole) -> None:
        """A writer stores its own login under AWSPENDING; its name makes it the clone of another user."""
        victim = make_role(scene.server)
        attacker = make_role(scene.server, f"{victim.name}_clone")
        token = scene.begin()
        login = {**scene.secret.document(), "username": attacker.name, "password": attacker.password}
        scene.put(login, token=token, label="AWSPENDING")
        error = scene.fail(errors.RoleNotPreparedError, "testSecret", token=token)
        assert not SQL.search(error.hint)

    def test_takes_no_attribute_from_a_user_that_only_the_value_names(self, scene: Scene, make_role: MakeRole) -> None:
        victim = user_of_the_superusers(scene, make_role, options="CREATEROLE")
        scene.put({**scene.secret.document(), "usernames": [scene.role.name, victim.name]})
        refused(scene, victim)
