"""What a session can see, as an ordinary role and without changing anything, of its own role and of its server."""

from collections.abc import Mapping
from dataclasses import dataclass, field

VERIFIERS_ALLOWED = "credcheck.encrypted_password_allowed"
_SETTINGS = (
    VERIFIERS_ALLOWED,
    "log_min_duration_statement",
    "log_min_error_statement",
    "log_statement",
    "password_encryption",
    "pg_stat_statements.track_utility",
    "pgaudit.log",
    "scram_iterations",
)
QUERY = """
SELECT current_setting('server_version'), extract(epoch FROM clock_timestamp())::bigint, rolsuper, rolcreaterole,
    nullif(rolvaliduntil, 'infinity')::timestamp(0)::text,
    floor(extract(epoch FROM nullif(rolvaliduntil, 'infinity') - clock_timestamp()) / 86400)::bigint,
    nullif(rolconnlimit, -1), (SELECT count(*) FROM pg_stat_activity WHERE usename = session_user),
    (SELECT count(*) FROM pg_stat_activity
        WHERE usename = session_user AND application_name = 'rotation_lambda' AND pid <> pg_backend_pid()),
    current_setting('max_connections')::int,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
    ARRAY(SELECT rolname::text FROM pg_roles AS other
        WHERE other.rolname LIKE 'rds%%' AND pg_has_role(session_user, other.oid, 'MEMBER')),
    coalesce(current_setting('rds.restrict_password_commands', true), 'off') IN ('on', 'true', '1'),
    EXISTS (SELECT FROM pg_show_all_settings() WHERE name LIKE 'credcheck.%%' OR name LIKE 'passwordcheck.%%'),
    (SELECT jsonb_object_agg(name, reset_val) FROM pg_show_all_settings() WHERE name = ANY (%(names)s))
FROM pg_roles WHERE rolname = session_user
"""
PARAMETERS = {"names": list(_SETTINGS)}


@dataclass(frozen=True, slots=True)
class Survey:
    """One row: the columns of QUERY, in their order. None stands for no limit and no end.

    `clock` is in seconds since 1970 by the server's clock, `valid_until` in UTC and as PostgreSQL writes it: a date
    past 9999 is none of Python's. Numbers are whole: of others a user's extra_float_digits leaves one digit. `settings`
    are what the session began with.
    """

    version: str
    clock: int
    superuser: bool
    createrole: bool
    valid_until: str | None
    days_left: int | None
    connection_limit: int | None
    connections: int
    other_rotations: int
    server_limit: int
    server_connections: int
    rds_memberships: list[str]
    password_commands_restricted: bool
    passwords_checked: bool
    settings: Mapping[str, str] = field(default_factory=dict)

    def is_on(self, setting: str, *off: str) -> bool:
        """Tell whether the setting exists, is visible, and has none of the values that mean off."""
        return self.settings.get(setting, "off") not in {"off", *off}
