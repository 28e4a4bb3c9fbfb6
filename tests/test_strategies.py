"""Whose password changes; and on the worst night the lock, the put-back, retained versions. On fakes, to the second."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import pytest

from rotation_lambda import errors
from rotation_lambda.credential import Credential, SslMode
from rotation_lambda.deadline import BEFORE_CHANGE_S, HOLD_S, MOST_WAIT_S, RESERVE_S
from rotation_lambda.event import Step
from rotation_lambda.rotation import MOST_ORPHANS
from rotation_lambda.settings import Strategy
from rotation_lambda.staging import StagingLabel
from rotation_lambda.trust import TAG
from tests.test_steps import ARN, CURRENT, OLD, PENDING, World, created, current, document, empty, set_
from tests.worlds import fakes

if TYPE_CHECKING:
    from collections.abc import Callable

    from rotation_lambda.postgres.roles import Identity

MASTER = Credential("db.example", 5432, "postgres", "master", "super")
WRITER = "writer.example"
VERIFIER = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"


def refused_after_the_change(world: World, reason: errors.DatabaseError | None = None) -> None:
    """Let the database change the password, and then never let it in."""
    world.database.trouble["pending"] = reason or errors.LoginRefusedError("the pooler's list does not have it.")


def log_in_slowly(world: World, seconds: list[float], effect: str) -> None:
    """Let a login take so long, and have it fail where it ends later than a change may begin, as the real one does."""
    if effect == "log in":
        world.clock.sleep(seconds.pop(0))
        if world.clock.now >= 60 - BEFORE_CHANGE_S:
            raise errors.DatabaseTimeoutError("no time is left for a login.")


def end_once(world: World, moments: list[str], effect: str) -> None:
    """Have the server end all sessions at the next one of these moments."""
    if moments[:1] == [effect]:
        moments.pop(0)
        for session in world.database.sessions:
            world.database.end(session)


class TestVerification:
    def test_puts_the_current_password_back_when_the_new_one_is_refused(self) -> None:
        world = created()
        refused_after_the_change(world)
        with pytest.raises(errors.VerificationFailedError, match=f"pooler's list.*AWSCURRENT.*{CURRENT}.*logs in"):
            world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending", "current"]
        assert world.database.open_sessions == 0

    def test_takes_a_shut_door_for_a_proof(self) -> None:
        world = created()
        refused_after_the_change(world, errors.LoginNotAllowedError("too many connections"))
        world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]

    def test_asks_twice_with_a_pause_before_it_puts_back(self) -> None:
        world = created()
        refused_after_the_change(world)
        world.database.at_login[4] = world.database.trouble.clear
        world.take(Step.SET_SECRET)
        assert world.database.password == "pending"
        assert len(world.clock.pauses) == 1

    def test_waits_for_an_answer_until_the_reserve(self) -> None:
        world = created()
        refused_after_the_change(world, errors.DatabaseTimeoutError("silence"))
        world.database.at_login[8] = world.database.trouble.clear
        world.take(Step.SET_SECRET)
        assert world.database.password == "pending"

    def test_puts_back_when_no_answer_comes_until_the_reserve(self) -> None:
        world = created()
        refused_after_the_change(world, errors.DatabaseTimeoutError("silence"))
        with pytest.raises(errors.VerificationFailedError, match="silence"):
            world.take(Step.SET_SECRET)
        assert world.database.password == "current"
        assert 40 < world.clock.now < 50

    @pytest.mark.parametrize("label", [StagingLabel.CURRENT, StagingLabel.PENDING])
    def test_puts_nothing_back_once_a_label_has_moved(self, label: StagingLabel) -> None:
        world = created()
        refused_after_the_change(world)
        world.database.at_login[3] = lambda: world.secrets.labels.update({label: OLD})
        with pytest.raises(errors.VersionNotPendingError, match=f"{PENDING}.*labels have moved.*left alone"):
            world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]

    def test_puts_nothing_back_when_the_labels_cannot_be_read(self) -> None:
        world = created()
        refused_after_the_change(world)

        def lose_the_secret() -> None:
            world.secrets.trouble["DescribeSecret"] = errors.SecretsManagerError("DescribeSecret got no answer.")

        world.database.at_login[3] = lose_the_secret
        with pytest.raises(errors.UnprovenPasswordError, match="DescribeSecret got no answer"):
            world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]

    def test_puts_nothing_back_when_the_current_password_is_in_force_already(self) -> None:
        world = created()
        refused_after_the_change(world)
        world.database.at_login[4] = lambda: setattr(world.database, "password", "current")
        with pytest.raises(errors.VerificationFailedError):
            world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]

    def test_is_critical_when_the_put_back_fails(self) -> None:
        world = created()
        refused_after_the_change(world)
        world.database.at_login[3] = lambda: world.database.change_trouble.append(
            errors.PasswordChangeError("the session broke.", sqlstate=None)
        )
        with pytest.raises(errors.UnprovenPasswordError, match=f"{PENDING}.*{CURRENT}.*session broke"):
            world.take(Step.SET_SECRET)

    def test_is_critical_when_the_put_back_cannot_be_proved(self) -> None:
        world = created()
        refused_after_the_change(world)
        world.database.at_login[7] = lambda: world.database.trouble.update(
            {"current": errors.DatabaseTimeoutError("silence")}
        )
        with pytest.raises(errors.UnprovenPasswordError, match="silence"):
            world.take(Step.SET_SECRET)

    def test_puts_back_the_password_that_let_us_in(self) -> None:
        """Were it AWSCURRENT's, who writes the value and cannot read it would have one of its own set."""
        world = created()
        world.secrets.labels[StagingLabel.PREVIOUS] = OLD
        world.secrets.values[OLD] = document("previous")
        world.database.password = "previous"
        refused_after_the_change(world)
        with pytest.raises(errors.VerificationFailedError, match=f"AWSPREVIOUS .version {OLD}. is in force again"):
            world.take(Step.SET_SECRET)
        assert world.database.password == "previous"

    @pytest.mark.parametrize("labels", [{StagingLabel.PREVIOUS: OLD}, {}], ids=["AWSPREVIOUS", "no label"])
    def test_puts_nothing_over_the_current_password_that_a_person_has_set(
        self, labels: dict[StagingLabel, str]
    ) -> None:
        """As the runbook has it done where applications are locked out. An orphan's password goes by SCRAM alone."""
        world = created()
        world.secrets.labels.update(labels)
        world.secrets.values[OLD] = document("previous")
        world.database.password = "previous"

        def set_by_hand(effect: str) -> None:
            if effect == "log in" and world.database.changes:
                world.database.password = "current"

        world.database.effect = set_by_hand
        with pytest.raises(errors.VerificationFailedError):
            world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]
        assert ("previous" in world.database.any_method) == bool(labels)

    @pytest.mark.parametrize("takes_over", [True, False])
    def test_does_not_believe_a_standby_that_has_not_got_the_change(self, *, takes_over: bool) -> None:
        """It may have received it, and refuse AWSCURRENT once it takes over."""
        world = created()

        def fail_over() -> None:
            world.database.end(world.database.sessions[0])
            world.database.in_recovery, world.database.password = True, "current"

        def take_over(effect: str) -> None:
            if effect == "log in" and takes_over and world.clock.now > 10 and world.database.in_recovery:
                world.database.in_recovery, world.database.password = False, "pending"

        world.database.at_login[3], world.database.effect = fail_over, take_over
        if takes_over:
            world.take(Step.SET_SECRET)
        else:
            with pytest.raises(errors.UnprovenPasswordError, match="Nor could AWSCURRENT"):
                world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]
        assert world.database.open_sessions == 0


