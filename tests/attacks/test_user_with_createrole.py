"""Who has CREATEROLE, and no right to the application's user, prepares a role with the name of its clone."""

from __future__ import annotations

import re
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg2
import pytest

from rotation_lambda import errors
from tests.worlds.scenes import VERSIONS, Scene, every_scene, lets_in, run, scene, set_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.servers.postgres import PostgresServer
    from tests.conftest import Role

    MakeRole = Callable[..., Role]

__all__ = ["every_scene", "scene", "set_scene"]

SINCE_16 = [version for version in VERSIONS if version >= 16]


class User:
    """A user of the database, and what it runs."""

    def __init__(self, scene: Scene, role: Role) -> None:
        self.scene, self.role, self.name = scene, role, role.name

    def run(self, query: str) -> list[tuple[object, ...]]:
        names = {"app": self.scene.role.name, "clone": self.scene.clone, "master": self.scene.superuser.name}
        with closing(self.scene.server.connect(self.role.name, self.role.password)) as connection:
            connection.autocommit = True
            return run(connection, query.format(me=self.name, **names))

    def may_not(self, query: str) -> bool:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            self.run(query)
        return True


@pytest.fixture(params=SINCE_16)
def recent_scene(
    request: pytest.FixtureRequest, set_scene: Callable[..., Scene], postgres_of: Callable[[int], PostgresServer]
) -> Scene:
    """A scene on each version that has options for each membership."""
    return set_scene(postgres_of(request.param))


@pytest.fixture
def mallory(recent_scene: Scene, make_role: MakeRole) -> Iterator[User]:
    """Up to PostgreSQL 15 CREATEROLE is a right to every role but superusers: there is nothing left to gain."""
    scene = recent_scene
    user = User(scene, make_role(scene.server, options="CREATEROLE"))
    assert user.may_not('GRANT "{app}" TO "{me}"')
    yield user
    scene.query("DROP ROLE IF EXISTS {}", f"group_{user.name}")


PREPARED = {
    "as good as new": 'CREATE ROLE "{clone}"',
    "with a password": "CREATE ROLE \"{clone}\" LOGIN PASSWORD 'known'",
    "with a member": 'CREATE ROLE "{clone}" ROLE "{me}"',
    "in a group": 'CREATE ROLE "{clone}"; CREATE ROLE "group_{me}"; GRANT "group_{me}" TO "{clone}"',
    "for a group": 'CREATE ROLE "group_{me}" ROLE "{me}"; CREATE ROLE "{clone}" ROLE "group_{me}"',
    "with settings": 'CREATE ROLE "{clone}"; ALTER ROLE "{clone}" SET role = \'{me}\'; '
    'ALTER ROLE "{clone}" IN DATABASE postgres SET search_path = evil',
}


