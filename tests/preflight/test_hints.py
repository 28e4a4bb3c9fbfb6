"""What a hint says is an instruction that works: done, it lets the rotation succeed, or the check end well."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import psycopg2
import pytest

from local.breakages import (
    END_SESSIONS,
    alter,
    begin_anew,
    change_the_secret,
    only_rotate,
    query,
    rewrite,
    rotate,
    set_the_password,
    use_hba,
)
from local.servers import rotation
from local.servers.postgres import run_postgres
from local.servers.stack import MASTER, USERNAME, Stack
from local.terminal import Screen
from rotation_lambda import errors
from rotation_lambda.trust import TAG
from tests.postgres.test_answers import listener
from tests.preflight.conftest import DENIED, deploy, is_an_instruction, lets_in, look

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Hint(NamedTuple):
    """A hint that no breakage shows: its error's code, its words, what leads to it, and what it says.

    `apply` comes after the rotation has begun; it returns what has to stay open meanwhile.
    """

    code: str
    words: str
    apply: Callable[[Stack], object]
    remedy: Callable[[Stack], object]
    steps: Sequence[str] = rotation.STEPS


def both(*parts: Callable[[Stack], object]) -> Callable[[Stack], object]:
    return lambda stack: [part(stack) for part in parts]


def setenv(**variables: str) -> Callable[[Stack], object]:
    return lambda _: os.environ.update(variables)


def database(name: str, *statements: str) -> Callable[[Stack], object]:
    """Return what makes a database, and names it in the secret."""
    return both(query(f"CREATE DATABASE {name}"), *map(query, statements), rewrite(dbname=name))


def want_certificate(stack: Stack) -> None:
    stack.postgres.configure(ssl_ca_file=str(stack.postgres.ca_file))
    use_hba(f"hostssl all {USERNAME} all scram-sha-256 clientcert=verify-ca")(stack)


def trust_any_certificate(stack: Stack) -> None:
    os.environ |= {"PGSSLROOTCERT": "system", "SSL_CERT_FILE": str(stack.postgres.ca_file)}
    rewrite(sslmode="verify-ca")(stack)


def meet_a_stranger(stack: Stack) -> ExitStack:
    kept = ExitStack()
    rewrite(port=kept.enter_context(listener(b"HTTP/1.1 400 Bad Request\r\n\r\n")))(stack)
    return kept


def fill(stack: Stack) -> ExitStack:
    """Take every connection, those that are kept for superusers too."""
    kept, password, postgres = ExitStack(), str(stack.credential()["password"]), stack.postgres
    for _ in range(8):
        kept.callback(postgres.connect(USERNAME, password).close)
    with suppress(psycopg2.OperationalError):
        while True:
            kept.callback(postgres.connect(postgres.superuser, postgres.password).close)
    return kept


def lead_to_a_standby(stack: Stack) -> ExitStack:
    kept, password = ExitStack(), stack.credential()["password"]
    standby = kept.enter_context(run_postgres())
    standby.query(f"CREATE ROLE {USERNAME} LOGIN PASSWORD '{password}'")
    (standby.data / "standby.signal").touch()
    standby.restart()
    rewrite(port=standby.port, sslmode="require")(stack)
    return kept


def create_the_user(stack: Stack) -> None:
    stack.postgres.query(f"CREATE ROLE {USERNAME} LOGIN PASSWORD %s", [stack.credential()["password"]])


def delete(stack: Stack) -> None:
    stack.secrets_manager.client().delete_secret(SecretId=stack.secret_arn)


def restore(stack: Stack) -> None:
    stack.secrets_manager.client().restore_secret(SecretId=stack.secret_arn)


def abandon(stack: Stack) -> None:
    rotation.detach_pending(stack.secrets_manager.client(), stack.secret_arn)


def make_previous(stack: Stack) -> None:
    """Leave AWSPREVIOUS to AWSPENDING's version, as a rotation to it and another one do."""
    client = stack.secrets_manager.client()
    token = rotation.labels(client, stack.secret_arn).versions["AWSPENDING"]
    client.update_secret_version_stage(SecretId=stack.secret_arn, VersionStage="AWSPREVIOUS", MoveToVersionId=token)
    abandon(stack)


def name_users(stack: Stack) -> None:
    tag = {"Key": TAG, "Value": USERNAME}
    stack.secrets_manager.client().tag_resource(SecretId=stack.secret_arn, Tags=[tag])


