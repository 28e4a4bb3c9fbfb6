"""What a superuser changes in the database beside a password: a clone, brought into step with its original."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from rotation_lambda.credential import CLONE, Credential
from rotation_lambda.errors import RoleNotPreparedError
from rotation_lambda.trust import TAG, Trust

# Lists of names are stored with quotes: one literal would become one name (PostgreSQL's GUC_LIST_QUOTE, to which no
# extension can add; pg_dump has the same list).
_LISTS = {"local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces"}
_NAME_IN_LIST = re.compile(r'"((?:[^"]|"")*)"|([^",\s]+)')
# From PostgreSQL 16 on it is a membership that inherits, and the right to alter a role is ADMIN OPTION on it.
_PER_MEMBERSHIP = 160000

# Whether {0} has an ADMIN OPTION on {1} by which GRANT works: its own, or that of a role that it acts as (how: {2}).
# pg_has_role goes through memberships without INHERIT and SET too, and so does ALTER ROLE, but not GRANT.
_ADMIN = """({0}.rolsuper
    OR EXISTS (SELECT FROM edge WHERE roleid = {1} AND admin_option AND pg_has_role({0}.oid, member, {2})))"""
# Who may grant a role without us: by attribute, or by an ADMIN OPTION. What takes SET ROLE does not count: a grantor is
# whose rights were used, and a member of it that only inherits them may have used them.
_MAY = f"""({_ADMIN.format("{0}", "{1}.oid", "'USAGE'")}
    OR {{0}}.rolcreaterole AND NOT {{1}}.rolsuper AND %(version)s < 160000)"""

# Two roles at most: the one that AWSCURRENT logs in as (`mine`), and the one whose password changes. Every role may
# read these catalogs (PostgreSQL 53.8, 53.9, 53.16, 53.48). The rights of the one are compared with those of `mine`:
# what it may ever come by, through ADMIN OPTION as well, but not through `mine`, against what `mine` has, in each way
# (INHERIT, SET, ADMIN). A predefined role is a right like an attribute; REPLICATION and BYPASSRLS of a group do less
# than its own do for a user. From PostgreSQL 16 on a membership without INHERIT and SET gives none, but with CREATEROLE
# it is enough to alter whom that role administers.
# Default privileges are none of what it owns: no session reads by them, and REASSIGN OWNED leaves them where they are.
# Sessions of this function do not count: the login that has just shown whose a clone is may not have ended yet.
# Settings that hold for a transaction alone do nothing for a role, and from 16 on no role gets rid of them by RESET.
QUERY = f"""
WITH RECURSIVE edge AS (
    SELECT member, roleid, grantor, admin_option, coalesce((to_jsonb(one) ->> 'set_option')::bool, true) AS sets,
        coalesce((to_jsonb(one) ->> 'inherit_option')::bool, true) AS inherits FROM pg_auth_members AS one
), reach AS (
    SELECT oid AS start, oid AS role FROM pg_roles WHERE rolname IN (%(current)s, %(other)s)
    UNION SELECT start, roleid FROM reach JOIN edge ON member = role JOIN pg_roles ON oid = start
        WHERE (rolcreaterole OR admin_option OR inherits OR sets)
            AND (role = start OR role <> (SELECT oid FROM pg_roles WHERE rolname = %(current)s))
), power AS (
    SELECT oid, name FROM pg_roles, LATERAL (VALUES ('SUPERUSER', rolsuper), ('CREATEROLE', rolcreaterole),
        ('REPLICATION', rolreplication), ('BYPASSRLS', rolbypassrls), ('CREATEDB', rolcreatedb),
        (rolname::text, NOT rolsuper AND oid < 16384
        OR rolname IN ('rds_superuser', 'rds_replication', 'rds_password'))) AS one (name, has) WHERE has
), used AS (SELECT * FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass)
SELECT it.rolname::text, ARRAY(SELECT name FROM power WHERE oid = it.oid), it.rolcanlogin, it.rolinherit,
    it.rolconnlimit, coalesce(it.rolvaliduntil, 'infinity')::text,
    ARRAY(SELECT ARRAY[coalesce(datname::text, ''), name, CASE WHEN name <> 'role' OR EXISTS (SELECT FROM pg_roles
            WHERE rolname = value AND pg_has_role(it.oid, pg_roles.oid, %(set)s)) THEN value ELSE it.rolname END]
        FROM pg_db_role_setting LEFT JOIN pg_database ON pg_database.oid = setdatabase, unnest(setconfig) AS entry,
            split_part(entry, '=', 1) AS name, substr(entry, strpos(entry, '=') + 1) AS value
        WHERE setrole = it.oid AND name !~ '^(seed|transaction_(deferrable|isolation|read_only))$'),
    ARRAY(SELECT ARRAY[rolname::text, (bool_or(inherits) AND bool_or(sets))::text]
        FROM edge JOIN pg_roles ON oid = roleid WHERE member = it.oid GROUP BY rolname),
    ARRAY(SELECT name FROM reach JOIN power ON oid = role WHERE start = it.oid
        EXCEPT SELECT name FROM power WHERE pg_has_role(mine.oid, oid, %(set)s)
        AND (oid = mine.oid OR (name, true) NOT IN (('REPLICATION', it.rolreplication), ('BYPASSRLS', it.rolbypassrls)))
            OR name !~ '^[A-Z]' AND pg_has_role(mine.oid, oid, 'USAGE') ORDER BY 1),
    ARRAY(SELECT rolname::text FROM reach JOIN pg_roles ON oid = role
        WHERE start = it.oid AND role <> start AND NOT (pg_has_role(mine.oid, role, %(sound)s)
            AND {_ADMIN.format("mine", "role", "%(sound)s")} >= pg_has_role(it.oid, role, 'MEMBER WITH ADMIN OPTION')
            AND pg_has_role(mine.oid, role, 'USAGE') >= pg_has_role(it.oid, role, 'USAGE')
            AND pg_has_role(mine.oid, role, %(set)s) >= pg_has_role(it.oid, role, %(set)s)) ORDER BY 1),
    pg_has_role(mine.oid, it.oid, %(set)s),
    EXISTS (SELECT FROM edge JOIN pg_roles AS one ON one.oid = grantor WHERE member = it.oid AND roleid = mine.oid
        AND (inherits OR sets) AND NOT (one.rolsuper AND one.oid <> 10 AND %(version)s >= 160000)
        AND {_MAY.format("one", "it")}),
    ARRAY(SELECT one.rolname::text FROM pg_roles AS one WHERE NOT one.rolsuper AND one.oid <> asking.oid
        AND EXISTS (SELECT FROM edge WHERE roleid = it.oid AND pg_has_role(one.oid, member, 'USAGE'))
        AND NOT {_MAY.format("one", "mine")}
        AND NOT (pg_has_role(one.oid, mine.oid, 'USAGE') AND pg_has_role(one.oid, mine.oid, %(set)s)) ORDER BY 1),
    asking.rolsuper OR NOT it.rolsuper AND asking.rolcreaterole AND (%(version)s < 160000
        OR pg_has_role(asking.oid, it.oid, 'MEMBER WITH ADMIN OPTION')),
    asking.rolsuper OR asking.rolcreaterole, %(version)s < 160000 OR {_ADMIN.format("asking", "it.oid", "'USAGE'")},
    ARRAY(SELECT format('%%I (%%s)', coalesce(datname, 'shared'), count(*))
        FROM used LEFT JOIN pg_database ON pg_database.oid = dbid WHERE refobjid = it.oid AND deptype = 'o'
            AND classid <> 'pg_default_acl'::regclass GROUP BY datname ORDER BY datname),
    EXISTS (SELECT FROM used WHERE refobjid = it.oid AND deptype = 'a'
        AND classid NOT IN ('pg_database'::regclass, 'pg_auth_members'::regclass)),
    EXISTS (SELECT FROM used WHERE refobjid = it.oid),
    (SELECT count(*) FROM pg_stat_activity WHERE usesysid = it.oid AND application_name <> 'rotation_lambda'),
    coalesce((SELECT rolname::text FROM (SELECT substr(entry, 6) AS value
            FROM pg_db_role_setting, unnest(setconfig) AS entry WHERE entry LIKE 'role=%%' AND setrole IN (0, it.oid)
                AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = %(dbname)s))
            ORDER BY setrole = 0, setdatabase = 0 LIMIT 1) AS first
        JOIN pg_roles ON rolname = value AND pg_has_role(it.oid, oid, %(set)s)), it.rolname)