class TestAPreparedClone:
    """From 16 on the creator of a role keeps ADMIN OPTION on it, whatever is revoked: what it gets is the creator's."""

    @pytest.mark.parametrize("how", PREPARED.values(), ids=PREPARED)
    def test_does_not_get_the_rights_of_the_original(self, how: str, mallory: User) -> None:
        scene = mallory.scene
        mallory.run(how)
        mallory.run('GRANT "{clone}" TO "{master}" WITH ADMIN OPTION')
        before = scene.written()
        error = scene.fail(errors.RoleNotPreparedError)
        assert scene.written() == before
        assert not re.search(r"GRANT|ALTER", error.hint)
        assert mallory.may_not('GRANT "{app}" TO "{me}"')
        mallory.run('GRANT "{clone}" TO "{me}" WITH INHERIT TRUE, SET TRUE')
        assert mallory.may_not('SET ROLE "{app}"')

    def test_does_not_get_them_with_a_password_that_the_secret_has_had(self, mallory: User) -> None:
        """Mallory may write the secret's value as well, though not read it."""
        scene = mallory.scene
        mallory.run(PREPARED["with a password"])
        mallory.run('GRANT "{clone}" TO "{master}" WITH ADMIN OPTION')
        before = scene.secret.document()
        scene.put({**before, "username": scene.clone, "password": "known"})
        scene.put(before)
        error = scene.fail(errors.RoleNotPreparedError)
        assert repr(mallory.name) in error.what
        assert mallory.may_not('SET ROLE "{app}"')

    @pytest.mark.parametrize(
        ("is_tagged", "options"), [(False, ""), (True, ""), (True, "INHERIT FALSE, SET TRUE"), (True, "SET FALSE")]
    )
    def test_is_not_what_a_session_runs_as_that_became_it_before(
        self, mallory: User, options: str, *, is_tagged: bool
    ) -> None:
        """Its user is gone, and with it all that shows in the server; a tag may name the clone before there is one.

        What another has granted it, before it had that name, is less than a clone gets.
        """
        scene, helper = mallory.scene, f"helper_{mallory.name}"
        mallory.run(f"CREATE ROLE {helper} LOGIN CREATEROLE PASSWORD 'known'")
        with closing(scene.server.connect(helper, "known")) as left:
            left.autocommit = True
            run(left, f'CREATE ROLE "{scene.clone}"')
            run(left, f'GRANT "{scene.clone}" TO "{mallory.name}" WITH ADMIN OPTION')
            run(left, f'GRANT "{scene.clone}" TO {helper} WITH SET TRUE; SET ROLE "{scene.clone}"')
            mallory.run('GRANT "{clone}" TO "{master}" WITH ADMIN OPTION')
            mallory.run(f'GRANT {helper} TO "{{me}}" WITH INHERIT TRUE, SET TRUE')
            mallory.run(f"DROP OWNED BY {helper}; DROP ROLE {helper}")
            if options:
                scene.query(f"GRANT {{}} TO {{}} WITH {options}", scene.role.name, scene.clone)
            if is_tagged:
                scene.secret.tag(f"{scene.role.name} {scene.clone}")
            scene.rotate()
            assert scene.ask("SELECT current_user") == [(scene.role.name,)]
            with pytest.raises(psycopg2.Error):
                run(left, f'SET ROLE "{scene.role.name}"')
            with pytest.raises(psycopg2.Error):
                run(left, f"ALTER ROLE \"{scene.clone}\" PASSWORD 'known'")
        scene.rotate()

    def test_hands_nothing_on_by_a_function_of_its_own(self, mallory: User) -> None:
        """SECURITY DEFINER: what the clone owns runs with its rights, whoever calls it."""
        scene = mallory.scene
        mallory.run(PREPARED["as good as new"])
        schema = f"of_{mallory.name}"
        scene.query("CREATE SCHEMA {}", schema)
        scene.query("CREATE FUNCTION {}.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'", schema)
        scene.query("ALTER FUNCTION {}.f() OWNER TO {}", schema, scene.clone)
        scene.secret.tag(f"{scene.role.name} {scene.clone}")
        try:
            scene.query("REVOKE {} FROM {} CASCADE", scene.clone, mallory.name)
            scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
            assert scene.fail(errors.PasswordChangeError).sqlstate == "2BP01"
            assert mallory.run("SELECT pg_has_role('{clone}', '{app}', 'USAGE')") == [(False,)]
        finally:
            scene.query("DROP SCHEMA {} CASCADE", schema)

    def test_is_not_handed_on_by_a_member_of_the_original(self, mallory: User, make_role: MakeRole) -> None:
        """Who has `app`, and may not grant it, keeps ADMIN OPTION on the clone that it has made."""
        scene, third = mallory.scene, make_role(mallory.scene.server)
        scene.query("GRANT {} TO {}", scene.role.name, mallory.name)
        mallory.run(PREPARED["as good as new"])
        mallory.run('GRANT "{clone}" TO "{master}" WITH ADMIN OPTION')
        assert mallory.may_not(f'GRANT "{{app}}" TO "{third.name}"')
        scene.rotate()
        assert mallory.may_not(f'GRANT "{{clone}}" TO "{third.name}"')
        assert mallory.may_not("ALTER ROLE \"{clone}\" PASSWORD 'known'")

    def test_is_seen_by_the_preflight(self, mallory: User) -> None:
        scene = mallory.scene
        mallory.run(PREPARED["with a password"])
        mallory.run('GRANT "{clone}" TO "{master}" WITH ADMIN OPTION')
        assert scene.look()["password change"]["code"] == "role-not-prepared"

    def test_is_honest_where_an_administrator_has_followed_the_hint(
        self, every_scene: Scene, make_role: MakeRole
    ) -> None:
        """The creator of a clone stays a member of it, from 16 on."""
        scene = every_scene
        scene.role.alter("SET log_statement = 'none'")  # what the superuser may not copy
        administrator = User(scene, make_role(scene.server, options="CREATEROLE"))
        if scene.server.version >= 16:
            scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.role.name, administrator.name)
        token = scene.begin()
        error = scene.fail(errors.RoleNotPreparedError, "createSecret", "setSecret", token=token)
        statements = error.hint.partition(": ")[2]
        setting = next(part for part in statements.split("; ") if "log_statement" in part)
        assert statements.endswith(f'GRANT "{scene.role.name}" TO "{scene.clone}"{scene.how_members};')
        administrator.run(statements.replace(f"{setting}; ", ""))
        scene.server.query(setting)
        scene.take(token)
        scene.rotate()
        assert scene.ask("SELECT 1") == [(1,)]
        if scene.server.version >= 16:
            administrator.run('GRANT "{clone}" TO "{me}"')

    @pytest.mark.parametrize("revoked", [False, True])
    def test_is_honest_where_an_earlier_master_has_made_it(
        self, *, revoked: bool, every_scene: Scene, make_role: MakeRole
    ) -> None:
        """Its creator is gone since, and the membership granted by it; the secret has the clone's password."""
        scene = every_scene
        earlier = User(scene, make_role(scene.server, options="CREATEROLE"))
        if scene.server.version >= 16:
            scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.role.name, earlier.name)
        earlier.run('CREATE ROLE "{clone}" LOGIN PASSWORD \'known\'; GRANT "{app}" TO "{clone}"')
        if scene.server.version >= 16:
            scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
        if revoked:
            before = scene.secret.document()
            scene.put({**before, "username": scene.clone, "password": "known"})
            scene.put(before)
            scene.query("DROP OWNED BY {0}; REVOKE {1} FROM {2}", earlier.name, scene.role.name, scene.clone)
            scene.query("DROP ROLE {}", earlier.name)
        for user in (scene.clone, scene.role.name):
            assert scene.rotate()["username"] == user
            assert scene.ask("SELECT current_user") == [(scene.role.name,)]


