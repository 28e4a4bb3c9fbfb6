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
    ├── InvalidSecretError                a version holds something that is not a credential
    │   └── MissingVersionError           … or holds nothing
    ├── CredentialMismatchError           AWSPENDING is for another login than AWSCURRENT
    ├── SuperuserMismatchError            the secret of `masterarn` is for another database
    ├── RdsError                          a call to RDS failed
    ├── DatabaseError
    │   ├── DatabaseUnreachableError      no answer to the question "is this the password?"
    │   │   ├── HostNotFoundError             DNS
    │   │   ├── ConnectionFailedError         TCP
    │   │   ├── DatabaseTimeoutError          silence
    │   │   ├── TlsError                      TLS
    │   │   ├── AuthenticationMethodError     a login that would prove nothing
    │   │   ├── NoHbaEntryError               pg_hba.conf
    │   │   └── DatabaseNotReadyError         starting up, shutting down, full
    │   ├── LoginRefusedError             the answer is no
    │   ├── LoginNotAllowedError          the answer is yes, and the door stays shut
    │   ├── PoolerError                   somebody else answered
    │   ├── DatabaseReadOnlyError
    │   ├── RoleLockedError               another rotation of the same role is at work
    │   ├── RoleNotPreparedError          a role lacks what the strategy needs: the statements to run
    │   ├── PasswordChangeError           ALTER ROLE failed
    │   ├── VerificationFailedError       … succeeded, and the new password did not log in: put back
    │   └── UnprovenPasswordError         … and could not be put back for certain
    └── UnexpectedError                   a fault of this function's

A class exists only where an operator acts differently; Lambda reports its name as ``errorType``. Messages name labels,
version ids, hosts and roles, never the value of a secret.
"""

from typing import ClassVar


class RotationError(Exception):
    """A rotation step failed: `what` happened, what was `changed`, its `code`, and the `hint` for the next action."""

    code: ClassVar[str] = "rotation-failed"
    changed: ClassVar[str] = ""
    critical: bool = False  # AWSCURRENT may not log in: a person has to look now
    hint: str = "Read the message."

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        if hint is not None:
            self.hint = hint

    @property
    def message(self) -> str:
        """What happened, and what the step has changed by then, where that goes without saying."""
        return f"{self.what} {self.changed}".rstrip()

    def __str__(self) -> str:
        return f"{self.message} Next: {self.hint}"


class InvalidEventError(RotationError):
    """The invocation's event is not a rotation event of Secrets Manager."""

    code = "invalid-event"
    hint = "Let Secrets Manager invoke this function, or copy a file of events/ and change its values."


class ConfigurationError(RotationError):
    """An environment variable of the function has a value that cannot be used."""

    code = "invalid-configuration"
    hint = "Correct the function's environment variable; docs/configuration.md lists what each one takes."


class RotationRefusedError(RotationError):
    """The state of the secret does not allow the step; nothing was changed."""

    code = "rotation-refused"
    hint = "Start a rotation with «aws secretsmanager rotate-secret»."


class RotationDisabledError(RotationRefusedError):
    """Rotation is switched off for the secret."""

    code = "rotation-disabled"
    hint = "Switch rotation on: «aws secretsmanager rotate-secret --secret-id ID --rotation-lambda-arn ARN»."


class SecretDeletedError(RotationRefusedError):
    """The secret is marked for deletion."""

    code = "secret-deleted"
    hint = "Keep it with «aws secretsmanager restore-secret --secret-id ID», or stop rotating it."


class SecretManagedError(RotationRefusedError):
    """The secret is one that RDS created for a superuser, and rotates itself."""

    code = "secret-managed"
    hint = (
        "Let RDS rotate it: `aws rds modify-db-instance --rotate-master-user-password`, for a cluster "
        "`modify-db-cluster`. For an application, create a user with a secret of its own; this secret's ARN can be its "
        "`masterarn`."
    )


class VersionNotStagedError(RotationRefusedError):
    """The version named by ClientRequestToken carries no staging label: its rotation was cancelled or abandoned."""

    code = "version-not-staged"
    hint = "Nothing to repair here: start a new rotation with «aws secretsmanager rotate-secret»."


class VersionNotPendingError(RotationRefusedError):
    """The version named by ClientRequestToken carries other labels than AWSPENDING: this invocation is stale."""

    code = "version-not-pending"
    hint = "Nothing to repair here: the invocation is late. Start a new rotation if AWSCURRENT is too old."