FROM pg_roles AS it, pg_roles AS mine, pg_roles AS asking
WHERE it.rolname IN (%(current)s, %(other)s) AND mine.rolname = %(current)s AND asking.rolname = session_user
"""

# What a clone's session shows of itself. Where its right to the `role` that is set for it was revoked, it is let in
# with a warning, and runs as the user who logged in.
IDENTITY_QUERY = """
SELECT current_user::text, (SELECT substr(entry, 6) FROM pg_db_role_setting, unnest(setconfig) AS entry
        WHERE setrole = self.oid AND entry LIKE 'role=%%'
            AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
        ORDER BY setdatabase DESC LIMIT 1),
    coalesce((SELECT pg_has_role(self.oid, oid, 'USAGE') FROM pg_roles WHERE rolname = %(original)s), false),
    ARRAY(SELECT pg_describe_object(classid, objid, objsubid) FROM pg_shdepend
        WHERE refclassid = 'pg_authid'::regclass AND deptype = 'o'
            AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = %(clone)s)
            AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        ORDER BY 1 LIMIT 20) FROM pg_roles AS self WHERE self.rolname = session_user
"""
ANEW = "Look at what the user owns, then drop it, as docs/alternating-users.md#which-users-it-changes shows."
_ROTATE_AGAIN = "Rotate again: setSecret grants what is missing. If it is missing again, find out who revokes it."


class Identity(NamedTuple):
    """One row of IDENTITY_QUERY."""

    runs_as: str
    starts_as: str | None
    has_rights: bool
    clone_owns: list[str]

    def check(self, credential: Credential) -> None:
        """Return where a clone has the original's rights, and runs as its setting says; all others are right as is."""
        user, original = credential.username, credential.original
        if user == original:
            return
        if self.runs_as != (self.starts_as or self.runs_as):
            what = f"User {user!a} logs in and runs as {self.runs_as!a}, not as {self.starts_as!a} as its setting says"
            raise RoleNotPreparedError(f"{what}: a membership was revoked.", hint=_ROTATE_AGAIN)
        if not self.has_rights:
            raise RoleNotPreparedError(f"User {user!a} logs in without the rights of {original!a}.", hint=_ROTATE_AGAIN)