class TestAMemberThatOnlyInherits:
    """Who inherits from the application's user may not become it, nor alter it; nor whom that one may become."""

    def test_gets_no_set_role_through_a_clone_of_its_own(self, mallory: User) -> None:
        scene = mallory.scene
        scene.query("GRANT {} TO {} WITH INHERIT TRUE, SET FALSE", scene.role.name, mallory.name)
        mallory.run(PREPARED["as good as new"])
        mallory.run('GRANT "{clone}" TO "{master}" WITH ADMIN OPTION')
        assert mallory.may_not('SET ROLE "{app}"')
        assert repr(mallory.name) in scene.fail(errors.RoleNotPreparedError).what
        assert scene.look()["password change"]["code"] == "role-not-prepared"
        mallory.run('GRANT "{clone}" TO "{me}" WITH INHERIT TRUE, SET TRUE')
        assert mallory.may_not('SET ROLE "{app}"')

    @pytest.mark.parametrize("is_superuser", [True, False])
    def test_gets_none_through_a_member_of_the_clone_that_it_inherits_from(
        self, mallory: User, make_role: MakeRole, *, is_superuser: bool
    ) -> None:
        """Who made the clone may become the application's user; or is the superuser that the rotation asks."""
        scene = mallory.scene
        if is_superuser:
            maker = User(scene, scene.superuser)
            scene.query("ALTER ROLE {} SUPERUSER", maker.name)
            scene.query("REVOKE {} FROM {}", scene.role.name, maker.name)
        else:
            maker = User(scene, make_role(scene.server, options="CREATEROLE"))
            scene.query("GRANT {} TO {} WITH INHERIT TRUE, SET TRUE", scene.role.name, maker.name)
        scene.query("GRANT {} TO {} WITH INHERIT TRUE, SET FALSE", maker.name, mallory.name)
        maker.run('CREATE ROLE "{clone}"')
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
        assert mallory.may_not('SET ROLE "{app}"')
        assert repr(mallory.name) in scene.fail(errors.RoleNotPreparedError).what
        assert mallory.may_not('SET ROLE "{app}"')

    def test_keeps_no_honest_clone_from_a_rotation(self, mallory: User) -> None:
        mallory.scene.query("GRANT {} TO {} WITH INHERIT TRUE, SET FALSE", mallory.scene.role.name, mallory.name)
        assert mallory.scene.rotate()["username"] == mallory.scene.clone


