"""The preflight under the strategies that need a superuser: against real servers, and nothing is ever changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from rotation_lambda import errors
from tests.conftest import Role, Secret
from tests.worlds.scenes import Scene, set_scene

if TYPE_CHECKING:
    from local.servers.postgres import PostgresServer

__all__ = ["set_scene"]

MakeSecret = Callable[[object], Secret]
Look = Callable[..., dict[str, dict[str, str]]]


@pytest.fixture
def role(postgres: PostgresServer, make_role: Callable[..., Role]) -> Role:
    return make_role(postgres)


@pytest.fixture
def look(
    invoke: Callable[[object], Any],
    make_secret: MakeSecret,
    make_superuser: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., dict[str, dict[str, str]]]:
    """Return the preflight's findings by check, of a secret with a superuser and these changes."""

    def look(
        role: Role,
        *others: Role,
        strategy: str = "auto",
        pinned: bool = True,
        tagged: Sequence[Role] = (),
        **changes: object,
    ) -> dict[str, dict[str, str]]:
        superuser = make_superuser(role, *others)
        secret = make_secret({**role.document, **superuser, **changes})
        for user in tagged:
            secret.tag(user.name)
        monkeypatch.setenv("ROTATION_STRATEGY", strategy)
        monkeypatch.setenv("SUPERUSER_SECRET_ARNS", superuser["masterarn"] if pinned else "")
        before = role.server.query("SELECT xmin::text, * FROM pg_authid ORDER BY oid")
        report = invoke({"Step": "preflight", "SecretId": secret.arn})
        assert role.server.query("SELECT xmin::text, * FROM pg_authid ORDER BY oid") == before
        assert role.password not in str(report)
        return {finding["check"]: finding for finding in report["findings"]}

    return look


def test_says_what_a_first_rotation_will_create(role: Role, look: Look) -> None:
    found = look(role)
    assert {finding["status"] for finding in found.values()} == {"ok", "not reached"}
    assert f"strategy alternating-users, next user '{role.name}_clone'" in found["secret"]["seen"]
    assert "as in this secret" in found["superuser secret"]["seen"]
    assert found["superuser login"]["seen"] == "is let in, by scram-sha-256, TLSv1.3"
    change = found["password change"]["seen"]
    assert f'CREATE ROLE "{role.name}_clone"; ' in change
    assert change.endswith(f'GRANT "{role.name}" TO "{role.name}_clone" WITH INHERIT TRUE, SET TRUE;')


def test_has_no_change_to_tell_of_where_only_the_password_changes(role: Role, look: Look) -> None:
    found = look(role, strategy="superuser")
    assert found["password change"]["seen"] == f"the superuser may set the password of '{role.name}'"


def test_asks_for_no_superuser_where_the_user_changes_its_own_password(role: Role, look: Look) -> None:
    found = look(role, strategy="single-user")
    assert found["superuser secret"]["status"] == found["superuser login"]["status"] == "not reached"
    assert found["password change"]["seen"] == "the role may change its own password"


