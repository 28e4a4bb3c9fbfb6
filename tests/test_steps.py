"""The four steps on fakes: one test for each cell of the state table, and for what else can stand in the way."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from rotation_lambda import errors, steps
from rotation_lambda.deadline import HOLD_S, MOST_WAIT_S, RESERVE_S
from rotation_lambda.event import Step
from rotation_lambda.rotation import PROOF_S, Proof, Rotation
from rotation_lambda.settings import Settings, Strategy
from rotation_lambda.staging import StagingLabel
from tests.worlds import leaks
from tests.worlds.fakes import FakeClock, FakeDatabase, FakeSecretsManager, FakeSuperusers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rotation_lambda.settings import PasswordPolicy
    from rotation_lambda.staging import SecretVersions

OLD, CURRENT, PENDING = "0" * 32, "c" * 32, "9" * 32
ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:test/app/db-AbCdEf"
SETTINGS = Settings.from_environment({})


def document(password: str, **keys: object) -> str:
    login = {"engine": "postgres", "host": "db.example", "username": "app", "password": password}
    return json.dumps({**login, "note": "kept", **keys})


@dataclass(slots=True)
class World:
    """A secret, a database, and a rotation to PENDING that has come so far."""

    secrets: FakeSecretsManager
    database: FakeDatabase
    rotation_token: str | None = None
    clock: FakeClock = field(default_factory=FakeClock)
    superusers: FakeSuperusers = field(default_factory=FakeSuperusers)
    strategy: Strategy = Strategy.AUTO
    memory: dict[str, Proof] = field(default_factory=dict)
    measure: Callable[[str, float], None] = lambda *_: None

    def take(self, step: Step, *, seconds: float | None = None) -> None:
        versions = self.secrets.describe_secret()
        self.secrets.calls.clear()
        deadline = self.clock.deadline(seconds)
        world = self.secrets, self.database, deadline, self.superusers
        rotation = Rotation(PENDING, versions, *world, self.strategy, self.memory, self.measure)
        match step:
            case Step.CREATE_SECRET:
                steps.create_secret(rotation, SETTINGS.password_policy, self.rotation_token)
            case Step.SET_SECRET:
                steps.set_secret(rotation)
            case Step.TEST_SECRET:
                steps.test_secret(rotation)
            case Step.FINISH_SECRET:
                steps.finish_secret(rotation)
            case Step.PREFLIGHT:
                raise ValueError("A preflight is no step of a rotation.")

    @property
    def state(self) -> tuple[object, ...]:
        return dict(self.secrets.values), dict(self.secrets.labels), self.database.password


def empty() -> World:
    labels = {StagingLabel.CURRENT: CURRENT, StagingLabel.PENDING: PENDING}
    return World(FakeSecretsManager({CURRENT: document("current")}, labels), FakeDatabase("app", "current"))


def created() -> World:
    world = empty()
    world.secrets.values[PENDING] = document("pending")
    return world


def set_() -> World:
    world = created()
    world.database.password = "pending"
    return world


def current() -> World:
    world = set_()
    world.secrets.labels = dict.fromkeys((StagingLabel.CURRENT, StagingLabel.PENDING), PENDING)
    world.secrets.labels[StagingLabel.PREVIOUS] = CURRENT
    return world


class TestCreateSecret:
    def test_stores_a_new_password_in_an_empty_version(self) -> None:
        world = empty()
        world.take(Step.CREATE_SECRET)
        stored = json.loads(world.secrets.values[PENDING])
        assert stored == json.loads(document(stored["password"]))
        assert stored["password"] != "current"
        assert len(stored["password"]) == SETTINGS.password_policy.length
        assert world.database.password == "current"

    @pytest.mark.parametrize("world", [created(), set_(), current()], ids=["created", "set", "current"])
    def test_leaves_a_version_with_a_value_as_it_is(self, world: World) -> None:
        before = world.state
        world.take(Step.CREATE_SECRET)
        assert world.state == before
        assert "GetRandomPassword" not in world.secrets.calls

    @pytest.mark.parametrize("token", [None, "rotation-token-of-36-characters-at-least"])
    def test_passes_the_rotation_token_on(self, token: str | None) -> None:
        world = empty()
        world.rotation_token = token
        world.take(Step.CREATE_SECRET)
        assert world.secrets.rotation_tokens == [token]

    def test_lets_a_faster_twin_win(self) -> None:
        world = empty()

        class Twin(FakeSecretsManager):
            def get_random_password(self, policy: PasswordPolicy) -> str:
                self.values[PENDING] = document("the twin's")
                return FakeSecretsManager.get_random_password(self, policy)

        world.secrets = Twin(world.secrets.values, world.secrets.labels)
        world.take(Step.CREATE_SECRET)
        assert world.secrets.values[PENDING] == document("the twin's")

    def test_stores_nothing_when_the_current_secret_is_no_credential(self) -> None:
        world = empty()
        world.secrets.values[CURRENT] = document("current", port="none")
        before = world.state
        with pytest.raises(errors.InvalidSecretError, match=f"AWSCURRENT, version {CURRENT}: `port`"):
            world.take(Step.CREATE_SECRET)
        assert world.state == before

    def test_renews_the_copies_and_tells_which(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        world = empty()
        url, password = "postgres://app:%s@db.example/postgres", "current-password-of-app"
        keys = {"url": url % password, "ro": {"username": "ro", "password": password}, "note": f"not {password}"}
        world.secrets.values[CURRENT] = document(password, **keys, allowStaleCopies=["note"])
        world.take(Step.CREATE_SECRET)
        stored = json.loads(world.secrets.values[PENDING])
        assert stored == json.loads(
            document(stored["password"], **{**keys, "url": url % stored["password"]}, allowStaleCopies=["note"])
        )
        told = [(record.levelname, record.getMessage()) for record in caplog.records]
        assert told[:3] == [
            ("INFO", "`url`: renewed, as copies of the login."),
            ("WARNING", "`ro.password`: left as it is: the login of another user, with the same password in it."),
            ("WARNING", "`note`: left as it is, as `allowStaleCopies` says."),
        ]
        assert password not in caplog.text

    def test_stores_nothing_when_a_copy_would_go_stale(self) -> None:
        world = empty()
        world.secrets.values[CURRENT] = document("current-password-of-app", a={"note": "it is current-password-of-app"})
        before = world.state
        with pytest.raises(errors.InvalidSecretError, match=r"also stands in `a\.note`") as caught:
            world.take(Step.CREATE_SECRET)
        assert world.state == before
        assert "allowStaleCopies" in caught.value.hint
        assert "current-password-of-app" not in leaks.everything_in(caught.value)

    def test_refuses_a_secret_without_a_current_version(self) -> None:
        world = empty()
        del world.secrets.labels[StagingLabel.CURRENT]
        with pytest.raises(errors.MissingVersionError, match="AWSCURRENT"):
            world.take(Step.CREATE_SECRET)
        assert PENDING not in world.secrets.values


class TestSetSecret:
    def test_refuses_an_empty_version(self) -> None:
        world = empty()
        with pytest.raises(errors.MissingVersionError, match=PENDING):
            world.take(Step.SET_SECRET)
        assert not world.database.logins

    def test_changes_the_password_and_proves_it(self) -> None:
        world = created()
        world.take(Step.SET_SECRET)
        assert world.database.password == "pending"
        assert [login.password for login in world.database.logins] == ["current", "current", "pending"]
        assert world.database.open_sessions == 0

    def test_leaves_the_database_alone_when_it_already_accepts_pending(self) -> None:
        world = set_()
        before = world.state
        world.take(Step.SET_SECRET)
        assert world.state == before
        assert [login.password for login in world.database.logins] == ["current", "pending"]
        assert world.database.open_sessions == 0

    def test_does_nothing_for_the_current_version(self) -> None:
        world = current()
        world.take(Step.SET_SECRET)
        assert not world.database.logins

    def test_borrows_the_previous_password_when_the_others_are_refused(self) -> None:
        world = created()
        world.secrets.labels[StagingLabel.PREVIOUS] = OLD
        world.secrets.values[OLD] = document("previous", host="DB.example.", dbname="another")
        world.database.password = "previous"
        world.take(Step.SET_SECRET)
        assert world.database.password == "pending"
        assert {(login.host, login.dbname) for login in world.database.logins} == {("db.example", "postgres")}

    @pytest.mark.parametrize("keys", [{"host": "elsewhere.example"}, {"port": 1}, {"tlsServerName": "a.b"}], ids=str)
    def test_sends_no_password_of_another_server(
        self, keys: dict[str, object], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Who has stored AWSCURRENT may own its server, and pass the login on."""
        world = created()
        world.secrets.labels[StagingLabel.PREVIOUS] = OLD
        world.secrets.values[OLD] = document("previous", **keys)
        world.database.password = "previous"
        with pytest.raises(errors.LoginRefusedError, match="1 retained versions could not be tried"):
            world.take(Step.SET_SECRET)
        assert "AWSPREVIOUS is passed over: it is for another server" in caplog.text
        assert {login.password for login in world.database.logins} == {"current", "pending"}

    def test_sends_no_password_with_less_tls_than_its_own_version_asks_for(self) -> None:
        world = created()
        world.secrets.labels[StagingLabel.PREVIOUS] = OLD
        world.secrets.values[OLD] = document("previous", sslmode="verify-full")
        world.secrets.values[CURRENT] = document("current", sslmode="require")
        world.secrets.values[PENDING] = document("pending", sslmode="require")
        world.database.password = "previous"
        with pytest.raises(errors.LoginRefusedError, match="1 retained versions could not be tried"):
            world.take(Step.SET_SECRET)

    @pytest.mark.parametrize("value", [None, "not JSON", document("previous", username="somebody else")])
    def test_passes_over_a_previous_version_that_is_of_no_use(self, value: str | None) -> None:
        world = created()
        world.secrets.labels[StagingLabel.PREVIOUS] = OLD
        if value is not None:
            world.secrets.values[OLD] = value
        world.database.password = "nobody knows"
        with pytest.raises(errors.LoginRefusedError, match=r"AWSCURRENT, AWSPENDING\."):
            world.take(Step.SET_SECRET)

    def test_says_which_labels_were_refused(self) -> None:
        world = created()
        world.database.password = "nobody knows"
        with pytest.raises(errors.LoginRefusedError, match=r"AWSCURRENT, AWSPENDING\."):
            world.take(Step.SET_SECRET)

    def test_stops_at_an_unknown_answer_without_trying_another_password(self) -> None:
        world = created()
        world.database.trouble["current"] = errors.DatabaseTimeoutError("silence")
        before = world.state
        with pytest.raises(errors.DatabaseTimeoutError, match=r"silence Waited for [23]\d seconds"):
            world.take(Step.SET_SECRET)
        assert world.state == before
        assert {login.password for login in world.database.logins} == {"current"}
        assert 24 <= 60 - world.clock.now < 34  # with what a change and its put-back may need

    def test_waits_for_an_answer_before_it_changes_anything(self) -> None:
        world = created()
        world.database.trouble["current"] = errors.DatabaseTimeoutError("silence")
        world.database.at_login[6] = world.database.trouble.clear
        world.take(Step.SET_SECRET)
        assert world.database.changes == ["pending"]

    def test_changes_nothing_with_too_little_time_left(self) -> None:
        world = created()
        world.database.at_login[1] = lambda: world.clock.sleep(36.5)
        with pytest.raises(errors.DatabaseTimeoutError, match="Less than 24 seconds"):
            world.take(Step.SET_SECRET)
        assert world.database.changes == []
        assert world.database.open_sessions == 0

    def test_stops_where_a_login_would_prove_nothing(self) -> None:
        world = created()
        world.database.trouble["current"] = errors.AuthenticationMethodError("trust")
        with pytest.raises(errors.AuthenticationMethodError):
            world.take(Step.SET_SECRET)
        assert len(world.database.logins) == 1

    def test_stops_when_the_current_password_is_right_and_the_door_stays_shut(self) -> None:
        world = created()
        world.database.trouble["current"] = errors.LoginNotAllowedError("too many connections")
        with pytest.raises(errors.LoginNotAllowedError):
            world.take(Step.SET_SECRET)
        assert len(world.database.logins) == 1

    def test_takes_a_shut_door_for_a_proof_of_pending(self) -> None:
        world = set_()
        world.database.trouble["pending"] = errors.LoginNotAllowedError("too many connections")
        world.take(Step.SET_SECRET)
        assert world.database.password == "pending"

    def test_refuses_a_pending_version_of_another_login(self) -> None:
        world = created()
        world.secrets.values[PENDING] = document("pending", host="rogue.example")
        with pytest.raises(errors.CredentialMismatchError, match="host"):
            world.take(Step.SET_SECRET)
        assert not world.database.logins


