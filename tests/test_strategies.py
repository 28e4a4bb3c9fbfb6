"""On the worst night: the lock, the put-back, passwords that only a retained version knows. On fakes, to the second."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rotation_lambda import errors
from rotation_lambda.event import Step
from rotation_lambda.staging import StagingLabel
from rotation_lambda.strategies import MOST_ORPHANS
from tests.test_steps import CURRENT, OLD, PENDING, World, created, document, set_

if TYPE_CHECKING:
    from collections.abc import Callable


def refused_after_the_change(world: World, reason: errors.DatabaseError | None = None) -> None:
    """Let the database change the password, and then never let it in."""
    world.database.trouble["pending"] = reason or errors.LoginRefusedError("the pooler's list does not have it.")


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
        with pytest.raises(errors.UnprovenPasswordError, match=f"{PENDING}.*{CURRENT}.*labels have moved"):
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

    def test_puts_the_current_password_back_whoevers_let_us_in(self) -> None:
        world = created()
        world.secrets.labels[StagingLabel.PREVIOUS] = OLD
        world.secrets.values[OLD] = document("previous")
        world.database.password = "previous"
        refused_after_the_change(world)
        with pytest.raises(errors.VerificationFailedError):
            world.take(Step.SET_SECRET)
        assert world.database.password == "current"


class TestLock:
    def test_starts_over_with_fresh_logins_after_waiting(self) -> None:
        """The twin who had the lock has set the password meanwhile."""
        world = created()
        world.database.locked = 4
        world.database.at_login[2] = lambda: setattr(world.database, "password", "pending")
        world.take(Step.SET_SECRET)
        assert [login.password for login in world.database.logins] == ["current", "current", "pending"]
        assert world.database.changes == []
        assert world.database.open_sessions == 0

    def test_waits_also_where_pending_was_merely_found_accepted(self) -> None:
        """The twin who had the lock could not prove the password and has put the old one back."""
        world = set_()
        world.database.locked = 4
        world.database.at_login[3] = lambda: setattr(world.database, "password", "current")
        world.take(Step.SET_SECRET)
        assert world.database.password == "pending"
        assert world.database.changes == ["pending"]

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

    @pytest.mark.parametrize("make", [set_, lambda: orphaned("orphan")])
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


class TestChange:
    @pytest.mark.parametrize("sqlstate", ["XX000", "40001", "55P03"])
    def test_starts_over_when_it_meets_a_twin_that_the_lock_did_not_keep_out(self, sqlstate: str) -> None:
        world = created()
        world.database.change_trouble = [errors.PasswordChangeError("twin", sqlstate=sqlstate)] * 3
        world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]
        assert len(world.database.logins) == 6

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
        world.take(Step.SET_SECRET)
        assert {login.host for login in world.database.logins} == {"db.example"}

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


def alternating() -> World:
    """Have the other user's password set, and not yet promoted."""
    world = set_()
    world.secrets.values = {
        CURRENT: document("current", masterarn="arn"),
        PENDING: document("pending", masterarn="arn", username="app_clone"),
    }
    world.database.password = "current"
    world.database.others["app_clone"] = "pending"
    return world


class TestPromotion:
    def test_leaves_the_label_of_a_user_that_works_once_another_rotation_has_come_in_between(self) -> None:
        """It has set another password since our login: AWSCURRENT would be refused as soon as its label has moved."""
        world = alternating()
        world.database.at_login[1] = lambda: world.secrets.labels.update({StagingLabel.PENDING: OLD})
        with pytest.raises(errors.VersionNotPendingError, match="another rotation"):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT
        assert world.database.open_sessions == 0

    def test_is_done_where_a_twin_was_faster(self) -> None:
        world = alternating()
        world.database.at_login[1] = lambda: world.secrets.labels.update({StagingLabel.CURRENT: PENDING})
        world.take(Step.FINISH_SECRET)
        assert "UpdateSecretVersionStage" not in world.secrets.calls
