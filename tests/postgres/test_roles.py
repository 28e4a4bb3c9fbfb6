"""What a superuser is to change beside a password, from what the catalogs say: pure, and down to the statement."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from rotation_lambda import errors
from rotation_lambda.credential import Credential
from rotation_lambda.postgres import roles

APP, CLONE = roles.Role("app", can_login=True), roles.Role("app_clone", can_login=True)
IN_STEP = replace(CLONE, settings={("", "role"): "app"}, memberships={"app": True}, below=True)
GRANT = 'GRANT "app" TO "app_clone" WITH INHERIT TRUE, SET TRUE'
AS_ORIGINAL = 'ALTER ROLE "app_clone" SET "role" TO \'app\''


def credential(username: str, *usernames: str) -> Credential:
    pair = (usernames[0], usernames[1]) if usernames else None
    return Credential("db.example", 5432, "postgres", username, "", usernames=pair)


def plan(
    *found: roles.Role,
    current: str = "app",
    pending: str = "app_clone",
    usernames: tuple[str, ...] = (),
    proved: bool = True,
    version: int = 170004,
) -> roles.Plan:
    """Return what a superuser called master is to do on a server that has these roles."""
    known = roles.Roles({role.name: role for role in found}, "master", version)
    return roles.make_plan(known, credential(current, *usernames), credential(pending, *usernames), proved=proved)


def statements(*found: roles.Role, **how: Any) -> list[str]:  # noqa: ANN401 - plan()'s own
    return [change.statement for change in plan(*found, **how).changes]


def refusal(*found: roles.Role, **how: Any) -> errors.RoleNotPreparedError:  # noqa: ANN401
    with pytest.raises(errors.RoleNotPreparedError) as caught:
        plan(*found, **how)
    return caught.value


class TestNewClone:
    def test_is_created_made_a_member_and_runs_as_the_original(self) -> None:
        assert statements(APP) == [
            'CREATE ROLE "app_clone"',
            'ALTER ROLE "app_clone" LOGIN',
            GRANT,
            AS_ORIGINAL,
        ]

    def test_has_the_originals_limits_and_settings(self) -> None:
        settings = {("", "search_path"): '"$user", public', ("shop", "work_mem"): "64MB"}
        until = "2030-01-01 00:00:00+00"
        original = replace(APP, connection_limit=7, valid_until=until, settings=settings)
        assert statements(original)[1:] == [
            f"ALTER ROLE \"app_clone\" LOGIN CONNECTION LIMIT 7 VALID UNTIL '{until}'",
            GRANT,
            AS_ORIGINAL,
            "ALTER ROLE \"app_clone\" SET \"search_path\" TO '$user', 'public'",
            'ALTER ROLE "app_clone" IN DATABASE "shop" SET "work_mem" TO \'64MB\'',
        ]

    @pytest.mark.parametrize("attribute", ["SUPERUSER", "CREATEROLE", "REPLICATION", "BYPASSRLS"])
    def test_never_has_what_makes_the_original_mighty(self, attribute: str) -> None:
        assert not re.search(attribute, " ".join(statements(replace(APP, attributes=[attribute]))))

    @pytest.mark.parametrize("name", ['"; DROP ROLE app; --', "%s", "a b", "'", "\\", "ü" * 20])
    def test_is_quoted_whatever_its_name(self, name: str) -> None:
        original = replace(APP, name=name)
        clone = '"' + (name + "_clone").replace('"', '""') + '"'
        made = statements(original, current=name, pending=f"{name}_clone")
        assert made[:2] == [f"CREATE ROLE {clone}", f"ALTER ROLE {clone} LOGIN"]
        assert made[2].startswith(f"GRANT {roles.quote_name(name)} TO {clone}")
        assert made[3] == f'ALTER ROLE {clone} SET "role" TO {roles.quote_literal(name)}'

    def test_tells_nothing(self) -> None:
        assert plan(APP).notes == []


class TestCloneInStep:
    @pytest.mark.parametrize(
        ("original", "clone"),
        [
            (APP, IN_STEP),
            (replace(APP, attributes=["SUPERUSER"], inherits=False), IN_STEP),
            (replace(APP, connection_limit=7), replace(IN_STEP, connection_limit=7)),
            (
                replace(APP, settings={("", "a.b"): "x", ("d", "c"): "y"}),
                replace(IN_STEP, settings={("d", "c"): "y", ("", "role"): "app", ("", "a.b"): "x"}),
            ),
            (replace(APP, memberships={"readers": True}), IN_STEP),
        ],
    )
    def test_is_left_as_it_is(self, original: roles.Role, clone: roles.Role) -> None:
        assert plan(original, clone) == roles.Plan([], [])


class TestCloneOutOfStep:
    """One statement for what differs, and none for what does not."""

    @pytest.mark.parametrize(
        ("clone", "clauses"),
        [
            ({"can_login": False}, "LOGIN"),
            ({"inherits": False}, "INHERIT"),
            ({"connection_limit": 3}, "CONNECTION LIMIT -1"),
            ({"connection_limit": 0}, "CONNECTION LIMIT -1"),
            ({"valid_until": "2020-01-01 00:00:00+00"}, "VALID UNTIL 'infinity'"),
            ({"can_login": False, "valid_until": "-infinity"}, "LOGIN VALID UNTIL 'infinity'"),
        ],
        ids=str,
    )
    def test_by_an_attribute(self, clone: dict[str, Any], clauses: str) -> None:
        assert statements(APP, replace(IN_STEP, **clone)) == [f'ALTER ROLE "app_clone" {clauses}']

    def test_by_an_original_that_may_not_log_in_or_does_not_inherit(self) -> None:
        assert statements(replace(APP, can_login=False, inherits=False), IN_STEP) == []

    @pytest.mark.parametrize("memberships", [{}, {"app": False}, {"readers": True}])
    @pytest.mark.parametrize(
        ("version", "how"),
        [
            (150000, ""),
            (159999, ""),
            (160000, " WITH INHERIT TRUE, SET TRUE"),
            (180001, " WITH INHERIT TRUE, SET TRUE"),
        ],
    )
    def test_by_a_membership_that_is_missing_or_unsound(
        self, memberships: dict[str, bool], version: int, how: str
    ) -> None:
        clone = replace(IN_STEP, memberships=memberships)
        assert statements(APP, clone, version=version) == [f'GRANT "app" TO "app_clone"{how}']

    @pytest.mark.parametrize(
        ("database", "setting", "value", "statement"),
        [
            ("", "work_mem", "64MB", """"work_mem" TO '64MB'"""),
            ("", "search_path", '"$user", "a b", "a,""b", c', """"search_path" TO '$user', 'a b', 'a,"b', 'c'"""),
            ("", "search_path", "", """"search_path" TO ''"""),
            ("", "search_path", '""', """"search_path" TO ''"""),
            ("", "DateStyle", "ISO, DMY", """"DateStyle" TO 'ISO, DMY'"""),
            ("", "app.tenant", "x", """"app"."tenant" TO 'x'"""),
            ("", "app.it's", "it's", """"app"."it's" TO 'it''s'"""),
            ("", 'a"b', "\\", """"a""b" TO E'\\\\'"""),
            ("", "empty", "", """"empty" TO ''"""),
            ("", "lines", "a\nb=c", """"lines" TO 'a\nb=c'"""),
            ("shop", "work_mem", "1MB", """"work_mem" TO '1MB'"""),
            ('sh"op', "a.b", "%s", """"a"."b" TO '%s'"""),
        ],
    )
    @pytest.mark.parametrize("before", [None, "another"])
    def test_by_a_setting(self, database: str, setting: str, value: str, statement: str, before: str | None) -> None:
        original = replace(APP, settings={(database, setting): value})
        had = {} if before is None else {(database, setting): before}
        place = f" IN DATABASE {roles.quote_name(database)}" if database else ""
        [change] = plan(original, replace(IN_STEP, settings={("", "role"): "app", **had})).changes
        assert change.statement == f'ALTER ROLE "app_clone"{place} SET {statement}'
        assert str(change) == f"{change.statement};"

    @pytest.mark.parametrize(
        ("extra", "statement"),
        [
            (("", "work_mem"), 'ALTER ROLE "app_clone" RESET "work_mem"'),
            (("", "a.b"), 'ALTER ROLE "app_clone" RESET "a"."b"'),
            (("shop", "work_mem"), 'ALTER ROLE "app_clone" IN DATABASE "shop" RESET "work_mem"'),
            (("shop", "role"), 'ALTER ROLE "app_clone" IN DATABASE "shop" RESET "role"'),
        ],
    )
    def test_by_a_setting_that_the_original_has_not(self, extra: tuple[str, str], statement: str) -> None:
        clone = replace(IN_STEP, settings={("", "role"): "app", extra: "x"})
        assert statements(APP, clone) == [statement]
        assert [str(change) for change in plan(APP, clone).changes] == [f"{statement};"]

    @pytest.mark.parametrize("role", [None, "somebody"])
    def test_by_running_as_another_than_the_original(self, role: str | None) -> None:
        clone = replace(IN_STEP, settings={} if role is None else {("", "role"): role})
        assert statements(APP, clone) == [AS_ORIGINAL]

    def test_by_not_running_as_the_role_that_the_original_starts_under(self) -> None:
        original = replace(APP, settings={("", "role"): "owner", ("shop", "role"): "shopkeeper's"})
        assert statements(original, IN_STEP) == [
            'ALTER ROLE "app_clone" SET "role" TO \'owner\'',
            'ALTER ROLE "app_clone" IN DATABASE "shop" SET "role" TO \'shopkeeper\'\'s\'',
        ]
        assert statements(original, replace(IN_STEP, settings=original.settings)) == []

    def test_takes_away_before_it_gives(self) -> None:
        original = replace(APP, connection_limit=2, settings={("", "a"): "1"})
        clone = replace(IN_STEP, memberships={}, settings={("", "z"): "1", ("", "b"): "2"})
        *first, last = statements(original, clone)
        assert first == [
            'ALTER ROLE "app_clone" CONNECTION LIMIT 2',
            GRANT,
            'ALTER ROLE "app_clone" RESET "b"',
            'ALTER ROLE "app_clone" RESET "z"',
            AS_ORIGINAL,
        ]
        assert last == 'ALTER ROLE "app_clone" SET "a" TO \'1\''


KEEPS_TO_ITSELF = pytest.mark.parametrize(
    "own", [{"owns": ["shop (3)"]}, {"is_grantee": True}, {"beyond": ["readers"]}], ids=str
)


class TestCloneWithRightsOfItsOwn:
    """As the AWS sample leaves one: under the original it would lose what it owns, and its applications with it."""

    @KEEPS_TO_ITSELF
    def test_keeps_to_itself(self, own: dict[str, Any]) -> None:
        clone = replace(CLONE, memberships={"app": True}, **own)
        assert clone.keeps_to_itself
        assert statements(APP, clone) == []
        assert statements(replace(APP, settings={("", "role"): "owner"}), clone) == []

    @KEEPS_TO_ITSELF
    @pytest.mark.parametrize("role", ["app", "somebody"])
    def test_keeps_running_as_it_does(self, own: dict[str, Any], role: str) -> None:
        clone = replace(CLONE, memberships={"app": True}, settings={("", "role"): role, ("d", "role"): role}, **own)
        assert statements(APP, clone) == []

    @KEEPS_TO_ITSELF
    def test_is_brought_into_step_in_all_else(self, own: dict[str, Any]) -> None:
        clone = replace(CLONE, can_login=False, settings={("", "old"): "x"}, memberships={"app": False}, **own)
        original = replace(APP, settings={("", "role"): "owner", ("", "new"): "y"})
        assert statements(original, clone) == [
            'ALTER ROLE "app_clone" LOGIN',
            GRANT,
            'ALTER ROLE "app_clone" RESET "old"',
            'ALTER ROLE "app_clone" SET "new" TO \'y\'',
        ]

    @pytest.mark.parametrize(("current", "pending"), [("app", "app_clone"), ("app_clone", "app")])
    def test_is_told_with_the_reassign_to_run(self, current: str, pending: str) -> None:
        clone = replace(CLONE, memberships={"app": True}, owns=["shared (1)", "shop (3)"])
        [note] = plan(replace(APP, below=True), clone, current=current, pending=pending).notes
        assert "'app_clone' owns objects, by database: shared (1), shop (3)." in note
        assert note.endswith('REASSIGN OWNED BY "app_clone" TO "app";')

    @pytest.mark.parametrize("own", [{"is_grantee": True}, {"beyond": ["readers"]}], ids=str)
    @pytest.mark.parametrize(("current", "pending"), [("app", "app_clone"), ("app_clone", "app")])
    def test_is_told_where_it_owns_nothing(self, own: dict[str, Any], current: str, pending: str) -> None:
        clone = replace(CLONE, memberships={"app": True}, **own)
        [note] = plan(replace(APP, below=True), clone, current=current, pending=pending).notes
        assert "'app_clone' has grants of its own, so its sessions run as itself" in note


class TestRolesThatAreNotChanged:
    """The one in use, an original, and either of two named users: there is a password to set, and nothing else."""

    OUT_OF_STEP = replace(CLONE, can_login=False, connection_limit=1, settings={("", "a"): "b"})

    def test_original(self) -> None:
        original = replace(APP, can_login=False, valid_until="-infinity", below=True)
        assert statements(original, self.OUT_OF_STEP, current="app_clone", pending="app") == []

    @pytest.mark.parametrize("usernames", [("app", "app_clone"), ("app_clone", "app")])
    @pytest.mark.parametrize("current", ["app", "app_clone"])
    def test_named_users(self, usernames: tuple[str, str], current: str) -> None:
        pending = usernames[current == usernames[0]]
        assert statements(APP, self.OUT_OF_STEP, current=current, pending=pending, usernames=usernames) == []

    @pytest.mark.parametrize("name", ["app", "app_clone", "_clone"])
    def test_single_user(self, name: str) -> None:
        assert statements(replace(self.OUT_OF_STEP, name=name), current=name, pending=name) == []

    SETTINGS = st.dictionaries(
        st.tuples(st.sampled_from(["", "shop"]), st.sampled_from(["role", "a", "a.b"])), st.text(max_size=3)
    )
    ROLES = st.builds(
        roles.Role,
        name=st.just("app"),
        can_login=st.booleans(),
        inherits=st.booleans(),
        connection_limit=st.integers(-1, 2),
        valid_until=st.sampled_from(["infinity", "2030-01-01 00:00:00+00"]),
        settings=SETTINGS,
        memberships=st.dictionaries(st.sampled_from(["app", "readers"]), st.booleans()),
        owns=st.sampled_from([[], ["shop (1)"]]),
        is_grantee=st.booleans(),
    )

    @hypothesis.given(ROLES, ROLES, st.sampled_from([150000, 170000]))
    def test_every_change_is_to_the_clone_alone(self, app: roles.Role, other: roles.Role, version: int) -> None:
        for found in ([app], [app, replace(other, name="app_clone")]):
            for statement in statements(*found, version=version):
                subject = re.search(r'(?:CREATE ROLE|ALTER ROLE|TO) ("[^"]*")', statement)
                assert subject
                assert subject[1] == '"app_clone"'
                assert 'ALTER ROLE "app"' not in statement

    @hypothesis.given(ROLES, ROLES)
    def test_a_clone_that_was_brought_into_step_is_in_step(self, app: roles.Role, other: roles.Role) -> None:
        """The changes, carried out by hand, leave nothing to change."""
        clone = replace(other, name="app_clone")
        made = statements(app, clone)
        keeps = {key: value for key, value in clone.settings.items() if key[1] == "role"}
        plain = {key: value for key, value in app.settings.items() if key[1] != "role"}
        settings = {**plain, **keeps} if clone.keeps_to_itself else {("", "role"): "app", **app.settings}
        changed = replace(
            clone,
            can_login=True,
            inherits=True,
            connection_limit=app.connection_limit,
            valid_until=app.valid_until,
            memberships={**clone.memberships, "app": True},
            settings=settings,
        )
        assert statements(app, changed) == []
        assert bool(made) == (changed != clone)


class TestMissingRole:
    @pytest.mark.parametrize(
        ("found", "how", "missing"),
        [
            ([], {}, "app"),
            ([CLONE], {}, "app"),
            ([], {"pending": "app"}, "app"),
            ([CLONE], {"current": "app_clone", "pending": "app"}, "app"),
            ([APP], {"current": "app_clone", "pending": "app"}, "app_clone"),
            ([APP], {"usernames": ("app", "app_clone")}, "app_clone"),
            ([CLONE], {"usernames": ("app", "app_clone")}, "app"),
            ([], {"current": "app_clone", "pending": "app_clone"}, "app_clone"),
        ],
    )
    def test_is_named(self, found: list[roles.Role], how: dict[str, Any], missing: str) -> None:
        error = refusal(*found, **how)
        assert error.what == f"Role '{missing}' does not exist."
        assert "Create it again" in error.hint
        assert error.message.endswith("Nothing was changed.")


class TestFurtherRights:
    """Who may write a secret shall not come by the password of a role that can do more than the secret's own."""

    @pytest.mark.parametrize(
        ("current", "pending", "usernames"),
        [
            ("app", "app_clone", ()),
            ("app", "app_clone", ("app", "app_clone")),
            ("app_clone", "app", ("app", "app_clone")),
        ],
    )
    @pytest.mark.parametrize("proved", [True, False])
    def test_are_refused_by_attribute(
        self, current: str, pending: str, usernames: tuple[str, ...], *, proved: bool
    ) -> None:
        found = {"app": replace(APP, below=True), "app_clone": replace(IN_STEP, below=True)}
        found[pending] = replace(found[pending], attributes=["SUPERUSER", "BYPASSRLS"])
        how = {"current": current, "pending": pending, "usernames": usernames, "proved": proved}
        error = refusal(*found.values(), **how)
        assert error.what == f"Role '{pending}' has SUPERUSER, BYPASSRLS, which '{current}' has not."
        assert error.hint == f'Run: ALTER ROLE "{pending}" NOSUPERUSER NOBYPASSRLS;'

    @pytest.mark.parametrize("sound", [True, False])
    def test_of_an_original_are_within_reach_of_the_clone_that_runs_as_it(self, *, sound: bool) -> None:
        mighty = replace(APP, attributes=["CREATEROLE", "BYPASSRLS"], below=True)
        clone = replace(IN_STEP, memberships={"app": sound})
        if sound:
            assert statements(mighty, clone, current="app_clone", pending="app") == []
        else:
            error = refusal(mighty, clone, current="app_clone", pending="app")
            assert error.hint == 'Run: ALTER ROLE "app" NOCREATEROLE NOBYPASSRLS;'

    def test_are_refused_beyond_those_that_the_user_in_use_has_too(self) -> None:
        both = [replace(one, attributes=["CREATEROLE"]) for one in (APP, IN_STEP)]
        assert statements(*both) == []
        error = refusal(both[0], replace(IN_STEP, attributes=["CREATEROLE", "REPLICATION"]))
        assert error.hint == 'Run: ALTER ROLE "app_clone" NOREPLICATION;'

    def test_of_the_user_in_use_do_not_matter(self) -> None:
        assert statements(replace(APP, attributes=["SUPERUSER"]), IN_STEP) == []

    @pytest.mark.parametrize("attribute", ["SUPERUSER", "CREATEROLE", "REPLICATION", "BYPASSRLS"])
    def test_of_a_single_user_ask_for_a_proof(self, attribute: str) -> None:
        mighty = replace(APP, attributes=[attribute], beyond=[])
        assert statements(mighty, pending="app", proved=True) == []
        error = refusal(mighty, pending="app", proved=False)
        assert error.what.startswith(f"Role 'app' has {attribute}, and AWSCURRENT does not log in")
        assert "by hand" in error.hint

    def test_of_a_single_user_without_any_need_no_proof(self) -> None:
        assert statements(APP, pending="app", proved=False) == []

    def test_are_those_of_an_original_that_the_clone_is_no_member_of(self) -> None:
        error = refusal(replace(APP, below=False), CLONE, current="app_clone", pending="app")
        assert error.what.startswith("Role 'app_clone' is not a member of 'app'")
        assert 'GRANT "app" TO "app_clone";' in error.hint
        assert "`usernames`" in error.hint

    @pytest.mark.parametrize("usernames", [("app", "app_clone"), ("app_clone", "app")])
    def test_are_not_those_of_a_named_user_that_the_other_is_no_member_of(self, usernames: tuple[str, str]) -> None:
        assert statements(APP, CLONE, current="app_clone", pending="app", usernames=usernames) == []

    @pytest.mark.parametrize(
        ("clone", "how"),
        [
            (CLONE, {}),
            (replace(CLONE, memberships={"app": True}), {"usernames": ("app", "app_clone")}),
            (CLONE, {"usernames": ("app_clone", "app")}),
        ],
        ids=["a stranger called like a clone", "a named user, a member", "a named user"],
    )
    def test_are_refused_by_membership(self, clone: roles.Role, how: dict[str, Any]) -> None:
        error = refusal(APP, replace(clone, beyond=["readers", 'wri"ters']), **how)
        assert error.what == "Role 'app_clone' is a member of 'readers', 'wri\"ters', and 'app' is not."
        assert 'GRANT "readers" TO "app"; GRANT "wri""ters" TO "app"; Otherwise' in error.hint

    def test_are_refused_of_an_original_whose_roles_are_not_the_clones(self) -> None:
        original = replace(APP, below=True, beyond=["readers"])
        error = refusal(original, CLONE, current="app_clone", pending="app")
        assert 'GRANT "readers" TO "app_clone";' in error.hint

    @pytest.mark.parametrize("sound", [True, False])
    def test_are_the_clones_own_where_it_is_a_clone(self, *, sound: bool) -> None:
        clone = replace(IN_STEP, memberships={"app": sound, "readers": True}, beyond=["readers"])
        assert statements(APP, clone) == ([] if sound else [GRANT])