def test_warns_where_the_superusers_server_does_not_prove_itself(
    role: Role, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")
    found = look(role, sslmode="verify-full")
    assert found["TLS"]["status"] == "ok"
    assert found["superuser login"]["status"] == "warning"
    assert found["superuser login"]["action"].startswith("Use verify-full: ")


def test_finds_a_setting_that_the_superuser_cannot_copy(role: Role, look: Look) -> None:
    role.alter("SET log_statement = 'all'")
    finding = look(role)["password change"]
    assert (finding["status"], finding["code"]) == ("failed", "role-not-prepared")
    assert f'ALTER ROLE "{role.name}_clone" SET "log_statement" TO \'all\';' in finding["action"]


def test_finds_a_role_that_the_superuser_may_not_alter(role: Role, look: Look, make_role: Callable[..., Role]) -> None:
    other = make_role(role.server)
    finding = look(role, usernames=[role.name, other.name])["password change"]
    assert (finding["status"], finding["code"]) == ("failed", "role-not-prepared")
    assert "ADMIN OPTION" in finding["seen"]
    assert "GRANT" not in finding["action"]  # only the secret has named that user
    finding = look(role, usernames=[role.name, other.name], tagged=[other])["password change"]
    assert f'GRANT "{other.name}" TO "master_' in finding["action"]


def test_warns_of_sessions_that_have_not_moved(role: Role, look: Look, make_role: Callable[..., Role]) -> None:
    other = make_role(role.server)
    with closing(role.server.connect(other.name, other.password)):
        finding = look(role, other, usernames=[role.name, other.name], tagged=[other])["password change"]
    assert finding["status"] == "warning"
    assert "still has 1 sessions" in finding["action"]


def test_tells_where_the_superuser_may_not_change_passwords(role: Role, look: Look) -> None:
    with closing(role.server.connect(role.server.superuser, role.server.password)) as connection:
        connection.autocommit = True
        connection.cursor().execute("ALTER SYSTEM SET rds.restrict_password_commands = 'on'")
        connection.cursor().execute("SELECT pg_reload_conf()")
    try:
        finding = look(role)["password change"]
    finally:
        role.server.query("ALTER SYSTEM RESET rds.restrict_password_commands")
        role.server.query("SELECT pg_reload_conf()")
    assert (finding["status"], finding["code"]) == ("failed", "password-change-failed")
    assert "GRANT rds_password TO` the user of this login" in finding["action"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"masterarn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:none-AbCdEf"}, "superuser-mismatch"),
        ({"host": "127.0.0.1", "tlsServerName": "localhost"}, "superuser-mismatch"),
    ],
    ids=["not listed", "another host"],
)
def test_names_what_is_wrong_with_the_superusers_secret(
    role: Role, look: Look, changes: dict[str, object], code: str
) -> None:
    found = look(role, **changes)
    assert (found["superuser secret"]["status"], found["superuser secret"]["code"]) == ("failed", code)
    assert found["superuser login"]["status"] == found["password change"]["status"] == "not reached"


