"""What a superuser is to change beside a password, from what the catalogs say: pure, and down to the statement."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import hypothesis
import pytest
from hypothesis import strategies as st

from rotation_lambda import errors
from rotation_lambda.credential import Credential
from rotation_lambda.postgres import roles
from rotation_lambda.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Collection

APP = roles.Role("app", can_login=True, runs_as="app")
CLONE = roles.Role("app_clone", can_login=True, vouched=True)
"""Made a member of its original by who may alter it, as the superuser's own statements do."""
IN_STEP = replace(CLONE, settings={("", "role"): "app"}, memberships={"app": True})
IS_IN: dict[str, Any] = {"memberships": {"app": True}}
GRANT = 'GRANT "app" TO "app_clone" WITH INHERIT TRUE, SET TRUE'
ANEW = 'DROP ROLE "app_clone"; CREATE ROLE "app_clone"'
AS_ORIGINAL = 'ALTER ROLE "app_clone" SET "role" TO \'app\''


def credential(username: str, *usernames: str) -> Credential:
    pair = (usernames[0], usernames[1]) if usernames else None
    return Credential("db.example", 5432, "postgres", username, "", usernames=pair)


def plan(
    *found: roles.Role,
    current: str = "app",
    pending: str = "app_clone",
    usernames: tuple[str, ...] = (),
    ours: Collection[str] = ("app", "app_clone"),
    runs_as: str | None = None,
    pinned: bool = True,
    version: int = 170004,
) -> roles.Plan:
    """Return what a superuser called master is to do on a server that has these roles.

    Of AWSCURRENT's user and of those that are `ours` a password is accepted, or the secret's tag names them.
    """
    known = roles.Roles({role.name: role for role in found}, "master", version)
    trust = Trust(credential(current, *usernames), lambda user: user in ours, runs_as, pinned)
    return roles.make_plan(known, credential(pending, *usernames), trust)


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
            AS_ORIGINAL,
            GRANT,
        ]

    def test_has_the_originals_limits_and_settings(self) -> None:
        settings = {("", "search_path"): '"$user", public', ("shop", "work_mem"): "64MB"}
        until = "2030-01-01 00:00:00+00"
        original = replace(APP, connection_limit=7, valid_until=until, settings=settings)
        assert statements(original)[1:] == [
            f"ALTER ROLE \"app_clone\" LOGIN CONNECTION LIMIT 7 VALID UNTIL '{until}'",
            AS_ORIGINAL,
            "ALTER ROLE \"app_clone\" SET \"search_path\" TO '$user', 'public'",
            'ALTER ROLE "app_clone" IN DATABASE "shop" SET "work_mem" TO \'64MB\'',
            GRANT,
        ]

    @pytest.mark.parametrize("attribute", ["SUPERUSER", "CREATEROLE", "REPLICATION", "BYPASSRLS"])
    def test_never_has_what_makes_the_original_mighty(self, attribute: str) -> None:
        assert not re.search(attribute, " ".join(statements(replace(APP, attributes=[attribute]))))

    @pytest.mark.parametrize("name", ['"; DROP ROLE app; --', "%s", "a b", "'", "\\", "ü" * 20])
    def test_is_quoted_whatever_its_name(self, name: str) -> None:
        original = replace(APP, name=name)
        clone = '"' + (name + "_clone").replace('"', '""') + '"'
        made = statements(original, current=name, pending=f"{name}_clone", ours={name})
        assert made[:2] == [f"CREATE ROLE {clone}", f"ALTER ROLE {clone} LOGIN"]
        assert made[2] == f'ALTER ROLE {clone} SET "role" TO {roles.quote_literal(name)}'
        assert made[3].startswith(f"GRANT {roles.quote_name(name)} TO {clone}")

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

    @pytest.mark.parametrize("memberships", [{}, {"app": False}], ids=["missing", "unsound"])
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
        self, version: int, how: str, memberships: dict[str, bool]
    ) -> None:
        """It is made anew: who may run as it is not known, and would have more than before."""
        made = [ANEW, 'ALTER ROLE "app_clone" LOGIN', AS_ORIGINAL, f'GRANT "app" TO "app_clone"{how}']
        assert statements(APP, replace(IN_STEP, memberships=memberships), version=version, runs_as="app") == made

    @pytest.mark.parametrize(
        ("database", "setting", "value", "statement"),
        [
            ("", "work_mem", "64MB", """"work_mem" TO '64MB'"""),
            ("", "search_path", '"$user", "a b", "a,""b", c', """"search_path" TO '$user', 'a b', 'a,"b', 'c'"""),
            ("", "search_path", 'Shop,"Shop", ÄB', """"search_path" TO 'shop', 'Shop', 'Äb'"""),
            ("", "local_preload_libraries", "Audit, b", """"local_preload_libraries" TO 'Audit', 'b'"""),
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
        assert statements(APP, clone, runs_as="app") == [statement]
        assert [str(change) for change in plan(APP, clone, runs_as="app").changes] == [f"{statement};"]

    @pytest.mark.parametrize("role", [None, "somebody"])
    def test_by_running_as_another_than_the_original(self, role: str | None) -> None:
        clone = replace(IN_STEP, settings={} if role is None else {("", "role"): role})
        assert statements(APP, clone, runs_as="app") == [AS_ORIGINAL]

    def test_by_not_running_as_the_role_that_the_original_starts_under(self) -> None:
        original = replace(APP, settings={("", "role"): "owner", ("shop", "role"): "shopkeeper's"})
        assert statements(original, IN_STEP, runs_as="owner") == [
            'ALTER ROLE "app_clone" SET "role" TO \'owner\'',
            'ALTER ROLE "app_clone" IN DATABASE "shop" SET "role" TO \'shopkeeper\'\'s\'',
        ]
        assert statements(original, replace(IN_STEP, settings=original.settings), runs_as="owner") == []

    def test_takes_away_before_it_gives(self) -> None:
        original = replace(APP, connection_limit=2, settings={("", "a"): "1"})
        clone = replace(IN_STEP, settings={("", "z"): "1", ("", "b"): "2"})
        assert statements(original, clone) == [
            'ALTER ROLE "app_clone" CONNECTION LIMIT 2',
            'ALTER ROLE "app_clone" RESET "b"',
            'ALTER ROLE "app_clone" RESET "z"',
            AS_ORIGINAL,
            'ALTER ROLE "app_clone" SET "a" TO \'1\'',
        ]


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
        clone = replace(CLONE, can_login=False, settings={("", "old"): "x"}, memberships={"app": True}, **own)
        original = replace(APP, settings={("", "role"): "owner", ("", "new"): "y"})
        assert statements(original, clone) == [
            'ALTER ROLE "app_clone" LOGIN',
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
        assert statements(replace(self.OUT_OF_STEP, name=name), current=name, pending=name, ours={name}) == []

    SETTINGS = st.dictionaries(
        st.tuples(st.sampled_from(["", "shop", "postgres"]), st.sampled_from(["role", "a", "a.b"])), st.text(max_size=3)
    )
    ROLES = st.builds(
        roles.Role,
        name=st.just("app"),
        can_login=st.booleans(),
        inherits=st.booleans(),
        connection_limit=st.integers(-1, 2),
        valid_until=st.sampled_from(["infinity", "2030-01-01 00:00:00+00"]),
        settings=SETTINGS,
        memberships=st.sampled_from([{}, {"app": True}, {"app": False}, {"app": True, "readers": True}]),
        owns=st.sampled_from([[], ["shop (1)"]]),
        is_grantee=st.booleans(),
    )

    @hypothesis.given(ROLES, ROLES, st.sampled_from([150000, 170000]), st.sampled_from([None, "app", "owner"]))
    def test_every_change_is_to_the_clone_alone(
        self, app: roles.Role, other: roles.Role, version: int, runs_as: str | None
    ) -> None:
        for found in ([app], [app, replace(other, name="app_clone")]):
            for statement in statements(*found, version=version, runs_as=runs_as):
                subject = re.search(r'(?:CREATE ROLE|ALTER ROLE|TO) ("[^"]*")', statement)
                assert subject
                assert subject[1] == '"app_clone"'
                assert 'ALTER ROLE "app"' not in statement

    @hypothesis.given(ROLES, ROLES, st.sampled_from([None, "app", "owner"]))
    def test_a_clone_that_was_brought_into_step_is_in_step(
        self, app: roles.Role, other: roles.Role, runs_as: str | None
    ) -> None:
        """The changes, carried out by hand, leave nothing to change."""
        clone = replace(other, name="app_clone")
        made = statements(app, clone, runs_as=runs_as)
        keeps = {key: value for key, value in clone.settings.items() if key[1] == "role"}
        plain = {key: value for key, value in app.settings.items() if key[1] != "role"}
        settings = {("", "role"): "app", **app.settings}
        if clone.keeps_to_itself or (keeps and not runs_as):
            settings = {**plain, **keeps}
        elif runs_as and settings.get(("postgres", "role"), settings["", "role"]) != runs_as:
            settings["postgres", "role"] = runs_as
        changed = replace(
            clone,
            can_login=True,
            inherits=True,
            connection_limit=app.connection_limit,
            valid_until=app.valid_until,
            memberships={**clone.memberships, "app": True},
            settings=settings,
        )
        assert statements(app, changed, runs_as=runs_as) == []
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


class TestDoubt:
    """What only the secret's value says proves nothing: who may write it shall not come by another user's password."""

    @pytest.mark.parametrize("pending", ["app", "app_clone"])
    def test_of_the_user_in_use_stops_it(self, pending: str) -> None:
        error = refusal(APP, IN_STEP, pending=pending, ours=())
        assert error.what.startswith("User 'app' is not shown to accept AWSCURRENT's password.")
        assert "--tags 'Key=rotation:users,Value=USERS'" in error.hint
        assert "app" not in error.hint

    TAKEN: ClassVar[dict[str, dict[str, Any]]] = {
        "that its superuser has made a member": {"vouched": True, "memberships": {"app": True}},
        "that has rights of its own": {
            "vouched": True,
            "can_login": False,
            "is_used": True,
            "beyond": ["readers"],
            "sessions": 3,
            **IS_IN,
        },
        "that AWSCURRENT's user may become": {"vouched": False, "below": True, "further": ["CREATEROLE"], **IS_IN},
        "that is as good as new": {"vouched": False, "can_login": False},
    }
    LEFT: ClassVar[dict[str, tuple[dict[str, Any], str]]] = {
        "that may log in": ({}, "exists, and no user who may alter it made it a member of 'app'"),
        "that is a member of others": (
            {"can_login": False, "beyond": ["readers", 'wri"ters']},
            "is a member of 'readers', 'wri\"ters', which 'app' is not",
        ),
        "that owns or was granted anything": (
            {"can_login": False, "is_used": True},
            "owns something in the server, or has privileges of its own",
        ),
        "that has sessions": ({"can_login": False, "sessions": 1, **IS_IN}, "has open sessions"),
        "with an attribute": (
            {"vouched": True, "further": ["BYPASSRLS", "pg_read_all_data"]},
            "has BYPASSRLS, pg_read_all_data, which 'app' has not",
        ),
    }

    @pytest.mark.parametrize(
        "has",
        [{"memberships": {"readers": True}}, {"attributes": ["REPLICATION"]}, {"sessions": 1}, {"below": True}],
        ids=str,
    )
    def test_nothing_is_made_anew_that_is_more_than_a_clone(self, has: dict[str, Any]) -> None:
        error = refusal(APP, replace(CLONE, **{"memberships": {}, **has}), ours={"app", "app_clone"})
        assert error.what.startswith("User 'app_clone' lacks rights of 'app', and has attributes, memberships or ")
        assert error.hint == roles.ANEW

    @pytest.mark.parametrize("has", TAKEN.values(), ids=TAKEN)
    def test_there_is_none_of_a_clone(self, has: dict[str, Any]) -> None:
        assert plan(APP, replace(CLONE, **has), ours={"app"}).changes

    @pytest.mark.parametrize(("has", "doubt"), LEFT.values(), ids=LEFT)
    def test_there_is_of_a_clone(self, has: dict[str, Any], doubt: str) -> None:
        clone = replace(CLONE, **{"vouched": False, **has})
        error = refusal(APP, clone, ours={"app"})
        assert error.what.startswith(f"User 'app_clone' {doubt}.")
        assert "Key=rotation:users" in error.hint
        assert "app_clone" not in error.hint
        assert plan(APP, clone, ours={"app", "app_clone"}).changes

    def test_there_is_none_of_an_original_that_the_clone_may_become(self) -> None:
        original = replace(APP, below=True, further=["SUPERUSER"], beyond=["readers"], is_used=True, sessions=3)
        assert statements(original, IN_STEP, current="app_clone", pending="app", ours={"app_clone"}) == []

    def test_there_is_of_any_other_original(self) -> None:
        error = refusal(APP, CLONE, current="app_clone", pending="app", ours={"app_clone"})
        assert error.what.startswith("User 'app' is not one that 'app_clone' may become by SET ROLE.")
        assert statements(APP, CLONE, current="app_clone", pending="app") == []

    NAMED: ClassVar[dict[str, tuple[dict[str, Any], str]]] = {
        **{name: (has, doubt) for name, (has, doubt) in LEFT.items() if name != "that may log in"},
        "that the superuser has no say over": (
            {"administered": False},
            "is not one that the superuser has ADMIN OPTION on",
        ),
    }

    @pytest.mark.parametrize(("has", "doubt"), NAMED.values(), ids=NAMED)
    @pytest.mark.parametrize("vouched", [True, False])
    def test_there_is_of_one_of_two_named_users(self, has: dict[str, Any], doubt: str, *, vouched: bool) -> None:
        """Be it a member of the other one or not: that says nothing of its own rights."""
        other = replace(CLONE, **{**has, "vouched": vouched})
        error = refusal(APP, other, usernames=("app", "app_clone"), ours={"app"})
        assert error.what.startswith(f"User 'app_clone' {doubt}.")

    @pytest.mark.parametrize("has", [{}, {"can_login": False}, {"below": True, "is_used": True}], ids=str)
    def test_there_is_none_of_one_of_two_named_users_with_the_same_rights(self, has: dict[str, Any]) -> None:
        assert statements(APP, replace(CLONE, **has), usernames=("app_clone", "app"), ours={"app"}) == []

    def test_is_not_looked_into_where_there_is_none(self) -> None:
        """A password is tried only where the database does not do."""
        asked = []

        def is_ours(user: str) -> bool:
            asked.append(user)
            return True

        known = roles.Roles({"app": APP, "app_clone": IN_STEP}, "master", 170000)
        roles.make_plan(known, credential("app_clone"), Trust(credential("app"), is_ours))
        assert asked == ["app"]


class TestStrangers:
    """Members of a clone that have no say over its original would come by the original's rights."""

    @pytest.mark.parametrize("ours", [{"app"}, {"app", "app_clone"}], ids=["as good as new", "by a password"])
    def test_stop_a_membership_from_being_granted(self, ours: set[str]) -> None:
        clone = replace(CLONE, can_login=False, vouched=False, strangers=["mallory", "o'hara"])
        error = refusal(APP, clone, ours=ours)
        assert error.what.endswith("with its members or heirs: 'mallory', \"o'hara\".")
        assert not re.search("mallory|GRANT|REVOKE", error.hint)

    def test_of_a_clone_that_is_a_member_already_are_none(self) -> None:
        assert statements(APP, replace(IN_STEP, strangers=["mallory"])) == []


class TestWhatItRunsAs:
    """As AWSCURRENT's own session, in the secret's own database."""

    THERE = ("postgres", "role")

    @pytest.mark.parametrize("clone", [None, IN_STEP])
    def test_is_set_where_it_does_not_follow_from_what_the_original_has(self, clone: roles.Role | None) -> None:
        changes = statements(*filter(None, [APP, clone]), runs_as="owner's")
        assert 'ALTER ROLE "app_clone" IN DATABASE "postgres" SET "role" TO \'owner\'\'s\'' in changes

    def test_is_taken_back_where_it_follows_again(self) -> None:
        clone = replace(IN_STEP, settings={("", "role"): "app", self.THERE: "owner"})
        assert statements(APP, clone, runs_as="app") == ['ALTER ROLE "app_clone" IN DATABASE "postgres" RESET "role"']
        assert statements(APP, clone, runs_as="owner") == []

    def test_counts_for_more_than_the_settings_of_the_original(self) -> None:
        original = replace(APP, settings={("", "role"): "group", self.THERE: "owner", ("shop", "role"): "shopkeeper"})
        clone = replace(IN_STEP, settings=original.settings)
        assert statements(original, clone, runs_as="owner") == []
        assert statements(original, clone, runs_as="app") == [
            'ALTER ROLE "app_clone" IN DATABASE "postgres" SET "role" TO \'app\''
        ]

    def test_stays_where_the_user_in_use_is_not_let_in(self) -> None:
        clone = replace(IN_STEP, settings={("", "role"): "app", self.THERE: "owner"})
        assert statements(APP, clone) == []
        assert AS_ORIGINAL in statements(APP, CLONE)

    def test_is_not_set_for_an_original(self) -> None:
        found = replace(APP, below=True), IN_STEP
        assert plan(*found, current="app_clone", pending="app", runs_as="owner") == roles.Plan([], [])

    @pytest.mark.parametrize(
        ("runs_as", "other", "differs"),
        [
            ("app", "other", False),
            ("owner", "owner", False),
            (None, "owner", False),
            ("app", "owner", True),
            ("owner", "other", True),
            ("app", "app", True),
        ],
    )
    def test_is_told_where_it_differs_between_named_users(
        self, runs_as: str | None, other: str, *, differs: bool
    ) -> None:
        found = APP, roles.Role("other", runs_as=other)
        notes = plan(*found, pending="other", usernames=("app", "other"), runs_as=runs_as).notes
        assert bool(notes) == differs
        if differs:
            assert notes[0].startswith(f"Role 'app' runs as {runs_as!r}, and 'other' as {other!r}")


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

    @pytest.mark.parametrize("clone", [None, CLONE])
    def test_but_not_grant_the_original_to_its_clone(self, clone: roles.Role | None) -> None:
        error = refusal(*filter(None, (replace(APP, grantable=False), clone)))
        assert error.what == "The superuser 'master' may not grant 'app'."
        assert error.hint == 'Run as a role that may: GRANT "app" TO "master" WITH ADMIN OPTION;'

    def test_and_need_not_grant_what_is_granted(self) -> None:
        mine = replace(APP, grantable=False, below=True)
        assert plan(mine, replace(IN_STEP, grantable=False)).changes == []
        assert plan(mine, replace(IN_STEP, grantable=False), current="app_clone", pending="app").changes == []
        assert plan(mine, pending="app").changes == []

    def test_is_not_named_where_only_the_secret_names_it(self) -> None:
        error = refusal(replace(APP, administered=False, creates=False), pinned=False)
        assert error.hint == (
            'Run as a role that may: ALTER ROLE SUPERUSER CREATEROLE; GRANT "app" TO SUPERUSER WITH ADMIN OPTION;'
        )

    def test_is_not_named_where_a_clone_is_to_be_made(self) -> None:
        create, *_, membership = plan(APP, pinned=False).changes
        assert create.first == ('CREATE ROLE "app_clone"; GRANT "app_clone" TO SUPERUSER WITH ADMIN OPTION;')
        assert membership.first == str(membership)

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
            roles.make_plan(found, credential("app"), Trust(credential("app"), lambda _: True, pinned=True))
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
        row = [
            *("app", ["CREATEROLE"], True, True, -1, "infinity"),
            [["", "search_path", "a, b"], ["shop", "role", "x=y"]],
            [["readers", "true"], ["writers", "false"]],
            *(["pg_monitor"], ["beyond"], True, True, ["mallory"], False, False, False),
            *(["shop (3)"], True, True, 2, "owner"),
        ]
        assert roles.read_roles([row]) == {
            "app": roles.Role(
                "app",
                ["CREATEROLE"],
                can_login=True,
                settings={("", "search_path"): "a, b", ("shop", "role"): "x=y"},
                memberships={"readers": True, "writers": False},
                further=["pg_monitor"],
                beyond=["beyond"],
                below=True,
                vouched=True,
                strangers=["mallory"],
                administered=False,
                creates=False,
                grantable=False,
                owns=["shop (3)"],
                is_grantee=True,
                is_used=True,
                sessions=2,
                runs_as="owner",
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