class TestLock:
    def test_starts_over_with_fresh_logins_after_waiting(self) -> None:
        """The twin who held the role's row has set the password meanwhile."""
        world = created()
        world.database.locked = 1
        world.database.at_login[2] = lambda: setattr(world.database, "password", "pending")
        world.take(Step.SET_SECRET)
        assert [login.password for login in world.database.logins] == ["current", "current", "pending"]
        assert world.database.changes == []
        assert world.database.open_sessions == 0

    def test_a_put_back_that_meets_it_starts_over_with_fresh_logins(self) -> None:
        world = created()
        refused_after_the_change(world)

        def lock() -> None:
            world.database.locked = 3

        world.database.at_login[4] = lock
        with pytest.raises(errors.VerificationFailedError):
            world.take(Step.SET_SECRET)
        assert world.database.password == "current"
        assert world.database.locks == ["app"] * 5

    def test_a_put_back_that_meets_it_finds_that_the_new_password_works_after_all(self) -> None:
        world = created()
        refused_after_the_change(world)

        def lock() -> None:
            world.database.locked = 1
            world.database.trouble.clear()

        world.database.at_login[6] = lock
        world.take(Step.SET_SECRET)
        assert world.database.password == "pending"

    def test_undoes_no_password_that_another_rotation_has_set_since_the_login(self) -> None:
        """The lock is free, and the session that waits for its commit was let in by a password that no longer holds."""
        world = created()
        world.database.at_login[2] = lambda: setattr(world.database, "password", "the other's")
        with pytest.raises(errors.LoginRefusedError):
            world.take(Step.SET_SECRET)
        assert world.database.changes == []
        assert world.database.password == "the other's"

    def test_goes_on_where_the_way_in_has_become_a_shut_door(self) -> None:
        """A connection limit of one: the session that changes the password is the one."""
        world = created()

        def shut() -> None:
            world.database.trouble["current"] = errors.LoginNotAllowedError("too many connections")

        world.database.at_login[2] = shut
        world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]

    @pytest.mark.parametrize("make", [created, lambda: orphaned("orphan")])
    def test_changes_nothing_once_the_labels_have_moved(self, make: Callable[[], World]) -> None:
        """A late step of a cancelled rotation: AWSPENDING is another version's by now."""
        world = make()
        before = world.database.password
        world.database.at_login[1] = lambda: world.secrets.labels.update({StagingLabel.PENDING: OLD})
        with pytest.raises(errors.VersionNotPendingError, match="another rotation"):
            world.take(Step.SET_SECRET)
        assert world.database.password == before

    def test_names_the_holder_when_time_is_up(self) -> None:
        world = created()
        world.database.locked = 1_000_000
        with pytest.raises(errors.RoleLockedError, match="process 4711"):
            world.take(Step.SET_SECRET)
        assert world.database.changes == []
        assert world.database.open_sessions == 0

    def test_is_told_where_the_server_falls_silent_afterwards(self) -> None:
        world = created()
        world.database.locked = 1_000_000
        world.database.at_login[3] = lambda: world.database.trouble.update(
            current=errors.DatabaseTimeoutError("silence")
        )
        with pytest.raises(errors.DatabaseTimeoutError, match=r"silence Waited for .* tries. The try before: .* 4711"):
            world.take(Step.SET_SECRET)


class TestChange:
    @pytest.mark.parametrize("sqlstate", ["XX000", "40001", "40P01"])
    def test_starts_over_when_it_meets_a_twin_that_the_lock_did_not_keep_out(self, sqlstate: str) -> None:
        world = created()
        world.database.change_trouble = [errors.PasswordChangeError("twin", sqlstate=sqlstate)] * 3
        world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]
        assert len(world.database.logins) == 6

    @pytest.mark.parametrize("came_true", [True, False])
    def test_asks_by_a_login_what_became_of_a_commit_without_an_answer(self, *, came_true: bool) -> None:
        world = created()
        lost = errors.PasswordChangeError("COMMIT was not confirmed", sqlstate=None, in_doubt=True)
        world.database.change_trouble = [lost]
        if came_true:
            world.database.at_login[2] = lambda: setattr(world.database, "password", "pending")
            world.take(Step.SET_SECRET)
            assert world.memory[PENDING].changed is not None
        else:
            with pytest.raises(errors.PasswordChangeError, match="not confirmed"):
                world.take(Step.SET_SECRET)
        assert world.database.changes == []
        assert world.database.open_sessions == 0

    @pytest.mark.parametrize("came_true", [True, False])
    def test_asks_by_a_login_what_became_of_a_put_back_without_an_answer(self, *, came_true: bool) -> None:
        world = created()
        refused_after_the_change(world)
        lost = errors.PasswordChangeError("COMMIT was not confirmed", sqlstate=None, in_doubt=True)

        def lose() -> None:
            world.database.change_trouble = [lost]

        world.database.at_login[6] = lose
        if came_true:
            world.database.at_login[7] = lambda: setattr(world.database, "password", "current")
        verdict = errors.VerificationFailedError if came_true else errors.UnprovenPasswordError
        with pytest.raises(verdict, match="in force again" if came_true else "not confirmed"):
            world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]
        assert world.database.open_sessions == 0

    def test_waits_for_a_host_that_dns_does_not_know_for_a_moment_once_the_password_is_changed(self) -> None:
        world = created()
        refused_after_the_change(world, errors.HostNotFoundError("not known"))
        world.database.at_login[7] = world.database.trouble.clear
        world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]
        assert world.clock.now > 3  # four pauses, of half as long at least

    def test_tells_what_the_login_found_after_a_commit_without_an_answer(self) -> None:
        world = created()
        lost = errors.PasswordChangeError("COMMIT was not confirmed", sqlstate=None, in_doubt=True)
        world.database.change_trouble = [lost]
        with pytest.raises(errors.PasswordChangeError, match="The login that would tell: AWSPENDING, version"):
            world.take(Step.SET_SECRET)

    def test_hints_at_what_silence_comes_from_where_no_answer_proved_the_change(self) -> None:
        world = created()
        refused_after_the_change(world, errors.DatabaseTimeoutError("silence"))
        with pytest.raises(errors.VerificationFailedError, match="Waited for") as caught:
            world.take(Step.SET_SECRET)
        assert caught.value.hint == errors.DatabaseTimeoutError.hint

    @pytest.mark.parametrize("moment", ["before ALTER ROLE", "before COMMIT"])
    def test_starts_over_when_its_session_is_lost_before_the_commit(self, moment: str) -> None:
        """As by a failover: nothing was changed."""
        world = created()
        world.database.effect = partial(end_once, world, [moment.removeprefix("before ")])
        world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]
        assert world.memory[PENDING].changed is not None
        assert world.database.open_sessions == 0

    def test_starts_over_with_the_password_that_let_it_in(self) -> None:
        """No refusal is repeated: some servers lock a role out after a few."""
        world = created()
        world.secrets.labels[StagingLabel.PREVIOUS] = OLD
        world.secrets.values[OLD] = document("previous")
        world.database.password = "previous"
        world.database.effect = partial(end_once, world, ["ALTER ROLE"] * 3)
        world.take(Step.SET_SECRET)
        tried = [password for _, password in logins(world)]
        assert tried[:6] == ["current", "pending", *["previous"] * 4]
        assert world.database.password == "pending"

    @pytest.mark.parametrize("label", ["AWSCURRENT", "AWSPENDING"])
    def test_waits_for_the_proof_for_two_minutes_at_most(self, label: str) -> None:
        """However long the function may run."""
        world = created()
        world.clock.budget = 900.0
        refused_after_the_change(world, errors.DatabaseTimeoutError("silence"))
        if label == "AWSCURRENT":
            world.database.at_login[4] = lambda: world.database.trouble.update(
                {"current": errors.DatabaseTimeoutError("silence")}
            )
        with pytest.raises((errors.VerificationFailedError, errors.UnprovenPasswordError), match="silence"):
            world.take(Step.SET_SECRET)
        assert world.clock.now < 3.2 * MOST_WAIT_S

    def test_stops_when_its_sessions_are_lost_until_there_is_too_little_time_for_a_change(self) -> None:
        world = created()
        world.database.effect = partial(end_once, world, ["ALTER ROLE"] * 1000)
        with pytest.raises(errors.PasswordChangeError, match=r"the session broke Waited for .* tries"):
            world.take(Step.SET_SECRET)
        assert 30 < world.clock.now < 60 - BEFORE_CHANGE_S
        assert world.database.changes == []
        assert world.database.open_sessions == 0

    def test_never_overwrites_what_the_twin_has_set(self) -> None:
        world = created()
        world.database.change_trouble = [errors.PasswordChangeError("twin", sqlstate="XX000")]
        world.database.at_login[2] = lambda: setattr(world.database, "password", "the twin's")
        with pytest.raises(errors.LoginRefusedError):
            world.take(Step.SET_SECRET)
        assert world.database.password == "the twin's"

    def test_waits_for_a_new_primary(self) -> None:
        world = created()
        world.database.in_recovery = True
        world.database.at_login[4] = lambda: setattr(world.database, "in_recovery", False)
        world.take(Step.SET_SECRET)
        assert world.database.password == "pending"

    def test_says_so_when_the_server_stays_a_standby(self) -> None:
        world = created()
        world.database.in_recovery = True
        with pytest.raises(errors.DatabaseReadOnlyError):
            world.take(Step.SET_SECRET)
        assert world.clock.now > 30
        assert world.database.open_sessions == 0

    def test_stops_at_a_change_that_is_forbidden(self) -> None:
        world = created()
        world.database.change_trouble = [errors.PasswordChangeError("forbidden", sqlstate="42501")]
        with pytest.raises(errors.PasswordChangeError, match="forbidden"):
            world.take(Step.SET_SECRET)
        assert len(world.database.logins) == 1


