"""Ways to break the local stack as real ones break: one list for the demonstration and for the tests."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import trustme
from psycopg2 import sql

from local.servers import rotation
from local.servers.installation import Part, find_module
from local.servers.pgbouncer import PGBOUNCER, run_pgbouncer
from local.servers.proxy import Stall, run_proxy
from local.servers.stack import USERNAME
from rotation_lambda.errors import RotationError
from rotation_lambda.preflight import Finding, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from local.servers.proxy import Passage
    from local.servers.stack import Stack
    from local.terminal import Screen

STYLES = {Status.WARNING: "yellow", Status.FAILED: "red"}
WAKES_UP_S = 15.0
"""How long the server takes to wake up; Aurora takes about as long after a short pause."""

CREDCHECK = Part(
    "credcheck",
    find_module("credcheck"),
    "`apt-get install postgresql-17-credcheck`, on Debian 13 or newer or from PostgreSQL's own repository",
)


@dataclass(frozen=True, slots=True)
class Breakage:
    """One way to break a stack: the check of the preflight that finds it, and the code that a rotation ends in.

    `code` is None where a rotation succeeds all the same. `apply` returns what has to stay open meanwhile. With
    `of_server` it is the whole server that breaks, and not only the role or the secret. `part` is what some machines
    lack for it.

    `remedies` do what the hints say and nothing else, each by the words of the hints that call for it. After any one of
    them a rotation succeeds.
    """

    name: str
    what: str
    check: str
    status: str
    code: str | None
    apply: Callable[[Stack], object]
    remedies: Mapping[str, Callable[[Stack], object]] = field(default_factory=dict)
    of_server: bool = False
    part: Part | None = None

    @contextmanager
    def broken(self, stack: Stack) -> Iterator[None]:
        """Break the stack, and end what runs only to keep it so; NotInstalledError where the machine lacks the part."""
        kept = self.apply(stack)
        with kept if isinstance(kept, ExitStack) else ExitStack():
            yield


def alter(clause: str) -> Callable[[Stack], object]:
    """Return what alters the user."""

    def apply(stack: Stack) -> None:
        stack.postgres.query(sql.SQL("ALTER ROLE {} {}").format(sql.Identifier(USERNAME), sql.SQL(clause)))

    return apply


def query(statement: str) -> Callable[[Stack], object]:
    """Return what has the superuser run a statement."""
    return lambda stack: stack.postgres.query(statement)


def use_hba(*lines: str) -> Callable[[Stack], object]:
    """Return what gives pg_hba.conf these lines; with none, those of a new server."""
    return lambda stack: stack.postgres.use_hba(*(lines or [stack.postgres.default_hba]))


def rewrite(**changes: object) -> Callable[[Stack], object]:
    """Return what makes a new AWSCURRENT of the old one, which becomes AWSPREVIOUS; None removes a key."""

    def apply(stack: Stack) -> None:
        document = {key: value for key, value in {**stack.credential(), **changes}.items() if value is not None}
        value = json.dumps(document)
        stack.secrets_manager.client().put_secret_value(SecretId=stack.secret_arn, SecretString=value)

    return apply


def begin_anew(stack: Stack) -> None:
    """Do as docs/runbook.md#start-with-a-new-version says, but for the last command, which is the next rotation."""
    rotation.cancel(stack.secrets_manager.client(), stack.secret_arn)


def change_the_secret(**changes: object) -> Callable[[Stack], object]:
    """Return what does as docs/runbook.md#change-the-secret says, but for the last command, as above."""

    def apply(stack: Stack) -> None:
        begin_anew(stack)
        rewrite(**changes)(stack)

    return apply


def only_rotate(_: Stack) -> None:
    """Do nothing, where the hint asks for time, or for the rotation that follows."""


def set_the_password(stack: Stack) -> None:
    """Do as docs/runbook.md#applications-are-locked-out says in the end: give the user AWSCURRENT's password."""
    password = sql.Literal(stack.credential()["password"])
    stack.postgres.query(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(USERNAME), password))