class TestSuperuserWhoMayNotAlter:
    """The hint is what to run, and all of it."""

    def test_the_original_to_make_a_clone_of(self) -> None:
        error = refusal(replace(APP, administered=False))
        assert error.what == "The superuser 'master' may not alter 'app'."
        assert error.hint == 'Run as a role that may: GRANT "app" TO "master" WITH ADMIN OPTION;'

    def test_a_clone_that_another_has_made(self) -> None:
        error = refusal(APP, replace(IN_STEP, administered=False))
        assert error.hint == 'Run as a role that may: GRANT "app_clone" TO "master" WITH ADMIN OPTION;'

    def test_either_of_the_two(self) -> None:
        error = refusal(replace(APP, administered=False), replace(IN_STEP, administered=False))
        assert error.what == "The superuser 'master' may not alter 'app', 'app_clone'."
        assert error.hint == (
            'Run as a role that may: GRANT "app" TO "master" WITH ADMIN OPTION; '
            'GRANT "app_clone" TO "master" WITH ADMIN OPTION;'
        )

    def test_any_role(self) -> None:
        error = refusal(replace(APP, administered=False, creates=False))
        assert error.hint == (
            'Run as a role that may: ALTER ROLE "master" CREATEROLE; GRANT "app" TO "master" WITH ADMIN OPTION;'
        )

    def test_any_role_though_it_has_the_admin_option(self) -> None:
        error = refusal(replace(APP, creates=False), replace(IN_STEP, creates=False))
        assert error.hint == 'Run as a role that may: ALTER ROLE "master" CREATEROLE;'

    @pytest.mark.parametrize(
        ("current", "pending", "usernames"),
        [("app_clone", "app", ()), ("app_clone", "app", ("app", "app_clone")), ("app", "app", ())],
    )
    def test_the_one_whose_password_changes(self, current: str, pending: str, usernames: tuple[str, ...]) -> None:
        found = replace(APP, administered=False, below=True), replace(CLONE, administered=False)
        error = refusal(*found, current=current, pending=pending, usernames=usernames)
        assert error.hint == 'Run as a role that may: GRANT "app" TO "master" WITH ADMIN OPTION;'

    def test_is_quoted_whatever_its_name(self) -> None:
        found = roles.Roles({"app": replace(APP, creates=False)}, 'ma"ster', 170000)
        with pytest.raises(errors.RoleNotPreparedError) as caught:
            roles.make_plan(found, credential("app"), credential("app"), proved=True)
        assert 'ALTER ROLE "ma""ster" CREATEROLE;' in caught.value.hint