def orphaned(*passwords: str, **keys: object) -> World:
    """Retain a version without a label for each password, the newest last; the database wants the first one."""
    world = created()
    world.secrets.values = {
        f"{number:032}": document(password, **keys) for number, password in enumerate(passwords)
    } | {
        CURRENT: document("current"),
        PENDING: document("pending"),
    }
    world.database.password = passwords[0]
    return world


class TestOrphan:
    def test_heals_with_the_password_of_a_version_without_a_label(self, caplog: pytest.LogCaptureFixture) -> None:
        world = orphaned("orphan", "newer")
        world.take(Step.SET_SECRET)
        assert world.database.password == "pending"
        assert [login.password for login in world.database.logins[:4]] == ["current", "pending", "newer", "orphan"]
        assert "Version 00000000000000000000000000000000" in caplog.text

    def test_tries_the_newest_first_and_a_few_only(self) -> None:
        world = orphaned(*(f"orphan {number}" for number in range(20)))
        with pytest.raises(errors.LoginRefusedError, match=r"AWSCURRENT, AWSPENDING, Version 0{30}19, "):
            world.take(Step.SET_SECRET)
        tried = [login.password for login in world.database.logins]
        assert tried == ["current", "pending", *(f"orphan {number}" for number in range(19, 19 - MOST_ORPHANS, -1))]

    def test_tries_no_password_twice(self) -> None:
        world = orphaned("nobody's", "current", "pending", "same", "same")
        world.database.password = "elsewhere"
        with pytest.raises(errors.LoginRefusedError):
            world.take(Step.SET_SECRET)
        assert [login.password for login in world.database.logins] == ["current", "pending", "same", "nobody's"]

    def test_is_never_another_users(self) -> None:
        world = orphaned("orphan", username="somebody else")
        with pytest.raises(errors.LoginRefusedError):
            world.take(Step.SET_SECRET)
        assert len(world.database.logins) == 2

    def test_connects_where_the_current_version_says(self) -> None:
        world = orphaned("orphan", host="rogue.example")
        with pytest.raises(errors.LoginRefusedError, match="1 retained versions could not be tried"):
            world.take(Step.SET_SECRET)
        assert {login.host for login in world.database.logins} == {"db.example"}
        assert {login.password for login in world.database.logins} == {"current", "pending"}

    def test_is_skipped_and_counted_where_it_cannot_be_read(self) -> None:
        world = orphaned("orphan", "unreadable", "another")
        world.secrets.unreadable.add(f"{1:032}")
        world.take(Step.SET_SECRET)
        assert world.database.password == "pending"
        world = orphaned("orphan", "unreadable")
        world.database.password = "nobody knows"
        world.secrets.unreadable.add(f"{1:032}")
        with pytest.raises(errors.LoginRefusedError, match="1 retained versions could not be tried"):
            world.take(Step.SET_SECRET)

    def test_is_tried_by_scram_only(self) -> None:
        world = orphaned("orphan", "newer")
        world.database.trouble["newer"] = errors.AuthenticationMethodError("server requested a hashed password")
        world.take(Step.SET_SECRET)
        assert world.database.password == "pending"
        assert world.database.scram_only == {"newer", "orphan"}
        assert world.database.any_method == {"current", "pending"}

    def test_is_not_tried_past_an_unknown_answer(self) -> None:
        world = orphaned("orphan", "newer")
        world.database.trouble["newer"] = errors.DatabaseTimeoutError("silence")
        with pytest.raises(errors.DatabaseTimeoutError):
            world.take(Step.SET_SECRET)

    def test_is_left_out_where_the_role_may_not_list_them(self) -> None:
        world = orphaned("orphan")
        world.secrets.trouble["ListSecretVersionIds"] = errors.AccessDeniedError("denied")
        with pytest.raises(errors.LoginRefusedError, match=r"AWSCURRENT, AWSPENDING\."):
            world.take(Step.SET_SECRET)


class TestStaleRead:
    @pytest.mark.parametrize("step", [Step.SET_SECRET, Step.TEST_SECRET, Step.FINISH_SECRET])
    @pytest.mark.parametrize("make", [created, set_])
    def test_is_read_again(self, make: Callable[[], World], step: Step) -> None:
        world = make()
        world.secrets.stale_reads = 2
        if make is created and step is not Step.SET_SECRET:
            with pytest.raises(errors.LoginRefusedError):
                world.take(step)
        else:
            world.take(step)
        assert world.database.logins[-1].password == "pending"


def with_superuser(world: World, strategy: Strategy = Strategy.AUTO, user: str = "app_clone", **keys: object) -> World:
    """Let the secret name a superuser; AWSPENDING, where it has a value, is for that user."""
    keys = {"masterarn": ARN, **keys}
    for version, (username, password) in {CURRENT: ("app", "current"), PENDING: (user, "pending")}.items():
        if version in world.secrets.values:
            world.secrets.values[version] = document(password, username=username, **keys)
    world.strategy = strategy
    world.superusers.superuser = MASTER
    world.database.others["master"] = "super"
    return world


def alternating(**keys: object) -> World:
    """Have created AWSPENDING for the clone, which the database does not have yet."""
    return with_superuser(created(), **keys)  # type: ignore[arg-type]


def prepared(**keys: object) -> World:
    """Have set the clone's password."""
    world = alternating(**keys)
    world.database.others["app_clone"] = "pending"
    return world


def by_superuser(make: Callable[[], World] = created, **keys: object) -> World:
    """Have created AWSPENDING for the same user, whose password the superuser is to change."""
    return with_superuser(make(), Strategy.SUPERUSER, "app", **keys)