class SecretsManagerError(RotationError):
    """A call to Secrets Manager failed for a reason that is neither the secret's nor a missing permission."""

    code = "secrets-manager-failed"
    hint = (
        "Secrets Manager retries the rotation by itself. If it fails again: can the function reach Secrets Manager "
        "(interface endpoint with private DNS, or NAT; its security group must let the function in on port 443)?"
    )


class SecretNotFoundError(SecretsManagerError):
    """There is no such secret in the function's account and region."""

    code = "secret-not-found"
    hint = "Check SecretId, the region and the account; a deleted secret cannot be rotated."


class AccessDeniedError(SecretsManagerError):
    """The function's role, the secret's policy or the key's policy lacks a permission."""

    code = "access-denied"
    hint = "Grant the action named here, on the resource named here, to the function's role (template.yaml does)."


class InvalidSecretError(RotationError):
    """A version's value is not a PostgreSQL credential as docs/secret-format.md describes it."""

    code = "invalid-secret"
    hint = "Correct the secret's JSON with «aws secretsmanager put-secret-value»; docs/secret-format.md has every key."


class MissingVersionError(InvalidSecretError):
    """A version that the step needs has no value, or no version has the label it needs."""

    code = "missing-version"
    hint = "Let the rotation start again from createSecret: «aws secretsmanager rotate-secret --secret-id ID»."


class CredentialMismatchError(RotationError):
    """AWSPENDING holds a credential for another login than AWSCURRENT; nothing was changed."""

    code = "credential-mismatch"
    hint = (
        "Somebody edited a version by hand, or the secret changed during the rotation. Cancel the rotation "
        "(«aws secretsmanager cancel-rotate-secret»), remove AWSPENDING from the version named here and rotate again."
    )


class SuperuserMismatchError(RotationError):
    """The superuser's secret is not shown to be for the secret's own database: nothing was sent, nothing changed."""

    code = "superuser-mismatch"
    hint = (
        "Let `masterarn` name the secret of the superuser of the same server, with the same host and port as this "
        "secret; a replica, or an endpoint of the same cluster, has to be one by RDS's own word."
    )


class RdsError(RotationError):
    """A call to RDS failed, which alone can tell where a managed superuser is, or which endpoints belong together."""

    code = "rds-failed"
    hint = (
        "Can the function reach RDS (interface endpoint com.amazonaws.REGION.rds, or NAT)? Without it, give the "
        "superuser's secret a `host` of its own, and both secrets the same one."
    )


class DatabaseError(RotationError):
    """The database stood in the way; `unknown` where it left open whether the password is right: waiting may help."""

    unknown: bool = False
    changed = "Nothing was changed."
    code = "database-failed"
    hint = "Read the server's log of the same second."


class DatabaseUnreachableError(DatabaseError):
    """No answer whether the password is right. The step stops: another password is tried after a refusal only."""

    unknown = True
    code = "database-unreachable"
    hint = (
        "Read the server's own words above and its log of the same second. In another language than English they are "
        "not understood here: set lc_messages to C on the server."
    )


class HostNotFoundError(DatabaseUnreachableError):
    """DNS does not know the secret's host."""

    code = "host-not-found"
    hint = "Correct `host` in the secret, or give the function's VPC the DNS that knows it."


class ConnectionFailedError(DatabaseUnreachableError):
    """TCP: nobody listens on host and port, no route leads there, or the connection was cut."""

    code = "connection-failed"
    hint = (
        "Check host and port in the secret, and that the server runs and listens on that address. An Aurora cluster "
        "that was paused (0 ACU) or fails over needs up to a minute: set the function's Timeout to 60 seconds or more."
    )


class DatabaseTimeoutError(DatabaseUnreachableError):
    """Silence: packets are dropped on the way, or the server does not speak."""

    code = "database-timeout"
    hint = (
        "Usually a security group, a network ACL or a missing route: the database must let the function's security "
        "group in on its port. A paused cluster (Aurora at 0 ACU) needs up to 30 seconds to wake, and more after a "
        "day: set the function's Timeout to 60 seconds or more."
    )


class TlsError(DatabaseUnreachableError):
    """TLS could not be had as asked for. There is no fallback to a weaker connection."""

    unknown = False
    code = "tls-failed"
    hint = (
        "Use the name that the server's certificate has as `host`, or give it as `tlsServerName`; set PGSSLROOTCERT to "
        'the CA that signed it; a server without TLS needs `"ssl": false` in the secret, said openly.'
    )