class TestNotes:
    @pytest.mark.parametrize(
        ("current", "pending", "usernames"),
        [("app", "app_clone", ()), ("app_clone", "app", ()), ("app", "app_clone", ("app", "app_clone"))],
    )
    def test_tell_of_sessions_that_never_moved(self, current: str, pending: str, usernames: tuple[str, ...]) -> None:
        found = {"app": replace(APP, below=True), "app_clone": IN_STEP}
        found[pending] = replace(found[pending], sessions=3)
        [note] = plan(*found.values(), current=current, pending=pending, usernames=usernames).notes
        assert note.startswith(f"Role '{pending}', whose password changes now, still has 3 sessions")

    def test_do_not_tell_of_sessions_of_the_user_in_use(self) -> None:
        assert plan(replace(APP, sessions=3), IN_STEP).notes == []
        assert plan(replace(APP, sessions=3), pending="app").notes == []

    @pytest.mark.parametrize("usernames", [("app", "other"), ("other", "app")])
    def test_tell_which_roles_only_one_of_two_named_users_has(self, usernames: tuple[str, str]) -> None:
        mine = replace(APP, memberships={"readers": True, "writers": False, "both": True, "other": True})
        other = roles.Role("other", memberships={"both": True})
        [note] = plan(mine, other, pending="other", usernames=usernames).notes
        assert note == "Role 'other' is not a member of 'readers', 'writers', as 'app' is."

    def test_do_not_tell_of_roles_that_a_clone_has_by_its_original(self) -> None:
        mine = replace(APP, memberships={"readers": True}, below=True)
        assert plan(mine, IN_STEP).notes == []
        clone = replace(IN_STEP, memberships={"app": True, "writers": True})
        assert plan(mine, clone, current="app_clone", pending="app").notes == []

    @pytest.mark.parametrize("name", ["app", "app_clone"])
    def test_do_not_tell_a_single_user_of_what_it_owns(self, name: str) -> None:
        """A name that ends like a clone's makes no clone of it."""
        own = roles.Role(name, owns=["shop (3)"], is_grantee=True, memberships={"app": True, "readers": True})
        assert plan(own, current=name, pending=name).notes == []

    def test_do_not_tell_of_what_named_users_own(self) -> None:
        found = replace(APP, owns=["shop (3)"]), replace(CLONE, owns=["shop (3)"], is_grantee=True)
        assert plan(*found, usernames=("app", "app_clone")).notes == []

    def test_come_one_after_the_other(self) -> None:
        clone = replace(IN_STEP, sessions=1, owns=["shop (3)"], is_grantee=True)
        assert [note.split(",")[0] for note in plan(APP, clone).notes] == [
            "Role 'app_clone'",
            "Role 'app_clone' owns objects",
        ]