def on_a_replica(world: World) -> World:
    """Have the secret's host a replica of the superuser's."""
    world.superusers.superuser = Credential(WRITER, 5432, "postgres", "master", "super", SslMode.VERIFY_CA)
    return world


def logins(world: World) -> list[tuple[str, str]]:
    return [(login.username, login.password) for login in world.database.logins]


def hosts(world: World) -> list[tuple[str, str]]:
    return [(login.username, login.host) for login in world.database.logins]


class TestChoice:
    @pytest.mark.parametrize("strategy", [Strategy.AUTO, Strategy.ALTERNATING_USERS])
    def test_is_alternating_users_where_the_secret_has_a_superuser(self, strategy: Strategy) -> None:
        world = with_superuser(empty(), strategy)
        world.take(Step.CREATE_SECRET)
        assert '"username": "app_clone"' in world.secrets.values[PENDING]

    @pytest.mark.parametrize("strategy", [Strategy.SINGLE_USER, Strategy.SUPERUSER])
    def test_is_what_the_function_says_where_it_says_it(self, strategy: Strategy) -> None:
        world = with_superuser(empty(), strategy)
        world.take(Step.CREATE_SECRET)
        assert '"username": "app",' in world.secrets.values[PENDING]

    @pytest.mark.parametrize("strategy", [Strategy.AUTO, Strategy.SINGLE_USER])
    def test_is_single_user_where_the_secret_has_none(self, strategy: Strategy) -> None:
        world = created()
        world.strategy = strategy
        for step in (Step.SET_SECRET, Step.TEST_SECRET, Step.FINISH_SECRET):
            world.take(step)
        assert not world.superusers.asked
        assert {user for user, _ in logins(world)} == {"app"}

    @pytest.mark.parametrize("strategy", [Strategy.ALTERNATING_USERS, Strategy.SUPERUSER])
    @pytest.mark.parametrize(
        ("make", "step"),
        [
            (empty, Step.CREATE_SECRET),
            (created, Step.SET_SECRET),
            (set_, Step.TEST_SECRET),
            (empty, Step.TEST_SECRET),
            (set_, Step.FINISH_SECRET),
        ],
    )
    def test_stops_where_it_needs_a_superuser_and_the_secret_has_none(
        self, strategy: Strategy, make: Callable[[], World], step: Step
    ) -> None:
        world = make()
        world.strategy = strategy
        before = world.state
        with pytest.raises(errors.InvalidSecretError, match=f"`masterarn` is missing.*{strategy}") as caught:
            world.take(step)
        assert "ROTATION_STRATEGY=single-user" in caught.value.hint
        assert world.state == before
        assert not world.database.logins

    @pytest.mark.parametrize(
        ("made_for", "user", "strategy"),
        [
            ("app_clone", "app", Strategy.SINGLE_USER),
            ("app_clone", "app", Strategy.SUPERUSER),
            ("app", "app_clone", Strategy.ALTERNATING_USERS),
            ("app", "app_clone", Strategy.AUTO),
        ],
    )
    def test_says_that_pending_was_made_under_another(self, made_for: str, user: str, strategy: Strategy) -> None:
        world = with_superuser(created(), strategy, made_for)
        before = world.state
        with pytest.raises(errors.CredentialMismatchError, match=f"'{made_for}'.*another strategy.*'{user}'"):
            world.take(Step.SET_SECRET)
        assert world.state == before
        assert not world.database.logins

    def test_says_that_the_superuser_has_gone_from_the_secret_meanwhile(self) -> None:
        world = alternating()
        world.secrets.values[CURRENT] = document("current")
        with pytest.raises(errors.CredentialMismatchError, match="another strategy"):
            world.take(Step.SET_SECRET)
        assert not world.database.logins

    @pytest.mark.parametrize("strategy", list(Strategy))
    def test_takes_a_third_user_for_another_login(self, strategy: Strategy) -> None:
        world = with_superuser(created(), strategy, "somebody")
        with pytest.raises(errors.CredentialMismatchError, match="another login than AWSCURRENT: other username"):
            world.take(Step.SET_SECRET)
        assert not world.database.logins

    @pytest.mark.parametrize("strategy", list(Strategy))
    def test_takes_another_superuser_for_another_login(self, strategy: Strategy) -> None:
        alternates = strategy in {Strategy.AUTO, Strategy.ALTERNATING_USERS}
        world = with_superuser(created(), strategy, "app_clone" if alternates else "app")
        world.secrets.values[CURRENT] = document("current", masterarn=f"{ARN}2")
        with pytest.raises(errors.CredentialMismatchError, match="other masterarn"):
            world.take(Step.SET_SECRET)
        assert not world.superusers.asked


