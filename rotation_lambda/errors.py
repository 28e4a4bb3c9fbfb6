"""Every way a rotation can fail, each with its stable code and a hint that says what to do next.

    RotationError
    ├── InvalidEventError                 the invocation is not one of Secrets Manager's
    ├── ConfigurationError                the function's own environment is wrong
    ├── RotationRefusedError              the secret's state does not allow this step
    │   ├── RotationDisabledError
    │   ├── SecretDeletedError
    │   ├── SecretManagedError
    │   ├── VersionNotStagedError
    │   └── VersionNotPendingError
    ├── SecretsManagerError               a call to Secrets Manager failed
    │   ├── SecretNotFoundError
    │   └── AccessDeniedError
    ├── InvalidSecretError                a version's value is not credentials
    │   └── MissingVersionError           … or has no value
    ├── CredentialMismatchError           AWSPENDING is for another login than AWSCURRENT
    ├── SuperuserMismatchError            the secret of `masterarn` is for another database, or not to be named
    ├── RdsError                          a call to RDS failed
    ├── DatabaseError
    │   ├── DatabaseUnreachableError      no answer to the question "is this the password?"
    │   │   ├── HostNotFoundError             DNS
    │   │   ├── ConnectionFailedError         TCP
    │   │   ├── DatabaseTimeoutError          silence
    │   │   ├── TlsError                      TLS
    │   │   ├── AuthenticationMethodError     a login that would verify nothing
    │   │   ├── NoHbaEntryError               pg_hba.conf
    │   │   └── DatabaseNotReadyError         starting up, shutting down, full
    │   ├── LoginRefusedError             the answer is no
    │   ├── LoginNotAllowedError          the answer is yes, and the connection is rejected
    │   ├── PoolerError                   a pooler answered
    │   ├── DatabaseReadOnlyError
    │   ├── RoleLockedError               another transaction holds the user's row
    │   ├── RoleNotPreparedError          a user is not shown to be the secret's own, or lacks something
    │   ├── PasswordChangeError           ALTER ROLE failed
    │   ├── VerificationFailedError       … succeeded, the new password did not log in: restored
    │   └── UnprovenPasswordError         … and neither password is verified
    └── UnexpectedError                   a fault of this function's

A class exists only where an operator acts differently; Lambda reports its name as ``errorType``. Messages name labels,
version ids, hosts and roles, never the value of a secret.
"""

import re
from typing import ClassVar