END_SESSIONS = query(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{USERNAME}'")


@cache
def _authority() -> trustme.CA:
    """Make the one other authority of this process."""
    return trustme.CA()


def _certify(*, trusted: bool, **how: Any) -> Callable[[Stack], object]:  # noqa: ANN401 - trustme's own
    """Return what gives the server a certificate of another authority, which the function trusts or not."""

    def apply(stack: Stack) -> None:
        authority, server = _authority(), stack.postgres
        leaf = authority.issue_cert("localhost", **how)
        folder = server.data.parent
        (folder / "server.key").write_bytes(leaf.private_key_pem.bytes())
        (folder / "server.pem").write_bytes(leaf.cert_chain_pems[0].bytes())
        if trusted:
            authority.cert_pem.write_to_path(str(server.ca_file))
        server.restart()

    return apply


def _trust(stack: Stack) -> None:
    file = stack.postgres.data.parent / "authority.pem"
    _authority().cert_pem.write_to_path(str(file))
    os.environ["PGSSLROOTCERT"] = str(file)


def _without_tls(stack: Stack) -> None:
    stack.postgres.query("ALTER SYSTEM SET ssl = off")
    (stack.postgres.data / "pg_hba.conf").write_text("host all all all scram-sha-256\n")
    stack.postgres.restart()


def _with_tls(stack: Stack) -> None:
    superuser, password = stack.postgres.superuser, stack.postgres.password
    with closing(stack.postgres.connect(superuser, password, sslmode="disable")) as connection:
        connection.autocommit = True
        connection.cursor().execute("ALTER SYSTEM RESET ssl")
    stack.postgres.restart()


def _rds_iam(stack: Stack) -> None:
    """Do as RDS does: its pg_hba.conf asks members of rds_iam for a token, which travels as a clear-text password."""
    stack.postgres.query("CREATE ROLE rds_iam")
    stack.postgres.query(sql.SQL("GRANT rds_iam TO {}").format(sql.Identifier(USERNAME)))
    stack.postgres.use_hba("hostssl all +rds_iam all password", stack.postgres.default_hba)


def _hold(stack: Stack, sessions: int) -> ExitStack:
    held, password = ExitStack(), str(stack.credential()["password"])
    for _ in range(sessions):
        held.callback(stack.postgres.connect(USERNAME, password).close)
    return held


def _limited(stack: Stack) -> ExitStack:
    alter("CONNECTION LIMIT 3")(stack)
    return _hold(stack, 3)


def _full(stack: Stack) -> ExitStack:
    stack.postgres.query("ALTER SYSTEM SET max_connections = 8")
    stack.postgres.restart()
    return _hold(stack, 5)  # three are the superusers'


def _raise_max_connections(stack: Stack) -> None:
    stack.postgres.query("ALTER SYSTEM RESET max_connections")
    stack.postgres.restart()


def _pooled(stack: Stack) -> ExitStack:
    """Put PgBouncer before the server: its list has AWSCURRENT's password, and no other ever."""
    kept, password = ExitStack(), str(stack.credential()["password"])
    rewrite(port=kept.enter_context(run_pgbouncer(stack.postgres, {USERNAME: password})))(stack)
    return kept


def _past_the_pooler(stack: Stack) -> None:
    change_the_secret(rotationHost=stack.postgres.host, rotationPort=stack.postgres.port)(stack)


def _silent(stack: Stack) -> ExitStack:
    """Put a relay before the server that passes nothing on until _let_in(), as a security group does."""
    kept, opened = ExitStack(), _opened(stack)
    opened.unlink(missing_ok=True)

    def drop(_: Passage) -> None:
        if not opened.exists():
            raise Stall

    rewrite(port=kept.enter_context(run_proxy("127.0.0.1", stack.postgres.port, drop)).port)(stack)
    return kept


def _let_in(stack: Stack) -> None:
    _opened(stack).touch()


def _opened(stack: Stack) -> Path:
    return stack.postgres.data.parent / "security-group-lets-in"


def _asleep(stack: Stack) -> ExitStack:
    """Put a relay before the server that holds connections as a paused cluster does: for the preflight, and again."""
    kept, awake = ExitStack(), dict[bool, float]()

    def hold(passage: Passage) -> None:
        if passage.direction == "ask" and not passage.position:
            wakes_up = awake.setdefault(_pending(stack) != "", time.monotonic() + WAKES_UP_S)
            time.sleep(max(0.0, wakes_up - time.monotonic()))

    rewrite(port=kept.enter_context(run_proxy("127.0.0.1", stack.postgres.port, hold)).port)(stack)
    return kept


def _without_standby(stack: Stack) -> None:
    stack.postgres.configure(synchronous_commit="on", synchronous_standby_names="away")


def _credcheck(stack: Stack) -> None:
    """Load credcheck as it comes: credcheck.encrypted_password_allowed is off."""
    module = CREDCHECK.find()
    libraries = f"$libdir:{module.parent}"
    stack.postgres.configure(dynamic_library_path=libraries, shared_preload_libraries=module.stem)
    stack.postgres.restart()


def _let_credcheck_take_verifiers(stack: Stack) -> None:
    stack.postgres.configure(**{"credcheck.encrypted_password_allowed": "on"})


def _standby(stack: Stack) -> None:
    stack.postgres.stop()
    (stack.postgres.data / "standby.signal").touch()
    stack.postgres.start()


def rotate_secret(stack: Stack) -> None:
    """Do as `aws secretsmanager rotate-secret --secret-id ID --rotation-lambda-arn ARN` does."""
    rotation.begin(stack.secrets_manager.client(), stack.secret_arn, stack.secrets_manager.function_arn)


def _pend(**changes: object) -> Callable[[Stack], object]:
    """Return what leaves AWSPENDING on a version of its own, with a value."""

    def apply(stack: Stack) -> None:
        rotate_secret(stack)
        value = json.dumps({**stack.credential(), **changes})
        stack.secrets_manager.client().put_secret_value(
            SecretId=stack.secret_arn,
            ClientRequestToken=_pending(stack),
            SecretString=value,
            VersionStages=["AWSPENDING"],
        )

    return apply


def _interrupted(stack: Stack) -> None:
    _pend(password="set-by-setSecret")(stack)  # noqa: S106 - gone with the stack
    alter("PASSWORD 'set-by-setSecret'")(stack)


def _disabled(stack: Stack) -> None:
    rotate_secret(stack)
    stack.secrets_manager.client().cancel_rotate_secret(SecretId=stack.secret_arn)


BREAKAGES: Mapping[str, Breakage] = {
    breakage.name: breakage
    for breakage in (
        Breakage(
            "disabled",
            "Rotation is switched off for the secret.",
            "rotation",
            "failed",
            "rotation-disabled",
            _disabled,
            remedies={"--rotation-lambda-arn ARN": rotate_secret},
        ),
        Breakage(
            "stuck",
            "AWSPENDING was left on an empty version.",
            "labels",
            "warning",
            None,
            rotate_secret,
            remedies={"`aws secretsmanager rotate-secret": only_rotate},
        ),
        Breakage(
            "foreign",
            "AWSPENDING holds a credential for another role.",
            "login AWSPENDING",
            "failed",
            "credential-mismatch",
            _pend(username="postgres"),
            remedies={"Start with a new version": begin_anew},
        ),
        Breakage(
            "misspelt",
            "The secret's `ssl` has a word of `sslmode`.",
            "secret",
            "failed",
            "invalid-secret",
            rewrite(ssl="verify-full"),
            remedies={"Remove `ssl`": rewrite(ssl=None, sslmode="verify-full")},
        ),
        Breakage(
            "dns",
            "DNS does not know the host.",
            "DNS",
            "failed",
            "host-not-found",
            rewrite(host="nowhere.invalid"),
            remedies={"Correct `host`": change_the_secret(host="localhost")},
        ),
        Breakage(
            "down",
            "No server listens on the port.",
            "TCP",
            "failed",
            "connection-failed",
            lambda s: s.postgres.stop(),
            remedies={"Check that the server runs": lambda stack: stack.postgres.start()},
            of_server=True,
        ),
        Breakage(
            "silent",
            "A server listens that never answers.",
            "login AWSCURRENT",
            "failed",
            "database-timeout",
            _silent,
            remedies={"Let the function's security group into the database's": _let_in},
        ),
        Breakage(
            "asleep",
            f"The server answers after {WAKES_UP_S:.0f} seconds, as a paused Aurora cluster does.",
            "login AWSCURRENT",
            "warning",
            None,
            _asleep,
            remedies={"Timeout to 60": only_rotate},
        ),
        Breakage(
            "no-tls",
            "The server offers no TLS.",
            "TLS",
            "failed",
            "tls-failed",
            _without_tls,
            remedies={"Switch TLS on": _with_tls, '`"ssl": false`': change_the_secret(ssl=False)},
            of_server=True,
        ),
        Breakage(
            "unknown-ca",
            "The server's certificate is of an authority that is not trusted.",
            "TLS",
            "failed",
            "tls-failed",
            _certify(trusted=False),
            remedies={"Set PGSSLROOTCERT": _trust},
            of_server=True,
        ),
        Breakage(
            "wrong-name",
            "`host` is a name or address that the server's certificate does not have.",
            "TLS",
            "failed",
            "tls-failed",
            rewrite(host="127.0.0.1"),
            remedies={
                "Use localhost as `host`": change_the_secret(host="localhost"),
                "`tlsServerName`": change_the_secret(tlsServerName="localhost"),
            },
        ),
        Breakage(
            "expired-certificate",
            "The server's certificate has expired.",
            "TLS",
            "failed",
            "tls-failed",
            _certify(trusted=True, not_after=datetime.now(UTC) - timedelta(days=2)),
            remedies={"Renew the server's certificate": _certify(trusted=True)},
            of_server=True,
        ),
        Breakage(
            "no-hba-entry",
            "pg_hba.conf has no line for the role.",
            "authentication",
            "failed",
            "no-hba-entry",
            use_hba("hostssl all nobody all scram-sha-256"),
            remedies={"Add a line": use_hba(f"hostssl all {USERNAME} 127.0.0.1/32 scram-sha-256")},
            of_server=True,
        ),
        Breakage(
            "trust",
            "pg_hba.conf lets every user in.",
            "authentication",
            "failed",
            "authentication-method",
            use_hba("hostssl all all all trust"),
            remedies={"Ask for scram-sha-256": use_hba("hostssl all all all scram-sha-256")},
            of_server=True,
        ),
        Breakage(
            "rds-iam",
            "The role is a member of rds_iam, so that it has to log in by token.",
            "authentication",
            "failed",
            "authentication-method",
            _rds_iam,
            remedies={
                "`REVOKE rds_iam FROM`": query(f"REVOKE rds_iam FROM {USERNAME}"),
                "ask for scram-sha-256 in pg_hba.conf": use_hba(),
            },
            of_server=True,
        ),
        Breakage(
            "expired-role",
            "The role is past its VALID UNTIL.",
            "login AWSCURRENT",
            "failed",
            "login-refused",
            alter("VALID UNTIL '2020-01-01'"),
            remedies={"extend it": alter("VALID UNTIL 'infinity'")},
        ),
        Breakage(
            "two-secrets",
            "A second secret for the same role has rotated, and changed its password.",
            "login AWSCURRENT",
            "failed",
            "login-refused",
            alter("PASSWORD 'of the second secret'"),
            remedies={"set the password": set_the_password},
        ),
        Breakage(
            "restored-snapshot",
            "The database was restored from a snapshot of before the last rotation.",
            "login AWSCURRENT",
            "failed",
            None,
            rewrite(password="of the last rotation"),  # noqa: S106 - gone with the stack
            remedies={"`aws secretsmanager rotate-secret": only_rotate},
        ),
        Breakage(
            "interrupted",
            "A rotation stopped between setSecret and finishSecret.",
            "login AWSCURRENT",
            "failed",
            None,
            _interrupted,
            remedies={"`aws secretsmanager rotate-secret": only_rotate},
        ),
        Breakage(
            "no-login",
            "The role is NOLOGIN.",
            "login AWSCURRENT",
            "failed",
            "login-not-allowed",
            alter("NOLOGIN"),
            remedies={"`ALTER ROLE … LOGIN`": alter("LOGIN")},
        ),
        Breakage(
            "no-database",
            "The secret's `dbname` does not exist.",
            "login AWSCURRENT",
            "failed",
            "login-not-allowed",
            rewrite(dbname="nowhere"),
            remedies={
                "Correct `dbname`": change_the_secret(dbname="postgres"),
                "create the database": query("CREATE DATABASE nowhere"),
            },
        ),
        Breakage(
            "no-connect",
            "The role may not connect to the database.",
            "login AWSCURRENT",
            "failed",
            "login-not-allowed",
            lambda stack: stack.postgres.query("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC"),
            remedies={
                "`GRANT CONNECT ON DATABASE … TO`": query(f"GRANT CONNECT ON DATABASE postgres TO {USERNAME}"),
                "set `dbname`": change_the_secret(dbname="template1"),
            },
            of_server=True,
        ),
        Breakage(
            "role-limit",
            "The role has reached its connection limit.",
            "login AWSCURRENT",
            "failed",
            "login-not-allowed",
            _limited,
            remedies={
                "`ALTER ROLE … CONNECTION LIMIT n`": alter("CONNECTION LIMIT 6"),
                "end those of its sessions": END_SESSIONS,
            },
        ),
        Breakage(
            "full",
            "The server has no connection left.",
            "login AWSCURRENT",
            "failed",
            "login-not-allowed",
            _full,
            remedies={"Raise max_connections": _raise_max_connections, "end those sessions": END_SESSIONS},
            of_server=True,
        ),
        Breakage(
            "pooler",
            "`host` and `port` are those of a pooler (PgBouncer).",
            "login AWSCURRENT",
            "failed",
            "pooler-in-between",
            _pooled,
            remedies={"Set `rotationHost` (and `rotationPort`)": _past_the_pooler},
            part=PGBOUNCER,
        ),
        Breakage(
            "credcheck",
            "A password-checking extension (credcheck) wants to see passwords in plain text.",
            "password change",
            "failed",
            "password-change-failed",
            _credcheck,
            remedies={"credcheck.encrypted_password_allowed = on": _let_credcheck_take_verifiers},
            of_server=True,
            part=CREDCHECK,
        ),
        Breakage(
            "standby",
            "The host leads to a standby, as after a failover.",
            "primary",
            "failed",
            "database-read-only",
            _standby,
            remedies={"wait until it leads to the new writer": query("SELECT pg_promote()")},
            of_server=True,
        ),
        Breakage(
            "sync-standby",
            "COMMIT waits for a standby that is away (synchronous_standby_names).",
            "primary",
            "ok",
            None,
            _without_standby,
            of_server=True,
        ),
    )
}


def demonstrate(
    breakage: Breakage, stack: Stack, function: Callable[[dict[str, str]], Any], screen: Screen, words: str = ""
) -> dict[str, Any]:
    """Break the stack; show what the preflight finds, what a rotation ends in, and that it succeeds after the remedy.

    The remedy is the one for these `words`, or else the first. Each result is shown as soon as it is known. Returns all
    of it, and whether it is what the breakage says; it is so only where nothing else came out.
    """
    words = words or next(iter(breakage.remedies), "")
    screen.say(f"{breakage.name}: {breakage.what}", style="bold")
    with breakage.broken(stack):
        screen.say()
        with screen.waiting("Preflight: waiting for answers"):
            report = function({"Step": "preflight", "SecretId": stack.secret_arn})
        screen.row(f"The preflight, in {report['seconds']} seconds:")
        screen.say()
        for found in report["findings"]:
            if found["status"] in STYLES:
                finding = Finding(**{**found, "status": Status(found["status"])})
                screen.row(finding.to_text(screen.width), style=STYLES[finding.status])
        if report["status"] == Status.OK:
            screen.row("nothing is in the way", style="green")
        screen.say()
        screen.row("A rotation:")
        screen.say()
        rotated = last = _show(stack, function, screen)
        if rotated["code"]:
            breakage.remedies[words](stack)
            screen.say()
            screen.say(f"A rotation after what the hint says ({words}):")
            screen.say()
            last = _show(stack, function, screen)
    checks = {found["check"]: found["status"] for found in report["findings"]}
    return {
        "breakage": breakage.name,
        "what": breakage.what,
        "preflight": report,
        "rotation": rotated,
        "remedy": words,
        "afterwards": last,
        "as_expected": (checks[breakage.check], report["status"], rotated["code"], last["code"])
        == (breakage.status, breakage.status, breakage.code, None),
    }


def _show(stack: Stack, function: rotation.Invoke, screen: Screen) -> dict[str, Any]:
    """Rotate, show how that ends, and return it."""
    step, error = rotate(stack, function, screen)
    if error is None:
        screen.row("all four steps succeeded", style="green")
    else:
        complaint = Finding(f"{type(error).__name__} ({error.code})", Status.FAILED, error.message, error.hint)
        screen.row(complaint.to_text(screen.width), style="red")
    return {
        "step": step,
        "code": error and error.code,
        "message": error and error.message,
        "hint": error and error.hint,
    }


def rotate(stack: Stack, function: rotation.Invoke, screen: Screen) -> tuple[str, RotationError | None]:
    """Rotate, and go on with a rotation that was begun; return the last step and the error it ended in."""
    client, manager = stack.secrets_manager.client(), stack.secrets_manager
    token = _pending(stack) or rotation.begin(client, stack.secret_arn, manager.function_arn)
    for step in rotation.STEPS:
        try:
            with screen.waiting(f"{step}: waiting for answers"):
                rotation.invoke_steps(function, stack.secret_arn, token, steps=[step])
        except RotationError as error:
            screen.row(f"{step:<14}failed", style="red")
            return step, error
        screen.row(f"{step:<14}done")
    return step, None


def _pending(stack: Stack) -> str:
    """Return the version that has AWSPENDING and not AWSCURRENT as well."""
    labels = rotation.labels(stack.secrets_manager.client(), stack.secret_arn).versions
    return labels["AWSPENDING"] if labels.get("AWSPENDING") not in {None, labels["AWSCURRENT"]} else ""
