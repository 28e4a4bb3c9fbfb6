"""What a superuser changes in the database beside a password: a clone, brought into step with its original."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from rotation_lambda.errors import RoleNotPreparedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rotation_lambda.credential import Credential

# Lists of names are stored with quotes: one literal would become one name (PostgreSQL's GUC_LIST_QUOTE, to which no
# extension can add; pg_dump has the same list).
_LISTS = {"local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces"}
_NAME_IN_LIST = re.compile(r'"((?:[^"]|"")*)"|([^",\s]+)')
_PER_MEMBERSHIP = 160000
"""From PostgreSQL 16 on it is a membership that inherits, and the right to alter a role is ADMIN OPTION on it."""

# Two roles at most: the one that AWSCURRENT logs in as, and the one whose password changes. Every role may read these
# catalogs (PostgreSQL 53.8, 53.9, 53.16, 53.48). A clone's rights are weighed against those of AWSCURRENT's user.
# Default privileges are none of what it owns: no session reads by them, and REASSIGN OWNED leaves them where they are.
QUERY = """
SELECT it.rolname::text,
    ARRAY_REMOVE(ARRAY[CASE WHEN it.rolsuper THEN 'SUPERUSER' END, CASE WHEN it.rolcreaterole THEN 'CREATEROLE' END,
        CASE WHEN it.rolreplication THEN 'REPLICATION' END, CASE WHEN it.rolbypassrls THEN 'BYPASSRLS' END], NULL),
    it.rolcanlogin, it.rolinherit, it.rolconnlimit, coalesce(it.rolvaliduntil, 'infinity')::text,
    ARRAY(SELECT ARRAY[coalesce(datname::text, ''), split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1)]
        FROM pg_db_role_setting LEFT JOIN pg_database ON pg_database.oid = setdatabase, unnest(setconfig) AS entry
        WHERE setrole = it.oid),
    ARRAY(SELECT ARRAY[granted.rolname::text,
            (bool_or(coalesce((to_jsonb(pg_auth_members) ->> 'inherit_option')::bool, true))
                AND bool_or(coalesce((to_jsonb(pg_auth_members) ->> 'set_option')::bool, true)))::text]
        FROM pg_auth_members JOIN pg_roles AS granted ON granted.oid = roleid
        WHERE member = it.oid GROUP BY granted.rolname),
    ARRAY(SELECT granted.rolname::text FROM pg_auth_members JOIN pg_roles AS granted ON granted.oid = roleid
        WHERE member = it.oid AND NOT pg_has_role(mine.oid, roleid, 'MEMBER')),
    pg_has_role(mine.oid, it.oid, 'MEMBER'),
    asking.rolsuper OR NOT it.rolsuper AND asking.rolcreaterole AND (current_setting('server_version_num')::int < 160000
        OR pg_has_role(asking.oid, it.oid, 'MEMBER WITH ADMIN OPTION')),
    ARRAY(SELECT format('%%s (%%s)', coalesce(datname, 'shared'), count(*))
        FROM pg_shdepend LEFT JOIN pg_database ON pg_database.oid = dbid
        WHERE refclassid = 'pg_authid'::regclass AND refobjid = it.oid AND deptype = 'o'
            AND classid <> 'pg_default_acl'::regclass
        GROUP BY datname ORDER BY datname),
    EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = it.oid
        AND deptype = 'a' AND classid NOT IN ('pg_database'::regclass, 'pg_auth_members'::regclass)),
    (SELECT count(*) FROM pg_stat_activity WHERE usesysid = it.oid),
    asking.rolsuper OR asking.rolcreaterole
FROM pg_roles AS it, pg_roles AS mine, pg_roles AS asking
WHERE it.rolname IN (%(current)s, %(other)s) AND mine.rolname = %(current)s AND asking.rolname = session_user
"""

# What a session of either user shows of itself, in the secret's own database. A session whose right to its `role`
# setting was revoked is let in with a warning, and runs as the user who logged in.
IDENTITY_QUERY = """
SELECT current_user::text,
    coalesce((SELECT nullif(substr(entry, 6), 'none') FROM pg_db_role_setting, unnest(setconfig) AS entry
        WHERE setrole = self.oid AND entry LIKE 'role=%%'
            AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
        ORDER BY setdatabase DESC LIMIT 1), session_user::text),
    coalesce((SELECT pg_has_role(self.oid, oid, 'USAGE') FROM pg_roles WHERE rolname = %(original)s), false),
    ARRAY(SELECT pg_describe_object(classid, objid, objsubid) FROM pg_shdepend
        WHERE refclassid = 'pg_authid'::regclass AND deptype = 'o'
            AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = %(clone)s)
            AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        ORDER BY 1 LIMIT 20)