_HIDDEN = re.compile(r"(?i)SCRAM-SHA-256\s*\$[^\s'\"\\]+|md5[0-9a-f]{32}|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def mask(text: str) -> str:
    """Return the text without what a server may have put into its answer: a verifier, or what a terminal obeys."""
    return _HIDDEN.sub("…", text)


class RotationError(Exception):
    """A rotation step failed: `what` happened, what was `changed`, its `code`, and the `hint` for the next action.

    The code is the name of the class, unless the class has another one. It never changes.
    """

    code: ClassVar[str] = "rotation-failed"
    changed: ClassVar[str] = ""
    critical: bool = False  # AWSCURRENT may not log in: a person has to look now
    hint: str = "Read the message."

    def __init_subclass__(cls, *, code: str = "") -> None:
        cls.code = code or re.sub("(?<=[a-z])(?=[A-Z])", "-", cls.__name__.removesuffix("Error")).lower()
        cls.hint = " ".join(cls.hint.split())

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(mask(what))
        self.what = mask(what)
        self.hint = mask(hint or self.hint)

    @property
    def message(self) -> str:
        """What happened, and what the step has changed by then, where that goes without saying."""
        return f"{self.what} {self.changed}".rstrip()

    @property
    def page(self) -> str:
        """Where the documentation explains the code."""
        return f"docs/errors.md#{self.code}"

    def __str__(self) -> str:
        return f"{self.message} Next: {self.hint} See {self.page}."


class InvalidEventError(RotationError):
    """The invocation's event is not a rotation event of Secrets Manager."""

    hint = """Let Secrets Manager invoke the function. To invoke it yourself, copy a file of events/ and change its
        values."""


class ConfigurationError(RotationError, code="invalid-configuration"):
    """An environment variable of the function has a value that cannot be used."""

    hint = "Correct this environment variable of the function. docs/configuration.md lists the values of each."


class RotationRefusedError(RotationError):
    """The state of the secret does not allow the step; nothing was changed."""

    hint = "Start a rotation: `aws secretsmanager rotate-secret --secret-id ID`."


class RotationDisabledError(RotationRefusedError):
    """Rotation is switched off for the secret."""

    hint = "Switch rotation on: `aws secretsmanager rotate-secret --secret-id ID --rotation-lambda-arn ARN`."


class SecretDeletedError(RotationRefusedError):
    """The secret is marked for deletion."""

    hint = "Restore the secret with `aws secretsmanager restore-secret --secret-id ID`, or stop rotating it."


class SecretManagedError(RotationRefusedError):
    """RDS created the secret for a superuser, and rotates it."""

    hint = """Let RDS rotate it: `aws rds modify-db-instance --rotate-master-user-password`, for a cluster
        `modify-db-cluster`. For an application, create a user with a secret of its own. This secret's ARN can be its
        `masterarn`."""


class VersionNotStagedError(RotationRefusedError):
    """The version named by ClientRequestToken has no staging label: its rotation was cancelled or abandoned."""

    hint = """Do nothing for this version: its rotation is over. Start a new one with `aws secretsmanager
        rotate-secret --secret-id ID`."""


class VersionNotPendingError(RotationRefusedError):
    """The version named by ClientRequestToken has other labels than AWSPENDING: this invocation is stale."""

    hint = "Do nothing: this invocation came too late. Start a new rotation only if AWSCURRENT is too old."


class SecretsManagerError(RotationError, code="secrets-manager-failed"):
    """A call to Secrets Manager failed for a reason that is neither the secret's nor a missing permission."""

    hint = """Wait: Secrets Manager retries the rotation. If it fails again, let the function reach Secrets Manager
        on port 443, by an interface endpoint with private DNS or a NAT gateway. docs/vpc.md shows both."""


class SecretNotFoundError(SecretsManagerError):
    """The secret does not exist in the function's account and Region."""

    hint = "Check the secret's ARN, its Region and its account. A deleted secret cannot be rotated."


class AccessDeniedError(SecretsManagerError):
    """The execution role, the secret's policy or the key's policy lacks a permission."""

    hint = """Grant the action named here, on the resource named here, to the execution role. template.yaml has all
        of them."""


class InvalidSecretError(RotationError):
    """A version's value is not PostgreSQL credentials as docs/secret-format.md describes them."""

    hint = """Correct the secret's JSON. docs/secret-format.md has every key, and docs/runbook.md#change-the-secret
        the commands."""


class MissingVersionError(InvalidSecretError):
    """A version that the step needs has no value, or no version has the label it needs."""

    hint = "Start the rotation again from createSecret: `aws secretsmanager rotate-secret --secret-id ID`."


class CredentialMismatchError(RotationError):
    """AWSPENDING is for another login than AWSCURRENT: the secret changed during the rotation. Nothing was changed."""

    hint = """Start with a new version: cancel the rotation, remove AWSPENDING from this one and rotate.
        docs/runbook.md#start-with-a-new-version has the three commands."""


class SuperuserMismatchError(RotationError):
    """The superuser secret is for another database, or may not be named. Nothing was sent, and nothing was changed."""

    hint = """Set `masterarn` to the secret of this server's superuser, with the same host and port as here. If
        `host` is a CNAME, name the server's own endpoint in `rotationHost`. docs/runbook.md#change-the-secret has the
        commands."""


class RdsError(RotationError, code="rds-failed"):
    """A call to RDS failed. Only RDS knows the server of a managed secret, and which endpoints belong together."""

    hint = """Let the function reach the RDS API, by an interface endpoint com.amazonaws.REGION.rds or a NAT gateway.
        Without it, use a superuser secret with a `host` of its own, the same in both secrets."""


class DatabaseError(RotationError, code="database-failed"):
    """The database stopped the step. `unknown`: it is open whether the password is correct, and waiting may help.

    `lost`: the session ended before the change of a password was committed, and a fresh login may change it.
    """

    unknown: bool = False
    lost: bool = False
    changed = "Nothing was changed."
    hint = "Read the server's log of the same second."


class DatabaseUnreachableError(DatabaseError):
    """It is not known whether the password is correct. The step stops: only a refusal leads to another password."""

    unknown = True
    hint = "Read the server's words in this message, and its log of the same second."


class HostNotFoundError(DatabaseUnreachableError):
    """DNS does not know the secret's host."""

    hint = """Correct `host` as docs/runbook.md#change-the-secret shows, or let the VPC of the function use a DNS
        server that knows it."""


class ConnectionFailedError(DatabaseUnreachableError):
    """TCP: the host and port do not accept connections, no route leads there, or the connection was cut."""

    hint = """Check that the server runs and listens on this host and port. If they are wrong,
        docs/runbook.md#change-the-secret has the commands. Aurora at 0 ACU, or in a failover, needs up to a minute:
        set the function's Timeout to 60 or more."""


class DatabaseTimeoutError(DatabaseUnreachableError):
    """No answer: packets are dropped on the way, or the server is silent."""

    hint = """Let the function's security group into the database's, on its port, and check network ACLs and routes.
        Aurora at 0 ACU needs 30 seconds to wake, and more after a day: set the function's Timeout to 60 or more."""


class TlsError(DatabaseUnreachableError, code="tls-failed"):
    """TLS is not possible as required. There is no fallback to a weaker connection."""

    unknown = False
    hint = """Set `host` to a name in the server's certificate, or `tlsServerName` to one. Set PGSSLROOTCERT to the
        CA that signed it. For a server without TLS, set `"ssl": false`. docs/runbook.md#change-the-secret has
        the commands."""


class AuthenticationMethodError(DatabaseUnreachableError):
    """The server asks for no password, for one in clear text, or for another proof: a login would verify nothing."""

    unknown = False
    hint = """Ask for scram-sha-256 in pg_hba.conf for this user. A user of rds_iam, LDAP, PAM, RADIUS or a
        certificate has no password to rotate."""


class NoHbaEntryError(DatabaseUnreachableError):
    """pg_hba.conf rejects this client, user, database and TLS before it checks a password."""

    hint = """Add a line for the function's network and this user to pg_hba.conf. On RDS and Aurora wait: the server
        answers so while it starts or fails over."""


class DatabaseNotReadyError(DatabaseUnreachableError):
    """The server is starting up, shutting down or recovering, or has no free connection."""

    hint = """Wait until the server is up: Secrets Manager retries. If it is full, raise max_connections, or end
        sessions in pg_stat_activity."""


class LoginRefusedError(DatabaseError):
    """The database refused the password."""

    hint = """Read the server's log: the user does not exist, is past its VALID UNTIL, or has another password (set
        by hand, by a second secret, or by a restored snapshot). Create it, extend it, or set the password as
        docs/runbook.md#applications-are-locked-out shows."""


class LoginNotAllowedError(DatabaseError):
    """The password is correct. PostgreSQL rejected the connection for another reason."""

    hint = """Correct what the message names: the user's connection limit, its LOGIN attribute, the database, or its
        CONNECT privilege."""


class PoolerError(DatabaseError, code="pooler-in-between"):
    """A pooler or proxy answered in place of PostgreSQL. A password must not be changed through it."""

    hint = """Set `rotationHost` (and `rotationPort`) in the secret to the database's own address, and leave `host`.
        docs/runbook.md#change-the-secret has the commands."""


class DatabaseReadOnlyError(DatabaseError):
    """The server is a standby, or was the primary before a failover."""

    hint = """Name the cluster's writer endpoint in `host` or `rotationHost`, as docs/runbook.md#change-the-secret
        shows. After a failover, wait until it leads to the new writer, and rotate again."""


class RoleLockedError(DatabaseError):
    """Another transaction holds the role's row in pg_authid, so that its password cannot be changed."""

    hint = """Wait: Secrets Manager retries, and another rotation holds the row for some seconds only. If a
        transaction of another user is named here at each retry, ask its owner to end it (a prepared one: ROLLBACK
        PREPARED). Do not end a session of this secret's users or of its superuser: it may be a rotation at work."""


class RoleNotPreparedError(DatabaseError):
    """A user is not shown to be the secret's own, or lacks something that the superuser could not give it."""

    hint = "Prepare the users as docs/alternating-users.md shows, and rotate again."


class PasswordChangeError(DatabaseError, code="password-change-failed"):
    """The database did not carry out ALTER ROLE. `sqlstate` is PostgreSQL's error code, None when the session broke.

    `in_doubt` says that COMMIT was sent and not confirmed: the change may be in force, or come into force still.
    """

    changed = ""
    hint = "Look up the SQLSTATE in PostgreSQL's Appendix A, and read the server's log of the same second."

    def __init__(
        self, what: str, *, sqlstate: str | None, hint: str | None = None, in_doubt: bool = False, lost: bool = False
    ) -> None:
        super().__init__(what, hint=hint)
        self.sqlstate, self.in_doubt, self.lost = sqlstate, in_doubt, lost


class VerificationFailedError(DatabaseError):
    """The password was changed, and the new one did not log in. The former one is in force again, as a login shows."""

    changed = ""
    hint = """Find the rule that refuses the new password, in the server's log of the same second: a pooler's own
        list (set `rotationHost`), VALID UNTIL, or a method of pg_hba.conf. Then rotate again."""


class UnprovenPasswordError(DatabaseError):
    """The password was changed, and then neither the new nor the old one could be verified. Logged as CRITICAL."""

    changed = ""
    critical = True
    hint = """Check now whether applications can log in, as docs/runbook.md#2-are-applications-locked-out-now shows.
        Start the rotation again: it finds which of the two versions logs in."""


class UnexpectedError(RotationError):
    """A fault of the function. Its own text is withheld, because it could quote a value of the secret."""

    hint = "Report it with this message. Secrets Manager retries the rotation."