def copy_the_password(stack: Stack) -> None:
    rewrite(note=f"do not lose {stack.credential()['password']}!")(stack)


def name_superuser(**changes: object) -> Callable[[Stack], object]:
    """Return what names a superuser of this server in `masterarn`, whose secret has these changes."""

    def apply(stack: Stack) -> None:
        stack.postgres.query(f"DROP ROLE IF EXISTS {MASTER}")
        name = f"{MASTER}/{uuid4().hex}"
        password = secrets.token_urlsafe(24)
        stack.postgres.query(f"CREATE ROLE {MASTER} LOGIN CREATEROLE PASSWORD '{password}'")
        stack.postgres.query(f"GRANT {USERNAME} TO {MASTER} WITH ADMIN OPTION")
        document = {**stack.credential(), "username": MASTER, "password": password, **changes}
        rewrite(masterarn=stack.secrets_manager.create_secret(name, document))(stack)

    return apply


HINTS = {
    "tls-wanted": Hint("no-hba-entry", """Remove `"ssl": false`""", rewrite(ssl=False), change_the_secret(ssl=None)),
    "database-limit": Hint(
        "login-not-allowed",
        "`ALTER DATABASE … CONNECTION LIMIT n`",
        database("limited", "ALTER DATABASE limited CONNECTION LIMIT 0"),
        query("ALTER DATABASE limited CONNECTION LIMIT 10"),
    ),
    "closed-database": Hint(
        "login-not-allowed",
        "`ALTER DATABASE … ALLOW_CONNECTIONS true`",
        database("closed", "ALTER DATABASE closed ALLOW_CONNECTIONS false"),
        query("ALTER DATABASE closed ALLOW_CONNECTIONS true"),
    ),
    "half-dropped-database": Hint(
        "login-not-allowed",
        "Drop the database, whose removal was interrupted, and create it again",
        database("half", "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half'"),
        both(query("DROP DATABASE half"), query("CREATE DATABASE half")),
    ),
    "certificate": Hint("authentication-method", "Remove clientcert", want_certificate, use_hba()),
    "ident": Hint(
        "authentication-method",
        "Ask for scram-sha-256 in pg_hba.conf",
        use_hba(f"hostssl all {USERNAME} all ident"),
        use_hba(),
    ),
    "any-certificate": Hint(
        "tls-failed", "Set PGSSLMODE, or `sslmode`", trust_any_certificate, change_the_secret(sslmode="verify-full")
    ),
    "stranger": Hint(
        "connection-failed",
        "Correct `host` and `port`",
        meet_a_stranger,
        lambda stack: change_the_secret(port=stack.postgres.port)(stack),
    ),
    "full-to-the-last": Hint("database-not-ready", "end sessions in pg_stat_activity", fill, END_SESSIONS),
    "reader": Hint(
        "database-read-only",
        "Name the cluster's writer endpoint in `host` or `rotationHost`",
        lead_to_a_standby,
        lambda stack: change_the_secret(rotationHost="localhost", rotationPort=stack.postgres.port)(stack),
    ),
    "no-user": Hint("login-refused", "Create it", query(f"DROP ROLE {USERNAME}"), create_the_user),
    "deleted": Hint("secret-deleted", "`aws secretsmanager restore-secret", delete, restore),
    "abandoned": Hint("version-not-staged", "Start a new one", abandon, only_rotate),
    "late": Hint("version-not-pending", "Do nothing", make_previous, only_rotate),
    "empty": Hint("missing-version", "again from createSecret", only_rotate, only_rotate, rotation.STEPS[1:]),
    "host-and-port": Hint(
        "invalid-secret", "Give the bare name in `host`", rewrite(host="localhost:5432"), rewrite(host="localhost")
    ),
    "copy": Hint("invalid-secret", "or remove it", copy_the_password, rewrite(note=None)),
    "allowed-copy": Hint(
        "invalid-secret", "add its path to `allowStaleCopies`", copy_the_password, rewrite(allowStaleCopies=["note"])
    ),
    "denied": Hint(
        "access-denied",
        "Grant the action",
        lambda _: DENIED.add("PutSecretValue"),
        lambda _: DENIED.clear(),
    ),
    "variable": Hint(
        "invalid-configuration",
        "Correct this environment variable",
        setenv(PASSWORD_LENGTH="few"),
        setenv(PASSWORD_LENGTH="32"),
    ),
    "no-superuser": Hint(
        "invalid-secret",
        "set ROTATION_STRATEGY=single-user",
        setenv(ROTATION_STRATEGY="superuser"),
        setenv(ROTATION_STRATEGY="single-user"),
    ),
    "no-superuser-named": Hint(
        "invalid-secret", "Add `masterarn`", setenv(ROTATION_STRATEGY="superuser"), name_superuser()
    ),
    "another-server's-superuser": Hint(
        "superuser-mismatch",
        "Set `masterarn`",
        both(setenv(ROTATION_STRATEGY="superuser"), name_superuser(host="127.0.0.1")),
        both(begin_anew, name_superuser()),
    ),
    "unlisted-superuser": Hint(
        "superuser-mismatch",
        "have SUPERUSER_SECRET_ARNS list it",
        both(
            lambda stack: setenv(ROTATION_STRATEGY="superuser", SUPERUSER_SECRET_ARNS=stack.secret_arn)(stack),
            name_superuser(),
        ),
        lambda stack: setenv(SUPERUSER_SECRET_ARNS=stack.credential()["masterarn"])(stack),
    ),
    "its-own-superuser": Hint(
        "superuser-mismatch",
        "remove `masterarn`",
        both(setenv(ROTATION_STRATEGY="auto"), lambda stack: rewrite(masterarn=stack.secret_arn)(stack)),
        change_the_secret(masterarn=None),
    ),
    "unknown-users": Hint(
        "role-not-prepared",
        "tag-resource --secret-id SECRET --tags 'Key=rotation:users,Value=USERS'",
        both(setenv(ROTATION_STRATEGY="superuser"), name_superuser(), alter("PASSWORD 'set elsewhere'")),
        name_users,
    ),
    "superuser-itself": Hint(
        "role-not-prepared",
        "remove `masterarn`",
        both(setenv(ROTATION_STRATEGY="auto"), name_superuser(), alter("SUPERUSER")),
        change_the_secret(masterarn=None),
    ),
}