def test_needs_a_superuser_where_the_strategy_does(
    role: Role, make_secret: MakeSecret, invoke: Callable[[object], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROTATION_STRATEGY", "superuser")
    report = invoke({"Step": "preflight", "SecretId": make_secret(role.document).arn})
    [finding] = [finding for finding in report["findings"] if finding["check"] == "secret"]
    assert "`masterarn` is missing" in finding["seen"]


def test_tells_that_the_superuser_is_refused(
    role: Role, make_secret: MakeSecret, make_role: Callable[..., Role], invoke: Callable[[object], Any]
) -> None:
    superuser = make_role(role.server, options="CREATEROLE")
    arn = make_secret({**superuser.document, "password": "another"}).arn
    report = invoke({"Step": "preflight", "SecretId": make_secret({**role.document, "masterarn": arn}).arn})
    [finding] = [finding for finding in report["findings"] if finding["check"] == "superuser login"]
    assert (finding["status"], finding["code"]) == ("failed", "login-refused")


class TestUnknownPassword:
    """AWSCURRENT is refused, be it that somebody changed it by hand."""

    def test_is_mended_by_a_superuser_where_the_tag_names_the_user(self, role: Role, look: Look) -> None:
        found = look(role, strategy="superuser", password="not in force")
        assert found["password change"]["code"] == "role-not-prepared"
        assert "Key=rotation:users" in found["password change"]["action"]
        found = look(role, strategy="superuser", password="not in force", tagged=[role])
        assert "No label has the password that is in force" in found["login AWSCURRENT"]["seen"]
        assert "code" not in found["login AWSCURRENT"]
        assert found["password change"]["status"] == "ok"

    def test_is_not_mended_by_alternating_users(self, role: Role, look: Look) -> None:
        found = look(role, password="not in force")
        assert found["login AWSCURRENT"]["code"] == "login-refused"
        assert found["superuser secret"]["status"] == "not reached"

    @pytest.mark.parametrize("label", ["AWSPENDING", "AWSPREVIOUS"])
    def test_is_mended_by_a_superuser_where_another_label_has_it(
        self, label: str, set_scene: Callable[..., Scene], postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ROTATION_STRATEGY", "superuser")
        scene = set_scene(postgres)
        scene.take(scene.begin(), *(["createSecret"] if label == "AWSPENDING" else []))
        scene.role.alter(f"PASSWORD '{scene.secret.document(label)['password']}'")
        found = scene.look()
        assert found["login AWSCURRENT"]["status"] == "failed"
        assert found["password change"]["status"] == "ok"


class TestTheOtherOfTwoUsers:
    """Whom the database does not show to be the secret's own."""

    @pytest.mark.parametrize("label", ["AWSPENDING", "AWSPREVIOUS"])
    def test_is_shown_to_be_by_a_version_that_has_another_label(
        self, label: str, set_scene: Callable[..., Scene], postgres: PostgresServer, make_role: Callable[..., Role]
    ) -> None:
        scene, other = set_scene(postgres), make_role(postgres)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", other.name, scene.superuser.name)
        other.alter("REPLICATION")
        ours = {**scene.secret.document(), "usernames": [scene.role.name, other.name]}
        scene.put(ours)
        assert scene.look()["password change"]["code"] == "role-not-prepared"
        theirs = {**ours, "username": other.name, "password": other.password}
        if label == "AWSPENDING":
            scene.put(theirs, label=label)
        else:
            scene.put(theirs)
            scene.put(ours)
        assert scene.look()["password change"]["status"] == "ok"
        other.alter("PASSWORD 'another'")
        assert scene.look()["password change"]["code"] == "role-not-prepared"

    @pytest.mark.parametrize("pinned", [True, False])
    def test_is_asked_on_another_server_only_where_that_superuser_is_listed(
        self,
        set_scene: Callable[..., Scene],
        postgres: PostgresServer,
        make_role: Callable[..., Role],
        monkeypatch: pytest.MonkeyPatch,
        *,
        pinned: bool,
    ) -> None:
        """Else a writer of the value names a superuser's secret of its own, and the server gets AWSPREVIOUS's login."""
        scene, other = set_scene(postgres), make_role(postgres)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", other.name, scene.superuser.name)
        other.alter("REPLICATION")
        ours = {**scene.secret.document(), "usernames": [scene.role.name, other.name]}
        elsewhere = {"host": "127.0.0.1", "sslmode": "require"}
        replace(scene, secret=scene.master).put({**scene.master.document(), **elsewhere})
        scene.put({**ours, "username": other.name, "password": other.password})
        scene.put({**ours, **elsewhere})
        if not pinned:
            monkeypatch.setenv("SUPERUSER_SECRET_ARNS", "")
        begun, let_in = len(postgres.log()), f"connection authorized: user={other.name}"
        assert scene.look()["password change"].get("code", "") == ("" if pinned else "role-not-prepared")
        assert (let_in in postgres.log()[begun:]) == pinned
        if pinned:
            assert scene.rotate()["username"] == other.name
        else:
            scene.fail(errors.RoleNotPreparedError)
            assert let_in not in postgres.log()[begun:]

    def test_is_told_of_where_it_runs_as_another_role(
        self, set_scene: Callable[..., Scene], postgres: PostgresServer, make_role: Callable[..., Role]
    ) -> None:
        scene, other, group = set_scene(postgres), make_role(postgres), make_role(postgres)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", other.name, scene.superuser.name)
        for one in (scene.role, other):
            scene.query("GRANT {} TO {}", group.name, one.name)
        scene.role.alter(f"SET role = {group.name}")
        scene.put({**scene.secret.document(), "usernames": [scene.role.name, other.name]})
        finding = scene.look()["password change"]
        assert finding["status"] == "warning"
        assert f"{scene.role.name!r} runs as {group.name!r}, and {other.name!r} as {other.name!r}" in finding["action"]
        scene.rotate()
        assert "runs as" in scene.notes()


def test_warns_where_only_the_secret_says_who_its_superuser_is(role: Role, look: Look) -> None:
    finding = look(role, pinned=False)["superuser secret"]
    assert finding["status"] == "warning"
    assert "SUPERUSER_SECRET_ARNS" in finding["action"]