class TestTestSecret:
    @pytest.mark.parametrize("make", [set_, current])
    def test_logs_in(self, make: Callable[[], World]) -> None:
        world = make()
        before = world.state
        world.take(Step.TEST_SECRET)
        assert [login.password for login in world.database.logins] == ["pending"]
        assert world.state == before
        assert world.database.open_sessions == 0

    def test_fails_when_the_database_refuses_pending(self) -> None:
        world = created()
        with pytest.raises(errors.LoginRefusedError):
            world.take(Step.TEST_SECRET)

    def test_tests_the_current_version_in_place_of_an_empty_one(self) -> None:
        world = empty()
        world.take(Step.TEST_SECRET)
        assert [login.password for login in world.database.logins] == ["current"]

    def test_passes_with_a_right_password_before_a_shut_door(self) -> None:
        world = set_()
        world.database.trouble["pending"] = errors.LoginNotAllowedError("no CONNECT")
        world.take(Step.TEST_SECRET)


class TestFinishSecret:
    @pytest.mark.parametrize(
        ("make", "error"), [(empty, errors.MissingVersionError), (created, errors.LoginRefusedError)]
    )
    def test_never_promotes_what_does_not_log_in(self, make: Callable[[], World], error: type[Exception]) -> None:
        world = make()
        before = world.state
        with pytest.raises(error):
            world.take(Step.FINISH_SECRET)
        assert world.state == before

    def test_moves_the_current_label_once_the_version_has_logged_in(self) -> None:
        world = set_()
        world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING
        assert world.secrets.calls == ["GetSecretValue", "GetSecretValue", "UpdateSecretVersionStage"]
        assert len(world.database.logins) == 2
        assert world.database.locks == ["app"]
        assert world.database.open_sessions == 0

    def test_compares_no_versions_that_this_process_has_compared(self) -> None:
        world = created()
        world.take(Step.SET_SECRET)
        world.take(Step.FINISH_SECRET)
        assert world.secrets.calls == ["GetSecretValue", "UpdateSecretVersionStage"]

    def test_moves_the_label_with_a_warning_when_no_answer_comes_until_the_reserve(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        world = created()
        world.take(Step.SET_SECRET)
        world.database.trouble["pending"] = errors.DatabaseTimeoutError("silence")
        world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING
        assert world.clock.now > 30
        assert "silence" in caplog.text

    def test_never_moves_the_label_to_a_host_that_is_not_known(self) -> None:
        world = created()
        world.take(Step.SET_SECRET)
        world.database.trouble["pending"] = errors.HostNotFoundError("no such host")
        with pytest.raises(errors.HostNotFoundError):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT

    def test_never_moves_the_label_past_our_own_fault(self) -> None:
        world = set_()
        world.database.trouble["pending"] = errors.TlsError("certificate")
        with pytest.raises(errors.TlsError):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT
        assert world.clock.now == 0

    def test_moves_the_label_before_a_shut_door(self) -> None:
        world = set_()
        world.database.trouble["pending"] = errors.LoginNotAllowedError("too many connections")
        world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING

    @pytest.mark.parametrize(
        "set_by",
        [
            *("nobody", "another process", "this process, long ago", "before a put-back"),
            *("before testSecret was refused", "before finishSecret was refused", "before the label was moved back"),
            "before finishSecret held the row, and was refused",
            *("before setSecret was refused", "before setSecret found the old password in force"),
        ],
    )
    def test_never_moves_the_label_without_an_answer_to_what_it_has_not_proved_itself(self, set_by: str) -> None:
        world = created()
        if set_by != "nobody":
            world.take(Step.SET_SECRET)
        if set_by == "another process":
            world.memory.clear()
        if set_by == "this process, long ago":
            world.clock.now += PROOF_S
        if set_by == "before a put-back":
            world.database.password = "current"
            world.database.trouble["pending"] = errors.LoginRefusedError("the pooler's list does not have it.")
            with pytest.raises(errors.VerificationFailedError):
                world.take(Step.SET_SECRET)
        if set_by == "before the label was moved back":
            world.database.change_trouble = [errors.PasswordChangeError("permission denied", sqlstate="42501")]
            logins = len(world.database.logins)
            world.database.at_login[logins + 2] = lambda: setattr(world.database, "password", "current")
            with pytest.raises(errors.VerificationFailedError):
                world.take(Step.FINISH_SECRET)
        if set_by.startswith("before setSecret"):
            world.database.password = "current" if "found" in set_by else "another's"
            world.database.change_trouble = [errors.PasswordChangeError("permission denied", sqlstate="42501")]
            with pytest.raises((errors.LoginRefusedError, errors.PasswordChangeError)):
                world.take(Step.SET_SECRET)
        elif set_by.endswith("was refused"):
            at = len(world.database.logins) + (2 if "row" in set_by else 1)
            world.database.at_login[at] = lambda: setattr(world.database, "password", "current")
            with pytest.raises(errors.LoginRefusedError):
                world.take(Step.TEST_SECRET if "testSecret" in set_by else Step.FINISH_SECRET)
        world.database.trouble["pending"] = errors.DatabaseTimeoutError("silence")
        with pytest.raises(errors.DatabaseTimeoutError):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT

    def test_never_moves_the_label_without_an_answer_once_the_labels_have_moved(self) -> None:
        world = created()
        world.take(Step.SET_SECRET)
        world.database.trouble["pending"] = errors.DatabaseTimeoutError("silence")
        world.database.at_login[8] = lambda: world.secrets.labels.update({StagingLabel.PENDING: OLD})
        with pytest.raises(errors.VersionNotPendingError):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT

    def test_waits_for_an_honest_change_of_the_role(self) -> None:
        world = set_()
        world.database.locked = 3
        world.take(Step.FINISH_SECRET)
        assert len(world.database.logins) == 5
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING

    @pytest.mark.parametrize("locked", [0, 1_000_000])
    def test_moves_the_label_where_the_row_cannot_be_had_and_looks_afterwards(self, locked: int) -> None:
        """Any user may hold the row: that delays the move for as long as an honest change might take."""
        world = set_()
        world.database.locked = locked
        world.database.in_recovery = not locked
        world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING
        assert world.clock.now <= (HOLD_S + 1 if locked else 60 - RESERVE_S)  # a standby is waited for
        assert world.secrets.calls[-2:] == ["DescribeSecret", "UpdateSecretVersionStage"]
        assert world.database.logins[-1].password == "pending"
        assert world.database.open_sessions == 0

    def test_waits_for_the_new_primary_whose_password_may_be_another_one(self) -> None:
        """The old primary is a standby now, and has the change that the failover has lost."""
        world = set_()
        world.database.in_recovery = True

        def fail_over() -> None:
            world.database.in_recovery, world.database.password = False, "current"

        world.database.at_login[3] = fail_over
        with pytest.raises(errors.LoginRefusedError, match="before: a standby"):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT

    def test_proves_it_again_where_the_session_was_lost_that_took_the_row(self) -> None:
        """As by a failover, which loses the change as well."""
        world = set_()
        world.database.change_trouble = [errors.PasswordChangeError("cut off", sqlstate=None, lost=True)]
        world.database.at_login[2] = lambda: setattr(world.database, "password", "current")
        with pytest.raises(errors.LoginRefusedError, match="before: cut off"):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT

    @pytest.mark.parametrize("lets_in", [True, False])
    def test_moves_where_every_session_is_lost_that_takes_the_row_if_another_login_proves_it(
        self, *, lets_in: bool
    ) -> None:
        world = set_()
        cut_off = errors.PasswordChangeError("cut off", sqlstate=None, lost=True)
        world.database.change_trouble = [cut_off] * 1000

        def fail_over(effect: str) -> None:
            if effect == "log in" and not lets_in and world.clock.now > HOLD_S / 2:
                world.database.trouble["pending"] = errors.LoginRefusedError("by the new primary.")

        world.database.effect = fail_over
        if lets_in:
            world.take(Step.FINISH_SECRET)
        else:
            with pytest.raises(errors.LoginRefusedError, match="by the new primary"):
                world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == (PENDING if lets_in else CURRENT)
        assert world.clock.now <= HOLD_S + 2
        assert world.database.logins[-1].password == "pending"

    @pytest.mark.parametrize("then", ["works", "is refused", "has no answer"])
    def test_looks_afterwards_where_the_row_was_lost_while_the_label_moved(
        self, then: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A failover ends the session that holds it, and may lose the change, while Secrets Manager is waited for."""
        world = set_()

        def fail_over(call: str) -> None:
            if call != "UpdateSecretVersionStage" or not world.database.sessions:
                return
            world.database.end(world.database.sessions[0])
            if then == "is refused":
                world.database.password = "current"
            if then == "has no answer":
                world.database.trouble["pending"] = errors.DatabaseTimeoutError("silence.")

        world.secrets.effect = fail_over
        if then == "is refused":
            with pytest.raises(errors.VerificationFailedError, match="moved back to"):
                world.take(Step.FINISH_SECRET)
        else:
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == (CURRENT if then == "is refused" else PENDING)
        assert ("Whether it logs in is not known: silence." in caplog.text) == (then == "has no answer")

    def test_leaves_the_label_where_the_former_password_works_on_a_standby_alone(self) -> None:
        """It may be behind, and take over with the new one."""
        world = set_()

        def fail_over(call: str) -> None:
            if call == "UpdateSecretVersionStage":
                world.database.end(world.database.sessions[0])
                world.database.in_recovery, world.database.password = True, "current"

        world.secrets.effect = fail_over
        with pytest.raises(errors.UnprovenPasswordError, match="AWSPREVIOUS logs in on a standby"):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING
        assert world.database.open_sessions == 0

    def test_waits_for_the_standby_that_takes_over(self) -> None:
        world = set_()

        def fail_over(call: str) -> None:
            if call == "UpdateSecretVersionStage" and world.database.sessions:
                world.database.end(world.database.sessions[0])
                world.database.in_recovery, world.database.password = True, "current"

        def take_over() -> None:
            world.database.in_recovery = False

        world.secrets.effect = fail_over
        world.database.at_login[8] = take_over
        with pytest.raises(errors.VerificationFailedError, match=f"moved back to version {CURRENT}"):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT
        assert 0 < world.clock.now < 30

    @pytest.mark.parametrize("is_lost", [True, False])
    def test_waits_for_the_new_primary_where_the_old_one_has_the_new_password(self, *, is_lost: bool) -> None:
        """The label moves while the name leads to the old one, and back where the failover has lost the change."""
        world = set_()
        world.database.in_recovery = True

        def take_over(effect: str) -> None:
            if effect == "log in" and world.clock.now > 2 * HOLD_S and world.database.in_recovery:
                world.database.in_recovery, world.database.password = False, "current" if is_lost else "pending"

        world.database.effect = take_over
        if is_lost:
            with pytest.raises(errors.VerificationFailedError, match=f"moved back to version {CURRENT}"):
                world.take(Step.FINISH_SECRET)
        else:
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == (CURRENT if is_lost else PENDING)
        assert 2 * HOLD_S < world.clock.now < 3 * HOLD_S

    def test_waits_no_longer_than_for_any_answer(self) -> None:
        """However long the function may run."""
        world = set_()
        world.database.in_recovery = True
        world.take(Step.FINISH_SECRET, seconds=900)
        assert HOLD_S + MOST_WAIT_S - 5 < world.clock.now < HOLD_S + MOST_WAIT_S + 5

    def test_does_not_believe_the_old_primary_that_has_the_new_password(self, caplog: pytest.LogCaptureFixture) -> None:
        """It is a standby now; the new one may have lost the change."""
        world = set_()

        def fail_over(call: str) -> None:
            if call == "UpdateSecretVersionStage":
                world.database.end(world.database.sessions[0])
                world.database.in_recovery = True

        world.secrets.effect = fail_over
        world.take(Step.FINISH_SECRET)
        assert "Whether it logs in is not known: AWSCURRENT logs in on a standby" in caplog.text

    def test_keeps_a_refusal_in_mind_that_silence_follows(self) -> None:
        world = set_()

        def fail_over(call: str) -> None:
            if call == "UpdateSecretVersionStage" and world.database.sessions:
                world.database.end(world.database.sessions[0])
                world.database.password = "current"
                world.database.at_login[len(world.database.logins) + 2] = fall_silent

        def fall_silent() -> None:
            world.database.trouble["pending"] = errors.DatabaseTimeoutError("silence.")

        world.secrets.effect = fail_over
        with pytest.raises((errors.VerificationFailedError, errors.UnprovenPasswordError)):
            world.take(Step.FINISH_SECRET)

    def test_looks_after_a_move_without_an_answer_as_well(self) -> None:
        """The server is back by then, without the change."""
        world = created()
        world.take(Step.SET_SECRET)
        world.database.trouble["pending"] = errors.DatabaseTimeoutError("silence")

        def come_back(call: str) -> None:
            if call == "UpdateSecretVersionStage":
                world.database.trouble.clear()
                world.database.password = "current"

        world.secrets.effect = come_back
        with pytest.raises(errors.VerificationFailedError, match=f"moved back to version {CURRENT}"):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT

    def test_is_critical_where_the_label_cannot_be_moved_back(self) -> None:
        world = set_()
        world.database.change_trouble = [errors.PasswordChangeError("permission denied", sqlstate="42501")]

        def change() -> None:
            world.database.password = "current"
            world.secrets.trouble["UpdateSecretVersionStage"] = errors.SecretsManagerError("throttled.")

        world.database.at_login[2] = change
        with pytest.raises(
            errors.UnprovenPasswordError, match=f"could it be moved back .*{CURRENT}.*throttled"
        ) as caught:
            world.take(Step.FINISH_SECRET)
        assert caught.value.critical
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING

    @pytest.mark.parametrize("former_works", [True, False])
    def test_moves_the_label_back_when_the_password_is_another_one_afterwards(self, *, former_works: bool) -> None:
        world = set_()
        world.database.change_trouble = [errors.PasswordChangeError("permission denied", sqlstate="42501")]
        password = "current" if former_works else "the other's"
        world.database.at_login[2] = lambda: setattr(world.database, "password", password)
        error = errors.VerificationFailedError if former_works else errors.UnprovenPasswordError
        with pytest.raises(error, match=f"{'moved back to' if former_works else 'the former AWSCURRENT'} .*{CURRENT}"):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == (CURRENT if former_works else PENDING)

    @pytest.mark.parametrize(
        ("keys", "logs_in", "critical"),
        [({"dbname": "other"}, False, True), ({"dbname": "other"}, True, False), ({"host": "silent"}, None, False)],
    )
    def test_leaves_another_login_that_a_person_has_stored(
        self, keys: dict[str, str], *, logs_in: bool | None, critical: bool
    ) -> None:
        world = set_()
        by_hand = "pending" if logs_in else "by hand"
        world.secrets.values[CURRENT] = document(by_hand, **keys)
        if logs_in is None:
            world.database.trouble["by hand"] = errors.DatabaseTimeoutError("silence")
        with pytest.raises(errors.CredentialMismatchError, match=next(iter(keys))) as caught:
            world.take(Step.FINISH_SECRET)
        assert caught.value.critical == critical
        assert ("does not log in" in caught.value.what) == critical
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT

    def test_does_not_doubt_another_login_whose_password_is_right(self) -> None:
        world = set_()
        world.secrets.values[CURRENT] = document("by hand", dbname="other")
        world.database.trouble["by hand"] = errors.LoginNotAllowedError("shut.")
        with pytest.raises(errors.CredentialMismatchError, match="dbname") as caught:
            world.take(Step.FINISH_SECRET)
        assert not caught.value.critical
        assert "log in" not in caught.value.what

    def test_names_the_other_keys_that_get_lost(self, caplog: pytest.LogCaptureFixture) -> None:
        world = set_()
        world.secrets.values[CURRENT] = document("by hand", note="another", added=1)
        world.take(Step.FINISH_SECRET)
        assert "its `note`, `added` will not be in the new version" in caplog.text
        assert "by hand" not in caplog.text
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING

    def test_proves_the_password_again_while_it_holds_the_row(self) -> None:
        """A put-back has come between the first login and the lock."""
        world = set_()
        world.database.at_login[2] = lambda: setattr(world.database, "password", "current")
        with pytest.raises(errors.LoginRefusedError):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == CURRENT
        assert world.database.open_sessions == 0

    def test_takes_a_reached_connection_limit_for_a_proof_while_it_holds_the_row(self) -> None:
        world = set_()

        def shut() -> None:
            world.database.trouble["pending"] = errors.LoginNotAllowedError("too many connections for role")

        world.database.at_login[2] = shut
        world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING

    def test_tells_how_long_logins_were_refused(self, caplog: pytest.LogCaptureFixture) -> None:
        world = created()
        measured: list[tuple[str, float]] = []
        world.measure = lambda name, value: measured.append((name, value))
        world.take(Step.SET_SECRET)
        world.clock.now += 1.5
        with caplog.at_level("INFO"):
            world.take(Step.FINISH_SECRET)
        assert measured == [("OutageWindow", 1500)]
        assert "refused for 1500 ms" in caplog.text

    def test_tells_no_longer_outage_where_it_has_to_look_afterwards(self) -> None:
        world = created()
        measured: list[tuple[str, float]] = []
        world.measure = lambda name, value: measured.append((name, value))
        world.take(Step.SET_SECRET)

        def fail_over(call: str) -> None:
            if call == "UpdateSecretVersionStage":
                world.database.end(world.database.sessions[0])
                world.clock.now += 1.5
                world.database.trouble["pending"] = errors.DatabaseTimeoutError("silence.")

        world.secrets.effect = fail_over
        world.take(Step.FINISH_SECRET)
        assert world.clock.now > 30
        assert measured == [("OutageWindow", 1500)]

    def test_finds_that_a_twin_was_faster(self) -> None:
        world = set_()
        world.database.at_login[1] = lambda: world.secrets.labels.update({StagingLabel.CURRENT: PENDING})
        world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING

    def test_raises_when_the_current_label_has_moved_elsewhere(self) -> None:
        world = set_()
        world.database.at_login[1] = lambda: world.secrets.labels.update({StagingLabel.CURRENT: OLD})
        with pytest.raises(errors.SecretsManagerError):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == OLD

    def test_does_nothing_for_the_current_version(self) -> None:
        world = current()
        before = world.state
        world.take(Step.FINISH_SECRET)
        assert world.state == before
        assert not world.database.logins


@dataclass(slots=True)
class Replicated(FakeSecretsManager):
    """A secret with replicas in two Regions; `states` is what becomes of them once AWSCURRENT has moved."""

    states: list[Mapping[str, str] | errors.RotationError] = field(default_factory=list)

    def describe_secret(self) -> SecretVersions:
        versions = super(Replicated, self).describe_secret()
        if not versions.is_current(PENDING):
            return replace(versions, replicas=IN_SYNC)
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, errors.RotationError):
            raise state
        return replace(versions, replicas=state)


IN_SYNC = {"eu-west-1": "InSync", "eu-north-1": "InSync"}
LATE = {"eu-west-1": "InSync", "eu-north-1": "InProgress"}
FAILED = {"eu-west-1": "InSync", "eu-north-1": "Failed"}


class TestReplicas:
    @staticmethod
    def finish(
        caplog: pytest.LogCaptureFixture, *states: Mapping[str, str] | errors.RotationError
    ) -> tuple[World, list[str]]:
        world = set_()
        world.secrets = Replicated(world.secrets.values, world.secrets.labels, states=list(states))
        with caplog.at_level("INFO", logger="rotation_lambda"):
            world.take(Step.FINISH_SECRET)
        assert world.secrets.labels[StagingLabel.CURRENT] == PENDING
        return world, [f"{line.levelname} {line.message}" for line in caplog.records if "replica" in line.message]

    def test_are_waited_for_until_they_have_the_new_version(self, caplog: pytest.LogCaptureFixture) -> None:
        world, [line] = self.finish(caplog, LATE, LATE, IN_SYNC)
        assert re.fullmatch(
            r"INFO The replicas in eu-west-1, eu-north-1 have the new version, after \d\.\d seconds\.", line
        )
        assert 0.5 < world.clock.now < 5

    def test_that_failed_are_named(self, caplog: pytest.LogCaptureFixture) -> None:
        _, [line] = self.finish(caplog, LATE, FAILED)
        assert line.startswith("WARNING After ")
        assert "every replica has the new version: eu-north-1 Failed. Applications there" in line

    def test_are_not_waited_for_without_end(self, caplog: pytest.LogCaptureFixture) -> None:
        world, [line] = self.finish(caplog, LATE)
        assert "eu-north-1 InProgress" in line
        assert steps.REPLICAS_S <= world.clock.now < steps.REPLICAS_S + 2

    def test_stop_no_rotation_where_their_state_cannot_be_read(self, caplog: pytest.LogCaptureFixture) -> None:
        _, [line] = self.finish(caplog, LATE, errors.SecretsManagerError("DescribeSecret failed with Throttling."))
        assert line.endswith("is not known: DescribeSecret failed with Throttling.")

    def test_that_are_none_cost_no_call(self) -> None:
        world, replicated = set_(), set_()
        replicated.secrets = Replicated(replicated.secrets.values, replicated.secrets.labels, states=[IN_SYNC])
        for one in (world, replicated):
            one.take(Step.FINISH_SECRET)
        assert world.secrets.calls == replicated.secrets.calls[:-1]