@pytest.mark.costly
@pytest.mark.parametrize("hint", HINTS.values(), ids=HINTS)
def test_a_rotation_succeeds_after_what_other_hints_say(
    hint: Hint, stack: Stack, function: Callable[[dict[str, str]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SSL_CERT_FILE": "", "PASSWORD_LENGTH": "32", "SUPERUSER_SECRET_ARNS": ""}.items():
        monkeypatch.setenv(name, value)
    manager, current = stack.secrets_manager, stack.credential()["password"]
    token = rotation.begin(manager.client(), stack.secret_arn, manager.function_arn)
    with ExitStack() as kept:
        opened = hint.apply(stack)
        if isinstance(opened, ExitStack):
            kept.enter_context(opened)
        with pytest.raises(errors.RotationError) as caught:
            rotation.invoke_steps(function, stack.secret_arn, token, steps=hint.steps)
        told = caught.value
        assert (told.code, hint.words in told.hint, is_an_instruction(told.hint)) == (hint.code, True, True), told
        hint.remedy(stack)
        assert rotate(stack, function, Screen()) == ("finishSecret", None)
    assert lets_in(stack)
    assert stack.credential()["password"] != current


def test_a_function_whose_timeout_is_too_short_rotates_with_60_seconds(stack: Stack) -> None:
    manager = stack.secrets_manager
    token = rotation.begin(manager.client(), stack.secret_arn, manager.function_arn)
    with pytest.raises(errors.ConfigurationError) as caught:
        rotation.invoke_steps(deploy(stack, timeout_s=3), stack.secret_arn, token)
    assert "Set the function's Timeout to 60 seconds" in caught.value.hint
    assert rotate(stack, deploy(stack, timeout_s=60), Screen()) == ("finishSecret", None)


@pytest.mark.parametrize(
    ("code", "words", "cut"),
    [("invalid-event", "Pass the secret's whole ARN", ":secret:"), ("secret-not-found", "Check the secret's ARN", "-")],
)
def test_an_invocation_by_hand_succeeds_with_the_secrets_whole_arn(
    code: str, words: str, cut: str, stack: Stack, function: Callable[[dict[str, str]], Any]
) -> None:
    manager, arn = stack.secrets_manager, stack.secret_arn
    token = rotation.begin(manager.client(), arn, manager.function_arn)
    with pytest.raises(errors.RotationError) as caught:
        rotation.invoke_steps(function, f"{arn.rpartition(cut)[0]}{cut}", token)
    assert (caught.value.code, words in caught.value.hint) == (code, True)
    rotation.invoke_steps(function, arn, token)
    assert lets_in(stack)


class Advice(NamedTuple):
    """What a preflight says of a check that does not stop a rotation: its words, what leads to it, and what it says."""

    check: str
    words: str
    apply: Callable[[Stack], object]
    remedy: Callable[[Stack], object]


def configure(**settings: str | None) -> Callable[[Stack], object]:
    return lambda stack: stack.postgres.configure(**settings)


ADVICE = {
    "soon-expired-role": Advice(
        "role",
        "`ALTER ROLE … VALID UNTIL 'infinity'`",
        alter("VALID UNTIL 'tomorrow'"),
        alter("VALID UNTIL 'infinity'"),
    ),
    "one-connection": Advice(
        "connections",
        "by one, `ALTER ROLE … CONNECTION LIMIT n`",
        alter("CONNECTION LIMIT 1"),
        alter("CONNECTION LIMIT 2"),
    ),
    "few-iterations": Advice(
        "password encryption",
        "`ALTER ROLE … RESET scram_iterations`",
        alter("SET scram_iterations = 1000"),
        alter("RESET scram_iterations"),
    ),
    "md5-by-default": Advice(
        "password encryption",
        "Set `password_encryption` to `scram-sha-256`",
        configure(password_encryption="md5"),
        configure(password_encryption="scram-sha-256"),
    ),
    "without-tls": Advice(
        "TLS",
        "remove `ssl`",
        both(use_hba("host all all all scram-sha-256"), rewrite(ssl=False)),
        both(rewrite(ssl=None), use_hba()),
    ),
    "unverified": Advice("TLS", "Use verify-full", rewrite(sslmode="require"), rewrite(sslmode="verify-full")),
    "weak": Advice("new password", "Raise PASSWORD_LENGTH", setenv(PASSWORD_LENGTH="8"), setenv(PASSWORD_LENGTH="32")),
    "not-pinned": Advice(
        "superuser secret",
        "Set SUPERUSER_SECRET_ARNS",
        both(setenv(ROTATION_STRATEGY="superuser"), name_superuser()),
        lambda stack: setenv(SUPERUSER_SECRET_ARNS=stack.credential()["masterarn"])(stack),
    ),
}


@pytest.mark.costly
@pytest.mark.parametrize("advice", ADVICE.values(), ids=ADVICE)
def test_a_check_is_ok_after_what_its_warning_says(
    advice: Advice, stack: Stack, function: Callable[[dict[str, str]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PASSWORD_LENGTH": "32", "SUPERUSER_SECRET_ARNS": ""}.items():
        monkeypatch.setenv(name, value)

    def ask() -> dict[str, str]:
        findings: list[dict[str, str]] = look(stack, function)["findings"]
        return next(finding for finding in findings if finding["check"] == advice.check)

    advice.apply(stack)
    warned = ask()
    assert warned["status"] == "warning", warned
    assert advice.words in warned["action"]
    assert is_an_instruction(warned["action"])
    advice.remedy(stack)
    assert ask()["status"] == "ok"


def test_md5_is_left_behind_as_the_preflight_says(stack: Stack, function: Callable[[dict[str, str]], Any]) -> None:
    """In this order: asked for SCRAM before the rotation, the server would refuse who has an md5 verifier."""
    postgres = stack.postgres
    postgres.configure(password_encryption="md5")
    set_the_password(stack)
    use_hba("hostssl all all all md5")(stack)
    told = {finding["check"]: finding.get("action", "") for finding in look(stack, function)["findings"]}
    assert told["authentication"] == (
        "Set password_encryption to scram-sha-256 on the server, and rotate. Ask for it in pg_hba.conf afterwards."
    )
    postgres.configure(password_encryption="scram-sha-256")
    assert rotate(stack, function, Screen()) == ("finishSecret", None)
    use_hba()(stack)
    assert lets_in(stack)
    assert look(stack, function)["status"] == "ok"