class Change(NamedTuple):
    """A statement; `first` is what a DBA has to run in its place, before any other."""

    statement: str
    first: str = ""

    def __str__(self) -> str:
        return f"{self.statement};"


@dataclass(frozen=True, slots=True)
class Role:
    """One row of QUERY; the defaults are those of CREATE ROLE. `mine` is AWSCURRENT's user, whose own row it can be.

    `settings` are those of ALTER ROLE … SET, by database ("" for all) and name; a `role` that this one may not become
    counts as itself, as in its sessions. `memberships` tells of each role that was granted to this one whether INHERIT
    and SET came with it. `further` are attributes and predefined roles, and `beyond` roles, that this one can come by
    and `mine` has not; `below` says that `mine` may become it by SET ROLE. `vouched` says that it was made a member of
    `mine` by who may alter it, and `strangers` are members of it that have no say over `mine`. `administered` says that
    the superuser may alter the role, `creates` that it may alter any, and `grantable` that it may also make others
    members of the role. `owns` counts objects by database; `is_used` says that anything in the server refers to the
    role. `runs_as` is what it runs as in the secret's database.
    """

    name: str
    attributes: list[str] = field(default_factory=list)
    can_login: bool = False
    inherits: bool = True
    connection_limit: int = -1
    valid_until: str = "infinity"
    settings: Mapping[tuple[str, str], str] = field(default_factory=dict)
    memberships: Mapping[str, bool] = field(default_factory=dict)
    further: list[str] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    below: bool = False
    vouched: bool = False
    strangers: list[str] = field(default_factory=list)
    administered: bool = True
    creates: bool = True
    grantable: bool = True
    owns: list[str] = field(default_factory=list)
    is_grantee: bool = False
    is_used: bool = False
    sessions: int = 0
    runs_as: str = ""

    @property
    def keeps_to_itself(self) -> bool:
        """Whether sessions would lose rights if they ran under another role, as to what an AWS sample's clone owns."""
        return bool(self.owns or self.is_grantee or self.beyond)