class TestAnHeirOfASuperuser:
    """A superuser's rights do not go to who inherits from it, but a GRANT by those of its memberships does."""

    @pytest.fixture
    def dba_and_heir(self, recent_scene: Scene, make_role: MakeRole) -> tuple[Role, User]:
        scene = recent_scene
        dba, heir = make_role(scene.server, options="SUPERUSER"), User(scene, make_role(scene.server))
        scene.query("GRANT {} TO {} WITH INHERIT TRUE, SET FALSE", dba.name, heir.name)
        assert heir.may_not(f'SET ROLE "{dba.name}"')
        return dba, heir

    def test_makes_no_user_of_another_team_a_clone(self, dba_and_heir: tuple[Role, User], make_role: MakeRole) -> None:
        (dba, heir), scene = dba_and_heir, dba_and_heir[1].scene
        victim = make_role(scene.server, scene.clone)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.role.name, dba.name)
        assert heir.may_not("ALTER ROLE \"{clone}\" PASSWORD 'x'")
        heir.run('GRANT "{app}" TO "{clone}"')
        scene.fail(errors.RoleNotPreparedError)
        assert victim.lets_in(victim.password)

    def test_shares_no_rights_by_a_clone_that_the_superuser_has(self, dba_and_heir: tuple[Role, User]) -> None:
        (dba, heir), scene = dba_and_heir, dba_and_heir[1].scene
        scene.query("CREATE ROLE {} ROLE {}", scene.clone, dba.name)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
        assert repr(heir.name) in scene.fail(errors.RoleNotPreparedError).what
        assert heir.run("SELECT pg_has_role('{app}', 'USAGE')") == [(False,)]

    def test_is_no_matter_where_the_superuser_has_no_heir(
        self, dba_and_heir: tuple[Role, User], make_role: MakeRole
    ) -> None:
        scene, other = dba_and_heir[1].scene, make_role(dba_and_heir[1].scene.server, options="SUPERUSER")
        scene.query("CREATE ROLE {} ROLE {}", scene.clone, other.name)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
        assert scene.rotate()["username"] == scene.clone

    def test_is_no_matter_where_a_superuser_has_made_an_honest_clone(
        self, dba_and_heir: tuple[Role, User], make_role: MakeRole
    ) -> None:
        dba, scene = User(dba_and_heir[1].scene, dba_and_heir[0]), dba_and_heir[1].scene
        make_role(scene.server, scene.clone)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
        dba.run('GRANT "{app}" TO "{clone}"')
        assert scene.rotate()["username"] == scene.clone