class TestAlternatingUsers:
    def test_stores_a_password_for_the_other_user_and_keeps_every_key(self) -> None:
        world = with_superuser(empty())
        world.take(Step.CREATE_SECRET)
        stored = Credential.parse(world.secrets.values[PENDING])
        before = Credential.parse(world.secrets.values[CURRENT])
        assert stored == before.with_password(stored.password, "app_clone")
        assert stored.text == before.text.replace(before.password, stored.password).replace('"app"', '"app_clone"')
        assert not world.database.logins

    def test_stores_a_password_for_the_other_one_of_two_named_users(self) -> None:
        world = with_superuser(empty(), usernames=["app", "app2"])
        world.take(Step.CREATE_SECRET)
        assert Credential.parse(world.secrets.values[PENDING]).username == "app2"

    def test_stores_nothing_where_the_clones_name_would_be_cut(self) -> None:
        world = empty()
        world.secrets.values[CURRENT] = document("current", username="x" * 58, masterarn=ARN)
        with pytest.raises(errors.InvalidSecretError, match="64 bytes"):
            world.take(Step.CREATE_SECRET)
        assert PENDING not in world.secrets.values

    def test_sets_the_other_users_password_and_leaves_the_one_in_use_alone(self) -> None:
        world = alternating()
        world.take(Step.SET_SECRET)
        assert logins(world) == [("app", "current"), ("master", "super"), ("app_clone", "pending")]
        assert world.database.plans == [("app_clone", True)]
        assert world.database.locks == ["app_clone"]
        assert world.database.others["app_clone"] == "pending"
        assert world.database.password == "current"
        assert world.database.open_sessions == 0

    def test_takes_turns(self) -> None:
        """The second rotation goes from the clone to its original."""
        world = alternating()
        for step in (Step.SET_SECRET, Step.TEST_SECRET, Step.FINISH_SECRET):
            world.take(step)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING
        document_of_clone = world.secrets.values[PENDING]
        world.secrets.values = {
            CURRENT: document_of_clone,
            PENDING: document("newer", masterarn=ARN),
        }
        world.secrets.labels = {StagingLabel.CURRENT: CURRENT, StagingLabel.PENDING: PENDING}
        for step in (Step.SET_SECRET, Step.TEST_SECRET, Step.FINISH_SECRET):
            world.take(step)
        assert world.database.plans == [("app_clone", True), ("app", True)]
        assert (world.database.password, world.database.others["app_clone"]) == ("newer", "pending")

    def test_sets_the_same_password_again_when_it_comes_again(self) -> None:
        world = alternating()
        world.take(Step.SET_SECRET)
        before = world.state, dict(world.database.others)
        world.take(Step.SET_SECRET)
        assert (world.state, dict(world.database.others)) == before
        assert world.database.open_sessions == 0

    @pytest.mark.parametrize("strategy", [Strategy.AUTO, Strategy.ALTERNATING_USERS])
    @pytest.mark.parametrize(
        "error",
        [
            errors.LoginRefusedError("refused."),
            errors.DatabaseTimeoutError("silence"),
            errors.TlsError("certificate"),
            errors.AuthenticationMethodError("clear text"),
        ],
    )
    def test_reads_no_superusers_secret_before_the_current_user_has_proved_itself(
        self, error: errors.DatabaseError, strategy: Strategy
    ) -> None:
        world = with_superuser(created(), strategy)
        world.database.trouble["current"] = error
        with pytest.raises(type(error)):
            world.take(Step.SET_SECRET)
        assert not world.superusers.asked
        assert set(logins(world)) == {("app", "current")}

    def test_names_the_current_version_that_is_refused(self) -> None:
        world = alternating()
        world.database.password = "another"
        with pytest.raises(errors.LoginRefusedError, match=f"AWSCURRENT, version {CURRENT}"):
            world.take(Step.SET_SECRET)

    def test_takes_a_shut_door_for_a_proof_of_the_current_user(self, caplog: pytest.LogCaptureFixture) -> None:
        world = alternating()
        world.database.trouble["current"] = errors.LoginNotAllowedError("too many connections")
        world.take(Step.SET_SECRET)
        assert world.database.plans == [("app_clone", True)]
        assert "too many connections" in caplog.text

    @pytest.mark.parametrize("make", [alternating, by_superuser])
    def test_sends_no_password_to_a_superusers_server_that_is_not_shown_to_be_the_secrets(
        self, make: Callable[[], World]
    ) -> None:
        world = make()
        world.superusers.trouble = errors.SuperuserMismatchError("two servers.")
        with pytest.raises(errors.SuperuserMismatchError):
            world.take(Step.SET_SECRET)
        assert [login.username for login in world.database.logins] == ["app"]
        assert [asked.password for asked in world.superusers.asked] == ["current"]

    @pytest.mark.parametrize("make", [alternating, by_superuser])
    def test_says_that_it_is_the_superuser_who_is_refused(self, make: Callable[[], World]) -> None:
        world = make()
        world.database.others["master"] = "rotated meanwhile"
        with pytest.raises(errors.LoginRefusedError, match="The superuser of `masterarn`: ") as caught:
            world.take(Step.SET_SECRET)
        assert caught.value.hint.startswith("Wait: its own rotation may be at work")
        assert not world.database.changes

    @pytest.mark.parametrize("make", [alternating, by_superuser])
    def test_offers_the_superusers_password_by_scram_alone(self, make: Callable[[], World]) -> None:
        world = make()
        world.take(Step.SET_SECRET)
        assert world.database.scram_only == {"super"}
        assert "super" not in world.database.any_method

    @pytest.mark.parametrize("make", [alternating, by_superuser])
    def test_tells_an_administrator_what_to_know(
        self, make: Callable[[], World], caplog: pytest.LogCaptureFixture
    ) -> None:
        world = make()
        world.database.notes = ["Role 'app_clone' owns objects: 100 %s.", f"And {VERIFIER} of a server that quotes it."]
        world.take(Step.SET_SECRET)
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert warned == [world.database.notes[0], "And … of a server that quotes it."]

    def test_tells_what_the_clone_owns_where_it_logs_in(self, caplog: pytest.LogCaptureFixture) -> None:
        world = prepared()
        world.database.identities["app_clone"] = fakes.identity(clone_owns=["table t", "sequence s", VERIFIER])
        with caplog.at_level("INFO"):
            world.take(Step.TEST_SECRET)
        assert "The clone of 'app' owns in this database: table t, sequence s, …." in caplog.text


class TestAlternatingUsersProof:
    """The user in use was not touched: what cannot be proved is an error, and nothing is put back."""

    @pytest.mark.parametrize(
        "reason",
        [
            errors.LoginRefusedError("the pooler's list does not have it."),
            errors.LoginNotAllowedError("too many connections"),
            errors.TlsError("certificate"),
        ],
    )
    def test_puts_nothing_back(self, reason: errors.DatabaseError) -> None:
        world = alternating()
        refused_after_the_change(world, reason)
        with pytest.raises(
            errors.VerificationFailedError, match=f"'app_clone'.*{PENDING}.*{CURRENT}.*not touched"
        ) as e:
            world.take(Step.SET_SECRET)
        assert reason.what in e.value.what
        assert e.value.hint == errors.VerificationFailedError.hint
        assert world.database.changes == ["pending"]
        assert world.database.password == "current"
        assert len(world.clock.pauses) == 1
        assert world.database.open_sessions == 0

    def test_asks_twice(self) -> None:
        world = alternating()
        refused_after_the_change(world)
        world.database.at_login[4] = world.database.trouble.clear
        world.take(Step.SET_SECRET)
        assert len(world.clock.pauses) == 1

    def test_waits_for_an_answer_until_the_reserve(self) -> None:
        world = alternating()
        refused_after_the_change(world, errors.DatabaseTimeoutError("silence"))
        with pytest.raises(errors.VerificationFailedError, match="silence"):
            world.take(Step.SET_SECRET)
        assert 40 < world.clock.now < 50
        assert world.database.changes == ["pending"]

    NOT_PREPARED = pytest.mark.parametrize(
        ("identity", "what"),
        [
            (fakes.identity(runs_as="app_clone"), "'app_clone' logs in and runs as 'app_clone', not as 'app'"),
            (
                fakes.identity(runs_as="app_clone", starts_as='own"er'),
                "not as 'own\"er' as its setting says: a membership was revoked",
            ),
            (fakes.identity(has_rights=False), "'app_clone' logs in without the rights of 'app'"),
        ],
    )

    @NOT_PREPARED
    def test_is_none_where_it_runs_as_the_wrong_user(self, identity: Identity, what: str) -> None:
        world = alternating()
        world.database.identities["app_clone"] = identity
        with pytest.raises(errors.VerificationFailedError) as caught:
            world.take(Step.SET_SECRET)
        assert what in caught.value.what
        assert caught.value.hint.startswith("Rotate again")
        assert "GRANT" not in caught.value.hint  # only the secret, or the user itself, has named the role
        assert world.database.open_sessions == 0

    @NOT_PREPARED
    @pytest.mark.parametrize("step", [Step.TEST_SECRET, Step.FINISH_SECRET])
    def test_is_asked_for_by_every_step(self, step: Step, identity: Identity, what: str) -> None:
        world = prepared()
        world.database.identities["app_clone"] = identity
        with pytest.raises(errors.RoleNotPreparedError) as caught:
            world.take(step)
        assert what in caught.value.what
        assert caught.value.hint.startswith("Rotate again")
        assert "GRANT" not in caught.value.hint  # only the secret, or the user itself, has named the role
        assert world.database.open_sessions == 0
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT

    def test_asks_two_named_users_for_no_rights_but_their_own(self) -> None:
        world = with_superuser(created(), user="app2", usernames=["app", "app2"])
        world.database.others["app2"] = "before"
        world.database.identities["app2"] = fakes.identity("app2", "app2")
        for step in (Step.SET_SECRET, Step.TEST_SECRET, Step.FINISH_SECRET):
            world.take(step)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING
        assert world.database.others["app2"] == "pending"

    @pytest.mark.parametrize("step", [Step.TEST_SECRET, Step.FINISH_SECRET])
    def test_is_none_before_a_shut_door(self, step: Step) -> None:
        world = prepared()
        world.database.trouble["pending"] = errors.LoginNotAllowedError("too many connections")
        with pytest.raises(errors.LoginNotAllowedError):
            world.take(step)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT

    @pytest.mark.parametrize("step", [Step.TEST_SECRET, Step.FINISH_SECRET])
    def test_is_none_while_the_password_is_refused(self, step: Step) -> None:
        world = alternating()
        with pytest.raises(errors.LoginRefusedError, match=f"AWSPENDING, version {PENDING}"):
            world.take(step)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT

    def test_is_asked_of_the_current_user_where_pending_is_empty(self) -> None:
        world = with_superuser(empty())
        world.take(Step.TEST_SECRET)
        assert set(logins(world)) == {("app", "current")}

    def test_asks_an_original_for_nothing(self) -> None:
        """What it runs as is right: its clone follows."""
        world = with_superuser(empty())
        world.database.identities["app"] = fakes.identity("app", "postgres", has_rights=False)
        world.take(Step.TEST_SECRET)

    def test_moves_the_label_under_the_lock_of_the_other_user(self) -> None:
        world = prepared()
        world.database.locked = 2
        world.take(Step.FINISH_SECRET)
        assert logins(world) == [("app_clone", "pending")] * 4
        assert set(world.database.locks) == {"app_clone"}
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING

    def test_never_moves_the_label_without_an_answer_for_the_old_user_still_works(self) -> None:
        world = prepared()
        world.database.trouble["pending"] = errors.DatabaseTimeoutError("silence")
        with pytest.raises(errors.DatabaseTimeoutError):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT
        assert 40 < world.clock.now < 50

    def test_moves_the_label_once_an_answer_comes(self) -> None:
        world = prepared()
        world.database.trouble["pending"] = errors.DatabaseTimeoutError("silence")
        world.database.at_login[5] = world.database.trouble.clear
        world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING


FORBIDDEN = errors.PasswordChangeError("permission denied", sqlstate="42501")


def set_by_superuser() -> World:
    return by_superuser(set_)


@pytest.mark.parametrize("make", [prepared, set_by_superuser])
class TestRowHeldByASuperuser:
    """Where the user may not change itself, as with rds.restrict_password_commands, or its server is a standby."""

    def test_is_held_while_the_label_moves(self, make: Callable[[], World]) -> None:
        world = make()
        user = Credential.parse(world.secrets.values[PENDING]).username
        world.database.change_trouble = [FORBIDDEN]
        world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING
        assert logins(world) == [(user, "pending"), ("master", "super"), (user, "pending")]
        assert world.database.locks == [user]
        assert world.database.scram_only == {"super"}
        assert world.database.reserves[1] == RESERVE_S
        assert world.database.open_sessions == 0

    def test_is_the_writers_which_has_to_accept_the_password_too(self, make: Callable[[], World]) -> None:
        world = on_a_replica(make())
        user = Credential.parse(world.secrets.values[PENDING]).username
        world.database.change_trouble = [errors.DatabaseReadOnlyError("a standby")]
        world.take(Step.FINISH_SECRET)
        assert hosts(world) == [(user, "db.example"), ("master", WRITER), (user, WRITER)]

    def test_is_waited_for_while_an_honest_change_holds_it(self, make: Callable[[], World]) -> None:
        world = make()
        user = Credential.parse(world.secrets.values[PENDING]).username
        world.database.change_trouble = [FORBIDDEN, errors.RoleLockedError("process 4711"), FORBIDDEN]
        world.take(Step.FINISH_SECRET)
        assert [one for one, _ in logins(world)] == [user, "master", user, "master", user]
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING
        assert world.database.open_sessions == 0

    @pytest.mark.parametrize(
        "trouble",
        [
            errors.SuperuserMismatchError("two servers."),
            errors.SecretsManagerError("throttled."),
            errors.LoginRefusedError("rotated meanwhile."),
            FORBIDDEN,
        ],
    )
    def test_is_done_without_where_the_superuser_cannot_help(
        self, make: Callable[[], World], trouble: errors.RotationError
    ) -> None:
        world = make()
        world.database.change_trouble = [FORBIDDEN]
        if trouble is FORBIDDEN:
            world.database.change_trouble.append(trouble)
        elif isinstance(trouble, errors.DatabaseError):
            world.database.trouble["super"] = trouble
        else:
            world.superusers.trouble = trouble
        world.take(Step.FINISH_SECRET)
        assert world.secrets.calls[-2:] == ["DescribeSecret", "UpdateSecretVersionStage"]
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING
        assert world.database.logins[-1].password == "pending"
        assert world.clock.pauses == []
        assert world.database.open_sessions == 0

    def test_is_done_without_where_the_superuser_does_not_answer_for_a_while(self, make: Callable[[], World]) -> None:
        """The server may have gone, with what it loses: the password is proved afresh each time."""
        world = make()
        world.database.change_trouble = [FORBIDDEN] * 1000
        world.database.trouble["super"] = errors.DatabaseTimeoutError("silence.")
        world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING
        assert HOLD_S / 2 < world.clock.now <= HOLD_S + 1
        assert [user for user, _ in logins(world)][-3:-1] == [logins(world)[0][0], "master"]
        assert world.database.logins[-1].password == "pending"

    def test_moves_nothing_once_the_password_is_another(self, make: Callable[[], World]) -> None:
        world = make()
        user = Credential.parse(world.secrets.values[PENDING]).username
        world.database.change_trouble = [FORBIDDEN]

        def set_another() -> None:
            world.database.password = "the other's"
            world.database.others[user] = "the other's"

        world.database.at_login[3] = set_another
        with pytest.raises(errors.LoginRefusedError):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT
        assert world.database.open_sessions == 0


def test_a_superuser_holds_the_row_of_a_user_before_a_shut_door() -> None:
    """A single user with a connection limit of one: its session is its application's."""
    world = set_by_superuser()
    world.database.trouble["pending"] = errors.LoginNotAllowedError("too many connections")
    world.take(Step.FINISH_SECRET)
    assert [user for user, _ in logins(world)] == ["app", "master", "app"]
    assert world.database.locks == ["app"]
    assert world.secrets.labels[StagingLabel.CURRENT] == PENDING


@pytest.mark.parametrize("undone", [False, True])
def test_a_row_that_a_superuser_has_lost_is_looked_after_on_its_server(*, undone: bool) -> None:
    """The secret's own host may lead to another replica by then, which is behind."""
    world = on_a_replica(set_by_superuser())
    world.database.change_trouble = [FORBIDDEN]

    def lose_the_row(call: str) -> None:
        if call == "UpdateSecretVersionStage":
            for session in world.database.sessions:
                world.database.end(session)
            world.database.password = "current" if undone else "pending"

    world.secrets.effect = lose_the_row
    with pytest.raises(errors.VerificationFailedError) if undone else nullcontext():
        world.take(Step.FINISH_SECRET)
    assert hosts(world) == [("app", "db.example"), ("master", WRITER), *[("app", WRITER)] * (4 if undone else 2)]
    assert world.secrets.labels[StagingLabel.CURRENT] == (CURRENT if undone else PENDING)


def test_the_user_in_use_is_believed_on_a_standby_too() -> None:
    """Nobody has changed its password: the label moves back, and no application waits."""
    world = prepared()

    def fail_over(call: str) -> None:
        if call == "UpdateSecretVersionStage" and world.database.sessions:
            for session in world.database.sessions:
                world.database.end(session)
            world.database.in_recovery, world.database.others["app_clone"] = True, "before"

    world.secrets.effect = fail_over
    with pytest.raises(errors.VerificationFailedError, match=f"moved back to version {CURRENT}"):
        world.take(Step.FINISH_SECRET)
    assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT


def test_alternating_users_are_hinted_at_what_silence_comes_from() -> None:
    world = alternating()
    refused_after_the_change(world, errors.DatabaseTimeoutError("silence"))
    with pytest.raises(errors.VerificationFailedError, match="Waited for") as caught:
        world.take(Step.SET_SECRET)
    assert caught.value.hint == errors.DatabaseTimeoutError.hint


