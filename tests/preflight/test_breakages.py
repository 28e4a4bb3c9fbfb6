"""Each way to break a stack is found by the preflight, which changes nothing, and named by the rotation's error."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from contextlib import ExitStack, closing
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import pytest

from local import breakages
from local.breakages import (
    BREAKAGES,
    Breakage,
    alter,
    begin_anew,
    change_the_secret,
    demonstrate,
    only_rotate,
    query,
    rewrite,
    rotate,
    use_hba,
)
from local.servers import rotation
from local.servers.stack import MASTER, USERNAME, Stack, run_stack
from local.terminal import Screen
from rotation_lambda import errors, handler, preflight
from rotation_lambda.postgres import login
from rotation_lambda.preflight import database as look_at_database
from rotation_lambda.trust import TAG
from tests.conftest import LEFT_OUT, has
from tests.postgres.test_answers import listener
from tests.test_errors import VERBS
from tests.worlds.clocks import Hasty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

POSSIBLE = {
    name: one for name, one in BREAKAGES.items() if one.part is None or has(one.part, f"a stack broken by `{name}`")
}
CASES = {
    f"{name}: {words}" if words else name: (one, words)
    for name, one in POSSIBLE.items()
    for words in (one.remedies or [""])
}
"""Each breakage with each of its remedies; with none where its hints need none, since nothing goes wrong."""
REFUSED = "password authentication failed"


DENIED: set[str] = set()
"""What the execution role may not do, of the secrets on the shared servers."""


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with run_stack(refuse=lambda operation: (400, "AccessDeniedException") if operation in DENIED else None) as running:
        yield running


@pytest.fixture
def breakage() -> Breakage | None:
    return None


@pytest.fixture
def stack(breakage: Breakage | None, servers: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A stack with a fresh role and secret, on servers of its own where the breakage is the server's."""
    for module in (handler, sys.modules[preflight.run.__module__]):
        monkeypatch.setattr(module, "Deadline", Hasty)
    if breakage and breakage.name == "silent":
        monkeypatch.setattr(login, "CONNECT_TIMEOUT_S", 0.2)
    if breakage and breakage.name == "asleep":
        monkeypatch.setattr(breakages, "WAKES_UP_S", 0.2)
        monkeypatch.setattr(look_at_database, "SLOW_MS", 200)
    with ExitStack() as own:
        running = own.enter_context(run_stack()) if breakage and breakage.of_server else renew(servers)
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("POWERTOOLS_METRICS_DISABLED", "true")  # they are lines on standard output
        yield running


def renew(servers: Stack) -> Stack:
    """Make the role anew, and a secret for it."""
    DENIED.clear()
    password = secrets.token_urlsafe(24)
    servers.postgres.query("DROP DATABASE IF EXISTS nowhere")
    servers.postgres.query(f"DROP ROLE IF EXISTS {USERNAME}")
    servers.postgres.query(f"CREATE ROLE {USERNAME} LOGIN PASSWORD '{password}'")
    document = {"host": "localhost", "port": servers.postgres.port, "username": USERNAME, "password": password}
    return replace(servers, secret_arn=servers.secrets_manager.create_secret(f"app/{uuid4().hex}", document))


@pytest.fixture
def function(stack: Stack) -> Callable[[dict[str, str]], Any]:
    context = SimpleNamespace(
        function_name="rotation",
        memory_limit_in_mb=256,
        invoked_function_arn=stack.secrets_manager.function_arn,
        aws_request_id="test",
        get_remaining_time_in_millis=lambda: 60_000,
    )
    return lambda event: handler.lambda_handler(event, context)  # type: ignore[arg-type]


def state(stack: Stack) -> list[object]:
    """Return labels, values, and the roles where the server runs: what nobody but a rotation may change."""
    client = stack.secrets_manager.client()
    versions = client.describe_secret(SecretId=stack.secret_arn)["VersionIdsToStages"]
    found: list[object] = [versions, values(stack)]
    if stack.postgres.pid is not None:
        with closing(
            stack.postgres.connect("postgres", stack.postgres.password, sslmode="prefer", sslrootcert="")
        ) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT pg_authid::text FROM pg_authid ORDER BY rolname")
            found += cursor.fetchall()
    return found


def values(stack: Stack) -> dict[str, str]:
    client, found = stack.secrets_manager.client(), {}
    for version in client.describe_secret(SecretId=stack.secret_arn)["VersionIdsToStages"]:
        try:
            found[version] = client.get_secret_value(SecretId=stack.secret_arn, VersionId=version)["SecretString"]
        except client.exceptions.ResourceNotFoundException:
            continue
    return found


def look(stack: Stack, function: Callable[[dict[str, str]], Any]) -> dict[str, Any]:
    report: dict[str, Any] = function({"Step": "preflight", "SecretId": stack.secret_arn})
    return report