class AuthenticationMethodError(DatabaseUnreachableError):
    """The server wants no password, or wants it in clear text: a login would prove nothing, or give it away."""

    unknown = False
    code = "authentication-method"
    hint = (
        "Ask for scram-sha-256 in pg_hba.conf. On RDS a clear-text request means that the role is a member of rds_iam; "
        "elsewhere LDAP, PAM or RADIUS: passwords of such roles cannot be rotated here."
    )


class NoHbaEntryError(DatabaseUnreachableError):
    """pg_hba.conf rejects this client, user, database and TLS combination before any password is looked at."""

    code = "no-hba-entry"
    hint = (
        "On RDS and Aurora nobody edits pg_hba.conf: the server answers so while it wakes from a pause or fails over, "
        "and where it requires TLS. Elsewhere, add a line for the function's network and this user to pg_hba.conf."
    )


class DatabaseNotReadyError(DatabaseUnreachableError):
    """The server is starting up, shutting down, recovering, or has no connection left for anybody."""

    code = "database-not-ready"
    hint = "Wait until it is up; Secrets Manager retries. If it is full, raise max_connections or find what holds them."


class LoginRefusedError(DatabaseError):
    """The database refused the password."""

    code = "login-refused"
    hint = (
        "PostgreSQL says in its own log only which it is: the role is past its VALID UNTIL, does not exist, or has "
        "another password (set by hand, by a second secret for the same role, or by a snapshot that was restored)."
    )


class LoginNotAllowedError(DatabaseError):
    """The password is right, and the server does not let the role in all the same."""

    code = "login-not-allowed"
    hint = (
        "Correct what the message names: the role's connection limit, its LOGIN attribute, the database, its CONNECT."
    )


class PoolerError(DatabaseError):
    """Not PostgreSQL itself answered but a pooler or proxy, through which a password must not be changed."""

    code = "pooler-in-between"
    hint = "Give the database's own address as `rotationHost` (and `rotationPort`) in the secret; `host` may stay."


class DatabaseReadOnlyError(DatabaseError):
    """The server is a standby, or was the primary before a failover."""

    code = "database-read-only"
    hint = "Rotate through the writer: use the cluster's writer endpoint as `host` or `rotationHost`."


class RoleLockedError(DatabaseError):
    """Another transaction holds the role's row in pg_authid, so that its password cannot be changed."""

    code = "role-locked"
    hint = (
        "Wait: Secrets Manager retries, and another rotation holds the row for some seconds only. If a transaction of "
        "another user is named here at each retry, ask its owner to end it (a prepared one: ROLLBACK PREPARED). Do not "
        "end a session of this secret's users or of its superuser: it may be a rotation at work."
    )


class RoleNotPreparedError(DatabaseError):
    """A role lacks a right, an attribute or a setting that the superuser could not give it; the hint has the SQL."""

    code = "role-not-prepared"
    hint = "See what the strategy needs from the database in docs/alternating-users.md."


class PasswordChangeError(DatabaseError):
    """The database did not carry out ALTER ROLE. `sqlstate` is PostgreSQL's error code, None when the session broke.

    `in_doubt` says that COMMIT was sent and not confirmed: the change may be in force, or come into force still.
    """

    changed = ""
    code = "password-change-failed"
    hint = "Look the SQLSTATE up in PostgreSQL's Appendix A; the server's log says more at the same second."

    def __init__(self, what: str, *, sqlstate: str | None, hint: str | None = None, in_doubt: bool = False) -> None:
        super().__init__(what, hint=hint)
        self.sqlstate = sqlstate
        self.in_doubt = in_doubt


class VerificationFailedError(DatabaseError):
    """The password was changed, the new one did not log in, and AWSCURRENT's is in force, proved by a login."""

    changed = ""
    code = "verification-failed"
    hint = (
        "AWSCURRENT works, nobody is locked out. Find out why a new password does not log in: a pooler or proxy with "
        "its own user list (set `rotationHost`), a login rule, or a pg_hba.conf method that does not fit the verifier."
    )


class UnprovenPasswordError(DatabaseError):
    """The password was changed, and neither the new nor the old one could be proved afterwards. Logged as CRITICAL."""

    changed = ""
    critical = True
    code = "unproven-password"
    hint = (
        "Look at the database now. As a rule the next try, which Secrets Manager makes by itself, finds which of the "
        "two versions logs in and goes on from there; if it does not, docs/runbook.md."
    )


class UnexpectedError(RotationError):
    """A fault that nobody foresaw. Its own text is withheld, since it could quote a value of the secret."""

    code = "unexpected"
    hint = "Report it with this message; Secrets Manager retries the rotation by itself."