@pytest.mark.parametrize("make", [alternating, by_superuser])
class TestChangeByASuperuser:
    """The same for one user and for two."""

    def test_starts_over_with_fresh_logins_after_waiting_for_the_lock(self, make: Callable[[], World]) -> None:
        world = make()
        world.database.locked = 1
        world.take(Step.SET_SECRET)
        assert [user for user, _ in logins(world)][:3] == ["app", "master", "master"]
        assert world.database.changes == ["pending"]
        assert world.database.open_sessions == 0

    def test_asks_by_a_login_what_became_of_a_commit_without_an_answer(self, make: Callable[[], World]) -> None:
        world = make()
        lost = errors.PasswordChangeError("COMMIT was not confirmed", sqlstate=None, in_doubt=True)
        world.database.change_trouble = [lost]
        user = Credential.parse(world.secrets.values[PENDING]).username

        def come_true() -> None:
            world.database.password = {"app": "pending"}.get(user, world.database.password)
            world.database.others[user] = "pending"

        world.database.at_login[3] = come_true
        world.take(Step.SET_SECRET)
        assert PENDING in world.memory
        assert world.database.open_sessions == 0

    def test_names_the_holder_of_the_lock_when_time_is_up(self, make: Callable[[], World]) -> None:
        world = make()
        world.database.locked = 1_000_000
        with pytest.raises(errors.RoleLockedError, match="process 4711"):
            world.take(Step.SET_SECRET)
        assert world.database.changes == []
        assert world.database.open_sessions == 0

    @pytest.mark.parametrize("label", [StagingLabel.CURRENT, StagingLabel.PENDING])
    def test_changes_nothing_once_a_label_has_moved(self, make: Callable[[], World], label: StagingLabel) -> None:
        world = make()
        world.database.at_login[2] = lambda: world.secrets.labels.update({label: OLD})
        with pytest.raises(errors.VersionNotPendingError, match="another rotation"):
            world.take(Step.SET_SECRET)
        assert len(world.database.plans) == 1
        assert world.database.changes == []
        assert world.database.open_sessions == 0

    @pytest.mark.parametrize("sqlstate", ["XX000", "40001", "40P01"])
    def test_starts_over_when_it_meets_a_twin_that_the_lock_did_not_keep_out(
        self, make: Callable[[], World], sqlstate: str
    ) -> None:
        world = make()
        world.database.change_trouble = [errors.PasswordChangeError("twin", sqlstate=sqlstate)] * 3
        world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]
        assert [user for user, _ in logins(world)][1:5] == ["master"] * 4
        assert world.database.open_sessions == 0

    @pytest.mark.parametrize("moment", ["ALTER ROLE", "COMMIT"])
    def test_starts_over_when_its_session_is_lost_before_the_commit(
        self, make: Callable[[], World], moment: str
    ) -> None:
        world = make()
        world.database.effect = partial(end_once, world, [moment])
        world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]
        assert [user for user, _ in logins(world)][:3] == ["app", "master", "master"]
        assert world.database.open_sessions == 0

    def test_gives_up_when_twins_never_end(self, make: Callable[[], World]) -> None:
        world = make()
        world.database.change_trouble = [errors.PasswordChangeError("twin", sqlstate="XX000")] * 1000
        with pytest.raises(errors.PasswordChangeError, match="twin"):
            world.take(Step.SET_SECRET)
        assert 30 < world.clock.now < 40
        assert world.database.open_sessions == 0

    @pytest.mark.parametrize(
        "error",
        [
            errors.PasswordChangeError("forbidden", sqlstate="42501"),
            errors.RoleNotPreparedError("Role 'app' does not exist.", hint="Create it again"),
        ],
    )
    def test_stops_at_a_change_that_nobody_else_makes_possible(
        self, make: Callable[[], World], error: errors.DatabaseError
    ) -> None:
        world = make()
        world.database.change_trouble = [error]
        with pytest.raises(type(error)) as caught:
            world.take(Step.SET_SECRET)
        assert caught.value is error
        assert world.clock.pauses == []
        assert world.database.open_sessions == 0

    def test_waits_for_a_new_primary(self, make: Callable[[], World]) -> None:
        world = make()
        world.database.in_recovery = True
        world.database.at_login[4] = lambda: setattr(world.database, "in_recovery", False)
        world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]

    def test_says_so_when_the_server_stays_a_standby(self, make: Callable[[], World]) -> None:
        world = make()
        world.database.in_recovery = True
        with pytest.raises(errors.DatabaseReadOnlyError):
            world.take(Step.SET_SECRET)
        assert world.clock.now > 30
        assert world.database.open_sessions == 0

    def test_is_proved_on_the_writer_first_and_then_where_the_secret_leads(self, make: Callable[[], World]) -> None:
        world = on_a_replica(make())
        user = Credential.parse(world.secrets.values[PENDING]).username
        world.take(Step.SET_SECRET)
        writer = [("master", WRITER), ("app", WRITER), (user, WRITER)]
        assert hosts(world) == [("app", "db.example"), *writer, (user, "db.example")]
        assert [login.sslmode for login in world.database.logins] == [None, *[SslMode.VERIFY_CA] * 3, None]
        assert {login.dbname for login in world.database.logins} == {"postgres"}

    def test_waits_for_a_replica_to_replay(self, make: Callable[[], World]) -> None:
        world = on_a_replica(make())
        world.database.lags["db.example"] = 10
        world.take(Step.SET_SECRET)
        assert len(world.clock.pauses) == 10
        assert world.database.changes == ["pending"]
        assert world.database.open_sessions == 0

    def test_is_proved_once_where_the_superuser_is_on_the_same_server(self, make: Callable[[], World]) -> None:
        world = make()
        world.take(Step.SET_SECRET)
        assert len(logins(world)) == 3


class TestReplicaThatNeverReplays:
    def test_is_an_error_while_the_old_user_works(self) -> None:
        world = on_a_replica(alternating())
        world.database.lags["db.example"] = 1_000_000
        with pytest.raises(errors.VerificationFailedError, match=r"replica that lags.*not touched"):
            world.take(Step.SET_SECRET)
        assert 40 < world.clock.now < 50
        assert world.database.open_sessions == 0

    def test_is_told_from_a_writer_that_refuses(self) -> None:
        world = on_a_replica(alternating())
        refused_after_the_change(world)
        with pytest.raises(errors.VerificationFailedError, match="pooler's list"):
            world.take(Step.SET_SECRET)
        assert hosts(world)[2:] == [("app", WRITER), *[("app_clone", WRITER)] * 2]

    def test_leaves_a_single_user_unproved_and_nothing_put_back(self) -> None:
        """What the writer has accepted comes to the replica sooner or later."""
        world = on_a_replica(by_superuser())
        world.database.lags["db.example"] = 1_000_000
        with pytest.raises(errors.UnprovenPasswordError, match=f"{PENDING}.*logs in at the writer: .*lags"):
            world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]
        assert world.database.password == "pending"