FROM pg_roles AS self WHERE self.rolname = session_user
"""


class Identity(NamedTuple):
    """One row of IDENTITY_QUERY."""

    runs_as: str
    starts_as: str
    has_rights: bool
    clone_owns: list[str]

    def check(self, credential: Credential) -> None:
        """Return where the session has the original's rights, and runs as its setting says."""
        user, original = credential.username, credential.original
        if self.runs_as != self.starts_as:
            raise RoleNotPreparedError(
                f"Role {user!a} logs in and runs as {self.runs_as!a}, not as {self.starts_as!a} as its setting says: a "
                "membership was revoked.",
                hint=f"GRANT {quote_name(self.starts_as)} TO {quote_name(user)};",
            )
        if not self.has_rights:
            raise RoleNotPreparedError(
                f"Role {user!a} logs in without the rights of {original!a}.",
                hint=f"GRANT {quote_name(original)} TO {quote_name(user)};",
            )


class Change(NamedTuple):
    """A statement; `first` is what somebody else has to run in its place, before he can run any other."""

    statement: str
    first: str = ""

    def __str__(self) -> str:
        return f"{self.statement};"


@dataclass(frozen=True, slots=True)
class Role:
    """One row of QUERY; the defaults are those of CREATE ROLE.

    `settings` are those of ALTER ROLE … SET, by database ("" for all) and name. `memberships` tells of each role that
    was granted to this one whether INHERIT and SET came with it; `beyond` are those which AWSCURRENT's user is no
    member of, and `below` says that it is a member of this one. `owns` counts objects by database. `administered` says
    that the superuser may alter the role, `creates` that it may alter any.
    """

    name: str
    attributes: list[str] = field(default_factory=list)
    can_login: bool = False
    inherits: bool = True
    connection_limit: int = -1
    valid_until: str = "infinity"
    settings: Mapping[tuple[str, str], str] = field(default_factory=dict)
    memberships: Mapping[str, bool] = field(default_factory=dict)
    beyond: list[str] = field(default_factory=list)
    below: bool = False
    administered: bool = True
    owns: list[str] = field(default_factory=list)
    is_grantee: bool = False
    sessions: int = 0
    creates: bool = True

    @property
    def keeps_to_itself(self) -> bool:
        """Whether sessions would lose rights if they ran under another role, as to what an AWS sample's clone owns."""
        return bool(self.owns or self.is_grantee or self.beyond)


@dataclass(frozen=True, slots=True)
class Roles:
    """What QUERY found, by name; the superuser who asked, and the server's version."""

    found: Mapping[str, Role]
    superuser: str
    version: int


def read_roles(rows: list[tuple[Any, ...]]) -> dict[str, Role]:
    """Read the rows of QUERY."""
    columns = [column.name for column in fields(Role)]
    roles = [dict(zip(columns, row, strict=True)) for row in rows]
    for role in roles:
        role["settings"] = {(database, name): value for database, name, value in role["settings"]}
        role["memberships"] = {name: sound == "true" for name, sound in role["memberships"]}
    return {role["name"]: Role(**role) for role in roles}


@dataclass(frozen=True, slots=True)
class Plan:
    """What comes before the change of a password, in the same transaction; and what an administrator should know."""

    changes: list[Change]
    notes: list[str]