class TestReading:
    def test_makes_roles_of_rows(self) -> None:
        row = (
            *("app", ["CREATEROLE"], True, True, -1, "infinity"),
            [["", "search_path", "a, b"], ["shop", "role", "x=y"]],
            [["readers", "true"], ["writers", "false"]],
            *(["beyond"], True, False, ["shop (3)"], True, 2, False),
        )
        assert roles.read_roles([row]) == {
            "app": roles.Role(
                "app",
                ["CREATEROLE"],
                can_login=True,
                settings={("", "search_path"): "a, b", ("shop", "role"): "x=y"},
                memberships={"readers": True, "writers": False},
                beyond=["beyond"],
                below=True,
                administered=False,
                owns=["shop (3)"],
                is_grantee=True,
                sessions=2,
                creates=False,
            )
        }

    def test_finds_no_roles_where_there_are_none(self) -> None:
        assert roles.read_roles([]) == {}


@pytest.mark.parametrize(
    ("text", "quoted"),
    [("", "''"), ("it's", "'it''s'"), ("\\", "E'\\\\'"), ("'\\'", "E'''\\\\'''"), ('"', "'\"'"), ("%s", "'%s'")],
)
def test_a_string_is_quoted_whatever_is_in_it(text: str, quoted: str) -> None:
    assert roles.quote_literal(text) == quoted