class Roles(NamedTuple):
    """What QUERY found, by name; the superuser who asked, and the server's version."""

    found: Mapping[str, Role]
    superuser: str
    version: int


def parameters(current: Credential, pending: Credential, version: int) -> dict[str, object]:
    """Return QUERY's parameters. Before PostgreSQL 16 every member may become the role that it is a member of."""
    sets, sound = ("SET", "USAGE, SET") if version >= _PER_MEMBERSHIP else ("MEMBER", "MEMBER")
    users = {"current": current.username, "other": pending.username}
    return {**users, "dbname": current.dbname, "set": sets, "sound": sound, "version": version}


def read_roles(rows: list[list[Any]]) -> dict[str, Role]:
    """Read the rows of QUERY."""
    columns = [column.name for column in fields(Role)]
    roles = [dict(zip(columns, row, strict=True)) for row in rows]
    for role in roles:
        role["settings"] = {(database, name): value for database, name, value in role["settings"]}
        role["memberships"] = {name: sound == "true" for name, sound in role["memberships"]}
    return {role["name"]: Role(**role) for role in roles}


class Plan(NamedTuple):
    """What comes before the change of a password, in the same transaction; and what a DBA should know."""

    changes: list[Change]
    notes: list[str]


def make_plan(roles: Roles, pending: Credential, trust: Trust) -> Plan:
    """Return what brings AWSPENDING's user to what its strategy needs: a clone into step, all others not at all.

    The user in use is never touched, nor an original. Raises RoleNotPreparedError where a role is missing, where
    nothing but the secret's value says that it is the secret's own, and where the superuser may not do what is needed;
    the hint has the statements to run only where they give nothing to, and take nothing from, a role that only
    the secret or the role itself has named.
    """
    current = trust.current
    mine, other = roles.found.get(current.username), roles.found.get(pending.username)
    is_clone = not current.usernames and pending.username not in {current.username, current.original}
    if mine is None or (other is None and not is_clone):
        missing = pending.username if mine else current.username
        raise RoleNotPreparedError(
            f"Role {missing!a} does not exist.",
            hint="Create it again, with the grants it had; or correct `username` (or `usernames`) as "
            "docs/runbook.md#change-the-secret shows.",
        )
    superuser = quote_name(roles.superuser) if trust.pinned else "SUPERUSER"
    old = None if is_clone and other and not other.memberships.get(mine.name) else other
    changes = [] if old else [_create(quote_name(pending.username), superuser, roles.version, anew=bool(other))]
    if is_clone:
        changes += _bring_into_step(mine, old or Role(pending.username), current.dbname, trust.runs_as, roles.version)
    granted = mine if any(change.statement.startswith("GRANT ") for change in changes) else None
    _check_ours(mine, "is not shown to accept AWSCURRENT's password", trust)
    if other and other.name != mine.name:
        _check_ours(other, _doubt(mine, other, current, is_clone=is_clone), trust)
        strangers = ", ".join(map(ascii, other.strangers))
        if strangers and granted:
            raise RoleNotPreparedError(
                f"User {other.name!a} would share the rights of {mine.name!a} with its members or heirs: {strangers}.",
                hint="Find out who made it. If its members may have these rights, see docs/alternating-users.md.",
            )
    if other and not old and ({*other.memberships} - {mine.name} or other.attributes or other.sessions or other.below):
        what = f"User {other.name!a} lacks rights of {mine.name!a}, and has attributes, memberships or sessions"
        raise RoleNotPreparedError(f"{what} that it would lose if it were created anew.", hint=ANEW)
    altered = [role for role in (mine if is_clone else None, other) if role]
    _check_may_alter(altered, granted, roles.superuser, superuser)
    clone = other if is_clone else mine if pending.username == current.original != current.username else None
    return Plan(changes, list(_notes(mine, other, clone, current.original, trust.runs_as)))


