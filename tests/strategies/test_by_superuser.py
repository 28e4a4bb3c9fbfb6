"""One user whose password a superuser changes: for who may not, or where nobody knows it; and a superuser's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rotation_lambda import errors, handler, steps
from rotation_lambda.settings import PasswordPolicy, Strategy
from tests.worlds.scenes import Scene, assemble, every_scene, lets_in, scene, set_scene, statements_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.servers.postgres import PostgresServer
    from tests.conftest import Role

__all__ = ["every_scene", "scene", "set_scene"]

CALLS = [
    *("DescribeSecret", "GetSecretValue", "GetSecretValue", "GetRandomPassword", "PutSecretValue"),
    *("DescribeSecret", "DescribeSecret", "GetSecretValue", "DescribeSecret"),
    "DescribeSecret",
    *("DescribeSecret", "UpdateSecretVersionStage"),
]


@pytest.fixture(autouse=True)
def strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROTATION_STRATEGY", "superuser")


def rights(scene: Scene) -> tuple[object, ...]:
    [row] = scene.server.query(
        "SELECT rolsuper, rolcreaterole, rolcanlogin, rolinherit, rolconnlimit, rolvaliduntil FROM pg_roles "
        "WHERE rolname = %s",
        (scene.role.name,),
    )
    return row


class TestRotation:
    def test_changes_the_password_and_nothing_else(self, every_scene: Scene) -> None:
        scene = every_scene
        scene.role.alter("SET work_mem = '5MB'")
        before, settings = rights(scene), scene.settings(scene.role.name)
        for _ in range(2):
            old = scene.secret.document()
            new = scene.rotate()
            assert {**old, "password": new["password"]} == new
            assert [lets_in(scene, one) for one in (old, new)] == [False, True]
        assert (rights(scene), scene.settings(scene.role.name)) == (before, settings)
        assert not scene.server.query("SELECT 1 FROM pg_roles WHERE rolname = %s", (scene.clone,))
        assert scene.notes() == ""

    def test_needs_twelve_calls_six_logins_and_no_refusal(self, scene: Scene) -> None:
        token = scene.begin()
        scene.secret.server.calls.clear()
        logged = len(scene.server.log())
        scene.take(token)
        log = scene.server.log()[logged:]
        assert scene.secret.server.calls == CALLS
        assert log.count("connection received") == 6
        assert log.count("password authentication failed") == 0
        assert len(statements_in(log)) == 2, "finishSecret holds the role's row, and rolls back"

    def test_looks_for_no_superuser_once_the_reserve_has_begun(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token = scene.begin()
        scene.take(token, "createSecret")
        with monkeypatch.context() as patch:
            patch.setattr(handler, "RESERVE_S", 55.0)
            assert "time is up" in scene.fail(errors.SecretsManagerError, "setSecret", token=token).what
        scene.take(token)

    def test_a_step_that_comes_twice_does_no_harm(self, scene: Scene) -> None:
        token = scene.begin()
        for step in ("createSecret", "createSecret", "setSecret", "setSecret", "testSecret", "finishSecret"):
            scene.take(token, step)
        scene.take(token)
        assert lets_in(scene, scene.secret.document())

    def test_helps_where_nobody_knows_the_password_and_the_tag_names_the_user(self, scene: Scene) -> None:
        scene.role.alter("PASSWORD NULL")
        scene.secret.tag(scene.role.name)
        scene.rotate()
        assert lets_in(scene, scene.secret.document())
        assert "Only the secret's tag can show that it is for this user" in scene.notes()

    @pytest.mark.parametrize("attribute", ["LOGIN", "SUPERUSER", "CREATEROLE", "REPLICATION", "BYPASSRLS"])
    def test_needs_the_password_of_the_user(self, attribute: str, scene: Scene) -> None:
        """Else the writer of a secret could name any user in it, and learn the new password."""
        scene.role.alter(f"{attribute} PASSWORD 'another'")
        token = scene.begin()
        error = scene.fail(errors.RoleNotPreparedError, "createSecret", "setSecret", token=token)
        assert "is not shown to accept AWSCURRENT's password" in error.what
        assert lets_in(scene, {**scene.role.document, "password": "another"})
        if attribute == "SUPERUSER":
            return
        scene.role.alter(f"PASSWORD '{scene.role.password}'")
        scene.take(token)
        assert lets_in(scene, scene.secret.document())

    def test_tells_what_the_superuser_lacks(self, every_scene: Scene) -> None:
        scene = every_scene
        scene.query("ALTER ROLE {} NOCREATEROLE", scene.superuser.name)
        if scene.server.version >= 16:
            scene.query("REVOKE {} FROM {}", scene.role.name, scene.superuser.name)
        token = scene.begin()
        error = scene.fail(errors.RoleNotPreparedError, "createSecret", "setSecret", token=token)
        assert lets_in(scene, scene.role.document)
        assert f'ALTER ROLE "{scene.superuser.name}" CREATEROLE;' in scene.follow(error)
        scene.take(token)

    def test_needs_no_more_than_alter_role_does(self, every_scene: Scene, make_role: Callable[..., Role]) -> None:
        """An ADMIN OPTION by which the superuser could grant nothing: ALTER ROLE takes it."""
        scene = every_scene
        if scene.server.version >= 16:
            group = make_role(scene.server)
            scene.query("REVOKE {} FROM {}", scene.role.name, scene.superuser.name)
            scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.role.name, group.name)
            scene.query("GRANT {} TO {} WITH INHERIT FALSE, SET FALSE", group.name, scene.superuser.name)
        scene.rotate()
        assert lets_in(scene, scene.secret.document())

    def test_names_a_role_that_is_not_there(self, scene: Scene) -> None:
        scene.put({**scene.secret.document(), "username": "nobody"})
        assert "'nobody' does not exist" in scene.fail(errors.RoleNotPreparedError).what

    @pytest.mark.parametrize("name", ['"; DROP ROLE x; --', "%s %(x)s", "Ünïcode", "x" * 63, "y_clone"])
    def test_takes_names_as_names(self, name: str, set_scene: Callable[..., Scene], postgres: PostgresServer) -> None:
        scene = set_scene(postgres, name)
        assert scene.rotate()["username"] == name
        assert lets_in(scene, scene.secret.document())


class TestPutBack:
    """Made to fail for real: right before COMMIT pg_hba.conf turns against the role, and again in its favour later."""

    def act(self, scene: Scene, *acts: Callable[[], None]) -> Callable[[], None]:
        """Do one thing each time that the labels are looked at, and then nothing more."""
        left = list(acts)
        return lambda: left.pop(0)() if left else None

    def shut(self, scene: Scene) -> Callable[[], None]:
        """Ask the role for its password in clear text, which it does not give."""
        kind = scene.server.default_hba.partition(" ")[0]
        lines = f"{kind} all {scene.role.name},{scene.clone} all password", scene.server.default_hba
        return lambda: scene.server.use_hba(*lines)

    def open(self, scene: Scene) -> Callable[[], None]:
        return lambda: scene.server.use_hba(scene.server.default_hba)

    def test_is_proved_by_a_login(self, every_scene: Scene) -> None:
        scene = every_scene
        token = scene.begin()
        scene.take(token, "createSecret")
        pending = scene.secret.document("AWSPENDING")
        before = self.act(scene, self.shut(scene), lambda: None, self.open(scene))
        with pytest.raises(errors.VerificationFailedError, match="is in force again, and logs in"):
            steps.set_secret(assemble(scene, token, Strategy.SUPERUSER, before=before))
        assert [lets_in(scene, one) for one in (scene.role.document, pending)] == [True, False]
        scene.take(token)
        assert lets_in(scene, pending)

    def test_that_cannot_be_proved_is_critical(self, scene: Scene) -> None:
        token = scene.begin()
        scene.take(token, "createSecret")
        with pytest.raises(errors.UnprovenPasswordError, match=scene.secret.labels["AWSCURRENT"]):
            steps.set_secret(assemble(scene, token, Strategy.SUPERUSER, before=self.act(scene, self.shut(scene))))
        self.open(scene)()
        assert lets_in(scene, scene.role.document)
        scene.take(token)

    def test_is_not_due_where_nobody_knew_the_password(self, scene: Scene) -> None:
        scene.role.alter("PASSWORD NULL")
        scene.secret.tag(scene.role.name)
        token = scene.begin()
        scene.take(token, "createSecret")
        with pytest.raises(errors.UnprovenPasswordError, match="did not log in before either"):
            steps.set_secret(assemble(scene, token, Strategy.SUPERUSER, before=self.act(scene, self.shut(scene))))
        self.open(scene)()
        assert lets_in(scene, scene.secret.document("AWSPENDING"))
        scene.take(token)

    def test_is_not_due_where_the_user_in_use_was_never_touched(self, scene: Scene) -> None:
        """Alternating users: AWSCURRENT goes on."""
        token = scene.begin()
        steps.create_secret(assemble(scene, token, Strategy.ALTERNATING_USERS), PasswordPolicy())
        before = self.act(scene, self.shut(scene))
        with pytest.raises(errors.VerificationFailedError, match="was not touched"):
            steps.set_secret(assemble(scene, token, Strategy.ALTERNATING_USERS, before=before))
        self.open(scene)()
        assert lets_in(scene, scene.role.document)


class TestASuperusersOwnSecret:
    def test_is_rotated_by_itself(self, scene: Scene, monkeypatch: pytest.MonkeyPatch, invoke: object) -> None:
        """Under `auto`, which goes by the secret: it has no `masterarn`."""
        monkeypatch.setenv("ROTATION_STRATEGY", "auto")
        own = Scene(scene.superuser, scene.superuser, scene.master, scene.master, scene.invoke, scene.log)
        before = own.secret.document()
        after = own.rotate()
        assert [lets_in(own, one) for one in (before, after)] == [False, True]
        for user in (scene.clone, scene.role.name):  # and the other secret goes on with it
            assert scene.rotate()["username"] == user

    @pytest.mark.parametrize("strategy", ["superuser", "alternating-users"])
    def test_is_not_changed_by_itself_as_another(
        self, strategy: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ROTATION_STRATEGY", strategy)
        own = Scene(scene.superuser, scene.superuser, scene.master, scene.master, scene.invoke, scene.log)
        own.put({**own.secret.document(), "masterarn": scene.master.arn})
        assert "single-user" in own.fail(errors.SuperuserMismatchError).hint
        assert scene.superuser.lets_in(scene.superuser.password)

    @pytest.mark.parametrize("strategy", ["superuser", "alternating-users"])
    def test_without_masterarn_is_told_of_it(
        self, strategy: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ROTATION_STRATEGY", strategy)
        scene.put(scene.role.document)
        assert "masterarn" in scene.fail(errors.InvalidSecretError, "createSecret").what

    def test_that_does_not_log_in_changes_nothing(self, scene: Scene) -> None:
        scene.superuser.alter("PASSWORD 'another'")
        error = scene.fail(errors.LoginRefusedError)
        assert scene.superuser.name in error.what
        assert "its own rotation may be at work" in error.hint
        assert lets_in(scene, scene.role.document)