def make_plan(roles: Roles, current: Credential, pending: Credential, *, proved: bool) -> Plan:
    """Return what brings AWSPENDING's user to what its strategy needs: a clone into step, all others not at all.

    The user in use is never touched, nor an original. `proved` says that AWSCURRENT has logged in. Raises
    RoleNotPreparedError, with the statements to run, where a role is missing, where the superuser may not do it, and
    where it must not: who may write the secret shall not come by the password of a role with further rights.
    """
    mine, other = roles.found.get(current.username), roles.found.get(pending.username)
    is_clone = not current.usernames and pending.username not in {current.username, current.original}
    if mine is None or (other is None and not is_clone):
        missing = pending.username if mine else current.username
        raise RoleNotPreparedError(
            f"Role {missing!a} does not exist.",
            hint="Create it again, with the grants it had; or correct `username` (or `usernames`) in the secret.",
        )
    changes = list(_bring_into_step(mine, other or Role(pending.username), roles.version)) if is_clone else []
    if is_clone and not other:
        changes.insert(0, _create(quote_name(pending.username), quote_name(roles.superuser), roles.version))
    if other:
        _check_rights(mine, other, current, proved=proved)
    _check_may_alter([role for role in (mine if is_clone else None, other) if role], roles.superuser)
    clone = other if is_clone else mine if pending.username == current.original != current.username else None
    return Plan(changes, list(_notes(mine, other, clone)))


def _create(name: str, superuser: str, version: int) -> Change:
    """Make a role; who does so may alter it, from PostgreSQL 16 on nobody else without ADMIN OPTION."""
    grant = f" GRANT {name} TO {superuser} WITH ADMIN OPTION;" if version >= _PER_MEMBERSHIP else ""
    return Change(f"CREATE ROLE {name}", first=f"CREATE ROLE {name};{grant}")


def _bring_into_step(original: Role, clone: Role, version: int) -> Iterator[Change]:
    """Yield what differs (PostgreSQL: ALTER ROLE, GRANT). SUPERUSER, REPLICATION and BYPASSRLS are never copied.

    The clone runs as the original, or as the role under which that starts itself: what it creates belongs to both, and
    CREATEDB and the like are the original's. One that has rights of its own keeps to itself until it has none.
    """
    name = quote_name(clone.name)
    attributes = {
        "LOGIN": clone.can_login,
        "INHERIT": clone.inherits,
        f"CONNECTION LIMIT {original.connection_limit}": clone.connection_limit == original.connection_limit,
        f"VALID UNTIL {quote_literal(original.valid_until)}": clone.valid_until == original.valid_until,
    }
    if not all(attributes.values()):
        yield Change(f"ALTER ROLE {name} {' '.join(one for one, same in attributes.items() if not same)}")
    if not clone.memberships.get(original.name):
        how = " WITH INHERIT TRUE, SET TRUE" if version >= _PER_MEMBERSHIP else ""
        yield Change(f"GRANT {quote_name(original.name)} TO {name}{how}")
    wanted = {("", "role"): original.name, **original.settings}
    wanted |= {key: original.name for key, value in wanted.items() if key[1] == "role" and value == "none"}
    if clone.keeps_to_itself:
        wanted = {key: value for key, value in wanted.items() if key[1] != "role"}
        wanted |= {key: value for key, value in clone.settings.items() if key[1] == "role"}
    for database, setting in sorted(clone.settings.keys() - wanted.keys()):
        yield Change(f"{_alter(name, database)} RESET {_quote_setting(setting)}")
    for (database, setting), value in wanted.items():
        if clone.settings.get((database, setting)) != value:
            yield _set(_alter(name, database), setting, value)


def _alter(name: str, database: str) -> str:
    return f"ALTER ROLE {name} IN DATABASE {quote_name(database)}" if database else f"ALTER ROLE {name}"


def _set(alter: str, setting: str, value: str) -> Change:
    """Store a value byte for byte.

    FROM CURRENT would make `5MB` of `5120`; and to have the value in this session, be it for a moment, could make the
    superuser run what the search_path leads to.
    """
    values = [value]
    if setting in _LISTS:
        values = [quoted.replace('""', '"') or bare for quoted, bare in _NAME_IN_LIST.findall(value)] or [""]
    return Change(f"{alter} SET {_quote_setting(setting)} TO {', '.join(map(quote_literal, values))}")