class TestBySuperuser:
    def test_changes_the_password_of_the_one_user(self) -> None:
        world = by_superuser()
        world.take(Step.SET_SECRET)
        assert logins(world) == [("app", "current"), ("master", "super"), ("app", "pending")]
        assert world.database.plans == [("app", True)]
        assert world.database.password == "pending"
        assert world.database.open_sessions == 0

    def test_does_the_rest_as_a_single_user_does(self) -> None:
        world = with_superuser(empty(), Strategy.SUPERUSER)
        for step in (Step.CREATE_SECRET, Step.SET_SECRET, Step.TEST_SECRET, Step.FINISH_SECRET):
            world.take(step)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING
        assert Credential.parse(world.secrets.values[PENDING]).username == "app"

    def test_changes_a_password_that_nobody_knows_by_the_tag(self, caplog: pytest.LogCaptureFixture) -> None:
        world = by_superuser()
        world.secrets.tags = {TAG: "app"}
        world.database.password = "nobody knows"
        world.take(Step.SET_SECRET)
        assert [user for user, _ in logins(world)] == ["app", "app", "master", "app"]
        assert world.database.plans == [("app", True)]
        assert world.database.password == "pending"
        assert "Only the secret's tag can show that it is for this user" in caplog.text
        assert "refused the password of each of AWSCURRENT, AWSPENDING" in caplog.text

    @pytest.mark.parametrize("shut", [False, True])
    def test_leaves_the_database_alone_when_it_already_accepts_pending(self, *, shut: bool) -> None:
        world = by_superuser(set_)
        if shut:
            world.database.trouble["pending"] = errors.LoginNotAllowedError("too many connections")
        world.take(Step.SET_SECRET)
        assert logins(world) == [("app", "current"), ("app", "pending")]
        assert not world.superusers.asked
        assert world.database.open_sessions == 0

    @pytest.mark.parametrize("password", ["current", "pending"])
    def test_stops_at_an_unknown_answer_before_the_superusers_secret_is_read(self, password: str) -> None:
        world = by_superuser(set_)
        world.database.trouble[password] = errors.DatabaseTimeoutError("silence")
        with pytest.raises(errors.DatabaseTimeoutError):
            world.take(Step.SET_SECRET)
        assert not world.superusers.asked

    @pytest.mark.parametrize("make", [by_superuser, alternating])
    @pytest.mark.parametrize(
        ("sslmode", "proved"), [("verify-full", True), ("verify-ca", False), ("require", False), ("disable", False)]
    )
    def test_takes_a_shut_door_for_a_proof_only_of_a_server_that_proves_itself(
        self, make: Callable[..., World], sslmode: str, *, proved: bool
    ) -> None:
        """Whoever is in between could say so, to have a superuser change the password of a role that is not ours."""
        world = make(sslmode=sslmode)
        world.database.trouble["current"] = errors.LoginNotAllowedError("no CONNECT")
        with nullcontext() if proved else pytest.raises(errors.RoleNotPreparedError):
            world.take(Step.SET_SECRET)
        assert bool(world.database.changes) == proved
        assert [was for _, was in world.database.plans] == [proved]

    def test_takes_a_shut_door_for_a_proof_of_the_new_password(self) -> None:
        world = by_superuser()
        refused_after_the_change(world, errors.LoginNotAllowedError("too many connections"))
        world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]

    def test_puts_the_current_password_back_where_it_had_logged_in(self) -> None:
        world = by_superuser()
        refused_after_the_change(world)
        with pytest.raises(errors.VerificationFailedError, match=f"pooler's list.*AWSCURRENT.*{CURRENT}.*logs in"):
            world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending", "current"]
        assert world.database.plans == [("app", True)] * 2
        assert world.database.open_sessions == 0

    def test_puts_back_on_the_writer_whose_word_counts(self) -> None:
        world = on_a_replica(by_superuser())
        refused_after_the_change(world)
        world.database.lags["db.example"] = 1_000_000
        with pytest.raises(errors.VerificationFailedError):
            world.take(Step.SET_SECRET)
        assert world.database.password == "current"
        assert {host for _, host in hosts(world)[1:]} == {WRITER}

    def test_puts_nothing_back_that_had_not_been_in_force(self) -> None:
        world = by_superuser()
        world.secrets.tags = {TAG: "app"}
        world.database.password = "nobody knows"
        world.database.at_login[3] = lambda: refused_after_the_change(world)
        with pytest.raises(errors.UnprovenPasswordError, match=f"{PENDING}.*AWSCURRENT.*{CURRENT}.*before either"):
            world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]
        assert world.database.open_sessions == 0

    @pytest.mark.parametrize("label", [StagingLabel.CURRENT, StagingLabel.PENDING])
    def test_puts_nothing_back_once_a_label_has_moved(self, label: StagingLabel) -> None:
        world = by_superuser()
        refused_after_the_change(world)
        world.database.at_login[3] = lambda: world.secrets.labels.update({label: OLD})
        with pytest.raises(errors.VersionNotPendingError, match=r"labels have moved.*left alone"):
            world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]

    def test_puts_nothing_back_once_a_label_moves_before_that_is_committed(self) -> None:
        world = by_superuser()
        refused_after_the_change(world)
        world.database.at_login[6] = lambda: world.secrets.labels.update({StagingLabel.PENDING: OLD})
        with pytest.raises(errors.VersionNotPendingError, match=r"labels have moved.*left alone"):
            world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]
        assert world.database.plans == [("app", True)] * 2

    def test_is_critical_when_the_put_back_fails(self) -> None:
        world = by_superuser()
        refused_after_the_change(world)
        world.database.at_login[3] = lambda: world.database.change_trouble.append(
            errors.PasswordChangeError("the session broke.", sqlstate=None)
        )
        with pytest.raises(errors.UnprovenPasswordError, match=f"{PENDING}.*{CURRENT}.*session broke"):
            world.take(Step.SET_SECRET)

    def test_moves_the_label_with_a_warning_when_no_answer_comes(self, caplog: pytest.LogCaptureFixture) -> None:
        world = by_superuser()
        world.take(Step.SET_SECRET)
        world.database.trouble["pending"] = errors.DatabaseTimeoutError("silence")
        world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING
        assert "silence" in caplog.text

    def test_is_proved_by_the_password_of_a_retained_version(self) -> None:
        """A password that got lost in a version without a label still shows whose the role is."""
        world = by_superuser(lambda: orphaned("orphan", masterarn=ARN))
        world.take(Step.SET_SECRET)
        assert world.database.plans == [("app", True)]
        assert world.database.password == "pending"


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("step", [Step.CREATE_SECRET, Step.SET_SECRET, Step.FINISH_SECRET])
def test_no_strategy_does_anything_for_the_current_version(strategy: Strategy, step: Step) -> None:
    world = current()
    world.strategy = strategy
    before = world.state
    world.take(step)
    assert world.state == before
    assert not world.database.logins


class TestPromotion:
    def test_leaves_the_label_of_a_user_that_works_once_another_rotation_has_come_in_between(self) -> None:
        """It has set another password since our login: AWSCURRENT would be refused as soon as its label has moved."""
        world = prepared()
        world.database.at_login[1] = lambda: world.secrets.labels.update({StagingLabel.PENDING: OLD})
        with pytest.raises(errors.VersionNotPendingError, match="another rotation"):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT
        assert world.database.open_sessions == 0

    def test_is_done_where_a_twin_was_faster(self) -> None:
        world = prepared()
        world.database.at_login[1] = lambda: world.secrets.labels.update({StagingLabel.CURRENT: PENDING})
        world.take(Step.FINISH_SECRET)
        assert "UpdateSecretVersionStage" not in world.secrets.calls


@pytest.mark.parametrize("make", [created, by_superuser, alternating])
def test_what_stands_in_the_way_is_not_hidden_by_a_login_that_has_no_time_left(make: Callable[[], World]) -> None:
    """Each login takes half a second; however much is left at the first one, the error names the lock's holder."""
    for spent in range(100):
        world = make()
        world.database.locked = 1_000_000
        world.database.effect = partial(log_in_slowly, world, [spent / 3, *[0.5] * 99])
        with pytest.raises(errors.RoleLockedError, match="process 4711"):
            world.take(Step.SET_SECRET)