def _check_ours(role: Role, doubt: str, trust: Trust) -> None:
    """Return where there is no doubt that the role is the secret's, or where more than the secret's value says so."""
    if doubt and not trust.is_ours(role.name):
        raise RoleNotPreparedError(
            f"User {role.name!a} {doubt}. That the secret is for this user is said by its value alone.",
            hint="Name the users that this secret is for, if you know them, separated by spaces: `aws secretsmanager "
            f"tag-resource --secret-id SECRET --tags 'Key={TAG},Value=USERS'`. Otherwise correct the secret.",
        )


def _doubt(mine: Role, other: Role, current: Credential, *, is_clone: bool) -> str:
    """Return what makes it doubtful that AWSPENDING's user is the secret's own; nothing where the database shows it.

    A role that AWSCURRENT's user may become could have its password changed by that user as well. A clone is one by its
    name if a user who may alter it has made it a member of its original, or if it is as good as new. One of `usernames`
    may not have anything that the other has not.
    """
    if other.below or (is_clone and other.vouched and not other.further):
        return ""
    theirs = other.name.removesuffix(CLONE)
    doubts = [
        (theirs in other.memberships and theirs not in current.pair, f"is the clone of {theirs!a} by name and rights"),
        (other.further, f"has {', '.join(other.further)}, which {mine.name!a} has not"),
        (not is_clone and not current.usernames, f"is not one that {mine.name!a} may become by SET ROLE"),
        (other.beyond, f"is a member of {', '.join(map(ascii, other.beyond))}, which {mine.name!a} is not"),
        (other.is_used, "owns something in the server, or has privileges of its own"),
        (other.sessions, "has open sessions"),
        (is_clone and other.can_login, f"exists, and no user who may alter it made it a member of {mine.name!a}"),
        (not is_clone and not other.administered, "is not one that the superuser has ADMIN OPTION on"),
    ]
    return next((doubt for is_so, doubt in doubts if is_so), "")


def _create(name: str, superuser: str, version: int, *, anew: bool) -> Change:
    """Make a role; who does so may alter it, from PostgreSQL 16 on no other user without ADMIN OPTION.

    One that has not got the original's rights yet is made `anew`: nothing shows which sessions run as it by SET ROLE,
    even of users who are gone.
    """
    create = f"DROP ROLE {name}; CREATE ROLE {name}" if anew else f"CREATE ROLE {name}"
    grant = f" GRANT {name} TO {superuser} WITH ADMIN OPTION;" if version >= _PER_MEMBERSHIP else ""
    return Change(create, first=f"{create};{grant}")