def lets_in(stack: Stack) -> bool:
    """Tell whether AWSCURRENT logs in to the server itself, whatever stands before it."""
    login = stack.credential()
    database = login.get("dbname", "postgres")
    stack.postgres.connect(
        login["username"], login["password"], dbname=database, sslmode="prefer", sslrootcert=""
    ).close()
    return True


def is_an_instruction(hint: str) -> bool:
    """Tell whether the hint begins with a verb, or with a command."""
    return hint.startswith("`") or hint.partition(" ")[0].rstrip(":") in VERBS


@pytest.mark.parametrize(("breakage", "words"), CASES.values(), ids=CASES)
def test_is_found_before_it_hurts_named_when_it_does_and_over_after_what_the_hint_says(
    breakage: Breakage,
    words: str,
    stack: Stack,
    function: Callable[[dict[str, str]], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a person sees it, who asks for the demonstration."""
    current = stack.credential()["password"]

    def watched(event: dict[str, str]) -> object:
        if event["Step"] != "preflight":
            return function(event)
        before, logged = state(stack), len(stack.postgres.log())
        stack.secrets_manager.calls.clear()
        report = function(event)
        assert state(stack) == before
        assert not {"PutSecretValue", "UpdateSecretVersionStage", "RotateSecret"} & {*stack.secrets_manager.calls}
        known = {json.loads(value)["password"] for value in values(stack).values()}
        assert stack.postgres.log()[logged:].count(REFUSED) <= len(known)
        assert not [password for password in known if password in json.dumps(report)]
        return report

    with ExitStack() as kept:  # until the stack is looked at once more

        def apply(stack: Stack) -> None:
            opened = breakage.apply(stack)
            if isinstance(opened, ExitStack):
                kept.enter_context(opened)

        found = demonstrate(replace(breakage, apply=apply), stack, watched, Screen(), words)
        assert lets_in(stack)
        assert stack.credential()["password"] != current
        assert look(stack, function)["status"] in {"ok", "warning"}
    shown = capsys.readouterr().out
    findings = {finding["check"]: finding for finding in found["preflight"]["findings"]}
    finding, status = findings[breakage.check], found["preflight"]["status"]
    assert (finding["status"], status) == (breakage.status, breakage.status)
    assert bool(finding.get("action")) is (status != "ok")
    assert finding.get("code") == breakage.code
    others = [finding["check"] for finding in findings.values() if finding["status"] == "failed"]
    assert set(others) <= {breakage.check}, [finding["seen"] for finding in findings.values()]
    assert found["rotation"]["code"] == breakage.code, found["rotation"]
    assert found["as_expected"] is True
    hints = [told for told in (finding.get("action"), found["rotation"]["hint"]) if told]
    assert all(words in hint and is_an_instruction(hint) for hint in hints), hints

    assert shown.startswith(f"{breakage.name}: {breakage.what}\n\nThe preflight, in ")
    told = "nothing is in the way" if status == "ok" else rf"{status} +{breakage.check}: .+\n +→ .+"
    assert re.search(f"^{told}", shown, re.MULTILINE)
    if breakage.code:
        assert re.search(rf"^failed +\w+ \({breakage.code}\): .+\n +→ .+", shown, re.MULTILINE)
        assert f"{found['rotation']['step']:<14}failed\n" in shown
        assert f"\nA rotation after what the hint says ({words}):\n" in shown
    assert shown.endswith("\nfinishSecret  done\nall four steps succeeded\n")


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
    breakages.set_the_password(stack)
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


def test_the_list_of_what_was_left_out_is_right() -> None:
    for name, breakage in BREAKAGES.items():
        told = any(f"`{name}`" in sentence for sentence in LEFT_OUT)
        assert told is (name not in POSSIBLE) is bool(breakage.part and breakage.part.missing)


def test_a_healthy_stack_has_neither_warnings_nor_failures(
    stack: Stack, function: Callable[[dict[str, str]], Any]
) -> None:
    before, logged = state(stack), len(stack.postgres.log())
    report = look(stack, function)
    assert report["status"] == "ok"
    assert {finding["check"] for finding in report["findings"] if finding["status"] == "not reached"} == {
        "PutSecretValue",
        "UpdateSecretVersionStage",
        "rotation",
        "login AWSPENDING",
        "login AWSPREVIOUS",
        "superuser secret",
        "superuser login",
    }
    log = stack.postgres.log()[logged:]
    assert log.count("connection authenticated") == 1
    assert log.count(REFUSED) == 0
    assert state(stack) == before


@pytest.mark.parametrize("breakage", [replace(BREAKAGES["no-login"], code="login-refused")], ids=["no-login"])
def test_the_demonstration_tells_when_something_else_comes_out(
    breakage: Breakage, stack: Stack, function: Callable[[dict[str, str]], Any]
) -> None:
    assert demonstrate(breakage, stack, function, Screen())["as_expected"] is False