def _check_rights(mine: Role, other: Role, current: Credential, *, proved: bool) -> None:
    """Return where AWSPENDING's user has no rights beyond those of AWSCURRENT's."""
    is_own = other.name == mine.name
    within_reach = proved if is_own else not current.usernames and mine.memberships.get(other.name, False)
    further = [name for name in other.attributes if not within_reach and (is_own or name not in mine.attributes)]
    if is_own and further:
        raise RoleNotPreparedError(
            f"Role {other.name!a} has {', '.join(further)}, and AWSCURRENT does not log in: that the role is this "
            "secret's own is not proved.",
            hint="Set AWSCURRENT's password by hand, as a superuser on the server («\\password»), and rotate again.",
        )
    if further:
        statement = f"ALTER ROLE {quote_name(other.name)} {' '.join(f'NO{name}' for name in further)};"
        raise RoleNotPreparedError(
            f"Role {other.name!a} has {', '.join(further)}, which {mine.name!a} has not.", hint=f"Run: {statement}"
        )
    if is_own:
        return
    if not current.usernames and other.name == current.original and not other.below:
        raise RoleNotPreparedError(
            f"Role {mine.name!a} is not a member of {other.name!a}: that they belong together is not shown.",
            hint=f"If so: GRANT {quote_name(other.name)} TO {quote_name(mine.name)}; If not, name both in `usernames`.",
        )
    if other.beyond and (current.usernames or mine.name not in other.memberships):
        grants = " ".join(f"GRANT {quote_name(name)} TO {quote_name(mine.name)};" for name in other.beyond)
        raise RoleNotPreparedError(
            f"Role {other.name!a} is a member of {', '.join(map(ascii, other.beyond))}, and {mine.name!a} is not.",
            hint=f"If both are to have these rights: {grants} Otherwise revoke them.",
        )


def _check_may_alter(roles: list[Role], superuser: str) -> None:
    """Return where the superuser may alter the roles: by CREATEROLE, and from PostgreSQL 16 on ADMIN OPTION as well."""
    name = quote_name(superuser)
    if far := [role for role in roles if "SUPERUSER" in role.attributes and not role.administered]:
        raise RoleNotPreparedError(
            f"{', '.join(ascii(role.name) for role in far)} has SUPERUSER, and the superuser {superuser!a} has not.",
            hint="PostgreSQL lets nobody else alter such a role: rotate it as single-user, without a `masterarn`.",
        )
    missing = [] if all(role.creates for role in roles) else [f"ALTER ROLE {name} CREATEROLE;"]
    missing += [
        f"GRANT {quote_name(role.name)} TO {name} WITH ADMIN OPTION;" for role in roles if not role.administered
    ]
    if missing:
        raise RoleNotPreparedError(
            f"The superuser {superuser!a} may not alter {', '.join(ascii(role.name) for role in roles)}.",
            hint=f"Run as a role that may: {' '.join(missing)}",
        )


def _notes(mine: Role, other: Role | None, clone: Role | None) -> Iterator[str]:
    if other and other.name != mine.name:
        if other.sessions:
            yield (
                f"Role {other.name!a}, whose password changes now, still has {other.sessions} sessions: their "
                "applications have not read the secret since the last rotation."
            )
        lacking = [name for name in mine.memberships if name not in {*other.memberships, other.name}]
        if lacking and not clone:
            yield f"Role {other.name!a} is not a member of {', '.join(map(ascii, lacking))}, as {mine.name!a} is."
    if clone and clone.owns:
        original = mine if mine is not clone else other
        yield (
            f"Role {clone.name!a} owns objects, by database: {', '.join(clone.owns)}. Run in each of them: REASSIGN "
            f"OWNED BY {quote_name(clone.name)} TO {quote_name(original.name if original else '')};"
        )
    elif clone and clone.keeps_to_itself:
        yield (
            f"Role {clone.name!a} has grants of its own, so its sessions run as itself: what they create is not the "
            "original's. Grant the same to the original, and revoke them from the clone."
        )


def quote_name(name: str) -> str:
    """Quote an identifier (PostgreSQL 4.1.1)."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Quote a string, whatever standard_conforming_strings says (PostgreSQL 4.1.2)."""
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in quoted else quoted


def _quote_setting(name: str) -> str:
    return ".".join(quote_name(part) for part in name.split("."))