class TestAnotherTeamsUser:
    """`web_clone` is a user of its own, which has nothing to do with `web`."""

    def victim(self, scene: Scene, make_role: MakeRole) -> Role:
        victim = make_role(scene.server, scene.clone)
        if scene.server.version >= 16:
            scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.clone, scene.superuser.name)
        return victim

    def test_keeps_its_password(self, every_scene: Scene, make_role: MakeRole) -> None:
        scene = every_scene
        victim = self.victim(scene, make_role)
        before = scene.written()
        error = scene.fail(errors.RoleNotPreparedError)
        assert scene.written() == before
        assert victim.lets_in(victim.password)
        assert victim.name not in error.hint
        assert scene.look()["password change"]["code"] == "role-not-prepared"

    @pytest.mark.parametrize("of", ["", "a group"])
    def test_keeps_it_though_an_administrator_of_web_has_made_it_a_member(
        self, of: str, every_scene: Scene, make_role: MakeRole
    ) -> None:
        """Who has ADMIN OPTION on `web`, and no say over `web_clone`, may make anybody a member of `web`."""
        scene = every_scene
        victim = self.victim(scene, make_role)
        owner, group = User(scene, make_role(scene.server)), make_role(scene.server)
        who = group.name if of else owner.name
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.role.name, who)
        if of:
            scene.query("GRANT {} TO {}", group.name, owner.name)
        owner.run(f'SET ROLE "{who}"; GRANT "{{app}}" TO "{{clone}}"')
        scene.fail(errors.RoleNotPreparedError)
        assert victim.lets_in(victim.password)

    @pytest.mark.parametrize(
        ("how", "is_one"), [("INHERIT FALSE, SET FALSE", False), ("INHERIT TRUE, SET FALSE", True)]
    )
    def test_keeps_it_though_he_is_a_member_of_its_administrators_to_no_effect(
        self,
        how: str,
        *,
        is_one: bool,
        recent_scene: Scene,
        make_role: MakeRole,
    ) -> None:
        """By a membership without INHERIT and SET nothing can be granted: the control is one by which he may."""
        scene = recent_scene
        victim = self.victim(scene, make_role)
        group, owner = make_role(scene.server), User(scene, make_role(scene.server))
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", victim.name, group.name)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.role.name, owner.name)
        scene.query(f"GRANT {{}} TO {{}} WITH {how}", group.name, owner.name)
        owner.run('GRANT "{app}" TO "{clone}"')
        if is_one:
            owner.run('GRANT "{clone}" TO "{me}"')
            scene.rotate()
        else:
            with pytest.raises(psycopg2.errors.InternalError_, match="no possible grantors"):
                owner.run('GRANT "{clone}" TO "{me}"')
            scene.fail(errors.RoleNotPreparedError)
        assert victim.lets_in(victim.password) is not is_one

    def test_keeps_it_though_a_group_in_whose_name_it_was_made_a_member_may_become_it(
        self,
        recent_scene: Scene,
        make_role: MakeRole,
    ) -> None:
        """Who only inherits the group's rights may not become it, and grants in its name (PostgreSQL: GRANT)."""
        scene = recent_scene
        victim = self.victim(scene, make_role)
        group, heir = make_role(scene.server), User(scene, make_role(scene.server))
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.role.name, group.name)
        scene.query("GRANT {} TO {} WITH INHERIT FALSE, SET TRUE", victim.name, group.name)
        scene.query("GRANT {} TO {} WITH INHERIT TRUE, SET FALSE", group.name, heir.name)
        assert heir.may_not('SET ROLE "{clone}"')
        heir.run('GRANT "{app}" TO "{clone}"')
        scene.fail(errors.RoleNotPreparedError)
        assert victim.lets_in(victim.password)

    @pytest.mark.parametrize(("how", "is_stranger"), [("INHERIT FALSE, SET TRUE", True), ("INHERIT TRUE", False)])
    def test_shares_no_rights_with_a_member_that_cannot_use_them_yet(
        self,
        how: str,
        *,
        is_stranger: bool,
        recent_scene: Scene,
        make_role: MakeRole,
    ) -> None:
        """Of a group that may become `web` members that only inherit from it would use its rights by the clone."""
        scene = recent_scene
        clone, group = self.victim(scene, make_role), make_role(scene.server)
        scene.secret.tag(clone.name)
        scene.query("GRANT {} TO {}", clone.name, group.name)
        scene.query(f"GRANT {{}} TO {{}} WITH {how}", scene.role.name, group.name)
        if is_stranger:
            assert group.name in scene.fail(errors.RoleNotPreparedError).what
        else:
            scene.rotate()

    def test_keeps_it_when_who_made_it_a_member_is_gone(self, every_scene: Scene, make_role: MakeRole) -> None:
        """Up to 15 a grant outlives its grantor."""
        scene = every_scene
        victim, owner = self.victim(scene, make_role), User(scene, make_role(scene.server))
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.role.name, owner.name)
        owner.run('GRANT "{app}" TO "{clone}"')
        assert owner.may_not("ALTER ROLE \"{clone}\" PASSWORD 'x'")
        if scene.server.version < 16:
            scene.query("DROP ROLE {}", owner.name)
        scene.fail(errors.RoleNotPreparedError)
        assert victim.lets_in(victim.password)

    @pytest.mark.parametrize("by", ["the tag", "who administers both"])
    def test_is_an_honest_clone_where_an_administrator_says_so(
        self, by: str, every_scene: Scene, make_role: MakeRole
    ) -> None:
        scene = every_scene
        clone = self.victim(scene, make_role)
        if by == "the tag":
            scene.secret.tag(clone.name)
        else:
            scene.query("GRANT {} TO {}", scene.role.name, clone.name)
        scene.rotate()
        assert not clone.lets_in(clone.password)
        assert lets_in(scene, scene.secret.document())