def _bring_into_step(original: Role, clone: Role, dbname: str, runs_as: str | None, version: int) -> Iterator[Change]:
    """Yield what differs (PostgreSQL: ALTER ROLE, GRANT). SUPERUSER, REPLICATION and BYPASSRLS are never copied.

    Who makes a clone by hand stays a member of it (16+), so that the GRANT is the last thing to do by hand as well.
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
    wanted = _roles_of(original, clone, dbname, runs_as)
    wanted |= {key: value for key, value in original.settings.items() if key[1] != "role"}
    for database, setting in sorted(clone.settings.keys() - wanted.keys()):
        yield Change(f"{_alter(name, database)} RESET {_quote_setting(setting)}")
    for (database, setting), value in wanted.items():
        if clone.settings.get((database, setting)) != value:
            yield _set(_alter(name, database), setting, value)
    if not clone.memberships.get(original.name):
        how = " WITH INHERIT TRUE, SET TRUE" if version >= _PER_MEMBERSHIP else ""
        grant = f"GRANT {quote_name(original.name)} TO {name}{how}"
        yield Change(grant, first=f"{grant};")


def _roles_of(original: Role, clone: Role, dbname: str, runs_as: str | None) -> dict[tuple[str, str], str]:
    """Return the `role` settings that a clone has, by database.

    In the secret's own database the clone runs as AWSCURRENT's session does, whatever setting that is by, elsewhere as
    the original's own settings say: what it creates belongs to both, and CREATEDB and the like are the original's. One
    that has rights of its own keeps to itself until it has none, and nothing is changed where AWSCURRENT is not let in.
    """
    own = {key: value for key, value in clone.settings.items() if key[1] == "role"}
    if clone.keeps_to_itself or (own and not runs_as):
        return own
    wanted = {("", "role"): original.name}
    wanted |= {key: value for key, value in original.settings.items() if key[1] == "role"}
    if runs_as and wanted.get((dbname, "role"), wanted["", "role"]) != runs_as:
        wanted[dbname, "role"] = runs_as
    return wanted


def _alter(name: str, database: str) -> str:
    return f"ALTER ROLE {name} IN DATABASE {quote_name(database)}" if database else f"ALTER ROLE {name}"


def _set(alter: str, setting: str, value: str) -> Change:
    """Store a value byte for byte.

    FROM CURRENT would make `5MB` of `5120`; and to have the value in this session, be it for a moment, could make the
    superuser run what the search_path leads to.
    """
    values = [value]
    if setting in _LISTS:
        if not setting.endswith("libraries"):  # a name without quotes is folded, if it is ASCII (PostgreSQL 4.1.1)
            value = re.sub('"[^"]*"|[A-Z]+', lambda part: part[0] if part[0][0] == '"' else part[0].lower(), value)
        values = [quoted.replace('""', '"') or bare for quoted, bare in _NAME_IN_LIST.findall(value)] or [""]
    return Change(f"{alter} SET {_quote_setting(setting)} TO {', '.join(map(quote_literal, values))}")


def _check_may_alter(roles: list[Role], granted: Role | None, superuser: str, quoted: str) -> None:
    """Return where the superuser may alter the roles, and grant the one that is to be granted.

    It takes CREATEROLE, and from PostgreSQL 16 on ADMIN OPTION as well.
    """
    if far := [role for role in roles if "SUPERUSER" in role.attributes and not role.administered]:
        raise RoleNotPreparedError(
            f"{', '.join(ascii(role.name) for role in far)} has SUPERUSER, and the superuser {superuser!a} has not.",
            hint="Rotate it as single-user: remove `masterarn`, as docs/runbook.md#change-the-secret shows. "
            "PostgreSQL lets no other user alter such a role.",
        )
    lacking = [role for role in roles if not role.administered or (role is granted and not role.grantable)]
    missing = [] if all(role.creates for role in roles) else [f"ALTER ROLE {quoted} CREATEROLE;"]
    missing += [f"GRANT {quote_name(role.name)} TO {quoted} WITH ADMIN OPTION;" for role in lacking]
    if missing:
        deed = "grant" if all(role.administered for role in roles) else "alter"
        what = f"The superuser {superuser!a} may not {deed} {', '.join(ascii(role.name) for role in lacking or roles)}."
        raise RoleNotPreparedError(what, hint=f"Run as a role that may: {' '.join(missing)}")


def _notes(mine: Role, other: Role | None, clone: Role | None, original: str, runs_as: str | None) -> Iterator[str]:
    if other and other.name != mine.name:
        if other.sessions:
            yield (
                f"Role {other.name!a}, whose password changes now, still has {other.sessions} sessions: their "
                "applications have not read the secret since the last rotation."
            )
        lacking = [name for name in mine.memberships if name not in {*other.memberships, other.name}]
        if lacking and not clone:
            yield f"Role {other.name!a} is not a member of {', '.join(map(ascii, lacking))}, as {mine.name!a} is."
        same = other.runs_as == (other.name if runs_as == mine.name else runs_as)
        if runs_as and not clone and not same:
            yield (
                f"Role {mine.name!a} runs as {runs_as!a}, and {other.name!a} as {other.runs_as!a}: set the same `role` "
                "for both, or what one of them creates is not the other's."
            )
    if clone and clone.owns:
        yield (
            f"Role {clone.name!a} owns objects, by database: {', '.join(clone.owns)}. Run in each of them: REASSIGN "
            f"OWNED BY {quote_name(clone.name)} TO {quote_name(original)};"
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
