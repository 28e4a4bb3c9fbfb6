"""The preflight under the strategies that need a superuser: against real servers, and nothing is ever changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Role, Secret

if TYPE_CHECKING:
    from local.servers.postgres import PostgresServer

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

    def look(role: Role, *others: Role, strategy: str = "auto", **changes: object) -> dict[str, dict[str, str]]:
        secret = make_secret({**role.document, **make_superuser(role, *others), **changes})
        monkeypatch.setenv("ROTATION_STRATEGY", strategy)
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
    assert f'GRANT "{role.name}" TO "{role.name}_clone" WITH INHERIT TRUE, SET TRUE; ' in change


def test_has_no_change_to_tell_of_where_only_the_password_changes(role: Role, look: Look) -> None:
    found = look(role, strategy="superuser")
    assert found["password change"]["seen"] == f"the superuser may set the password of '{role.name}'"


def test_asks_for_no_superuser_where_the_user_changes_its_own_password(role: Role, look: Look) -> None:
    found = look(role, strategy="single-user")
    assert found["superuser secret"]["status"] == found["superuser login"]["status"] == "not reached"
    assert found["password change"]["seen"] == "the role may change its own password"


def test_finds_a_setting_that_the_superuser_cannot_copy(role: Role, look: Look) -> None:
    role.alter("SET log_statement = 'all'")
    finding = look(role)["password change"]
    assert (finding["status"], finding["code"]) == ("failed", "role-not-prepared")
    assert f'ALTER ROLE "{role.name}_clone" SET "log_statement" TO \'all\';' in finding["action"]


def test_finds_a_role_that_the_superuser_may_not_alter(role: Role, look: Look, make_role: Callable[..., Role]) -> None:
    other = make_role(role.server)
    finding = look(role, usernames=[role.name, other.name])["password change"]
    assert (finding["status"], finding["code"]) == ("failed", "role-not-prepared")
    assert f'GRANT "{other.name}" TO "master_' in finding["action"]


def test_warns_of_sessions_that_have_not_moved(role: Role, look: Look, make_role: Callable[..., Role]) -> None:
    other = make_role(role.server)
    with closing(role.server.connect(other.name, other.password)):
        finding = look(role, other, usernames=[role.name, other.name])["password change"]
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
    assert 'GRANT rds_password TO "master_' in finding["action"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"masterarn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:none-AbCdEf"}, "secret-not-found"),
        ({"host": "127.0.0.1", "tlsServerName": "localhost"}, "superuser-mismatch"),
    ],
    ids=["not there", "another host"],
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

    def test_is_mended_by_a_superuser(self, role: Role, look: Look) -> None:
        found = look(role, strategy="superuser", password="not in force")
        assert "No label has the password that is in force" in found["login AWSCURRENT"]["seen"]
        assert "code" not in found["login AWSCURRENT"]
        assert found["password change"]["status"] == "ok"

    def test_is_not_mended_by_alternating_users(self, role: Role, look: Look) -> None:
        found = look(role, password="not in force")
        assert found["login AWSCURRENT"]["code"] == "login-refused"
        assert found["superuser secret"]["status"] == "not reached"

    def test_of_a_role_with_attributes_is_not_mended_at_all(self, role: Role, look: Look) -> None:
        role.alter("CREATEROLE")
        finding = look(role, strategy="superuser", password="not in force")["password change"]
        assert finding["code"] == "role-not-prepared"
