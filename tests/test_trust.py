"""What shows that a user is the secret's own: on fakes, which password is tried and when. And what it runs as."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from rotation_lambda import errors
from rotation_lambda.credential import SslMode
from rotation_lambda.event import Step
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.staging import StagingLabel
from tests.test_steps import OLD, World, created, document
from tests.test_strategies import alternating, by_superuser, logins, with_superuser
from tests.worlds.fakes import FakeClock

if TYPE_CHECKING:
    from tests.conftest import Secret

ORPHAN = "0" * 32


def doubtful(user: str = "app_clone", **keys: object) -> World:
    """Have a database that does not show that the other of two users is the secret's; it accepts `before`."""
    world = with_superuser(created(), user=user, **keys)  # type: ignore[arg-type]
    world.database.doubt = {user}
    world.database.others[user] = "before"
    return world


def retain(world: World, version: str, password: str, **keys: object) -> None:
    world.secrets.values = {version: document(password, **keys), **world.secrets.values}


class TestTheOtherOfTwoUsers:
    def test_is_ours_by_the_version_that_is_labelled_as_previous(self) -> None:
        world = doubtful()
        retain(world, OLD, "before", username="app_clone")
        world.secrets.labels[StagingLabel.PREVIOUS] = OLD
        world.take(Step.SET_SECRET)
        assert logins(world) == [
            ("app", "current"),
            ("master", "super"),
            ("app_clone", "before"),
            ("app_clone", "pending"),
        ]
        assert "ListSecretVersionIds" not in world.secrets.calls
        assert world.database.others["app_clone"] == "pending"

    def test_is_ours_by_pending_itself_which_an_earlier_try_has_set(self) -> None:
        world = doubtful()
        world.database.others["app_clone"] = "pending"
        world.take(Step.SET_SECRET)
        assert world.database.plans == [("app_clone", True)]

    def test_is_ours_by_a_version_that_has_lost_its_label(self) -> None:
        world = doubtful()
        retain(world, ORPHAN, "before", username="app_clone")
        world.take(Step.SET_SECRET)
        assert world.database.others["app_clone"] == "pending"
        assert world.database.scram_only == {"super", "before"}

    def test_is_ours_by_the_tag_before_any_password_is_tried(self) -> None:
        world = doubtful()
        world.secrets.tags["rotation:users"] = "somebody app_clone"
        world.take(Step.SET_SECRET)
        assert logins(world) == [("app", "current"), ("master", "super"), ("app_clone", "pending")]

    @pytest.mark.parametrize("username", ["app", "somebody"])
    def test_is_not_ours_by_the_password_of_another_user(self, username: str) -> None:
        world = doubtful()
        retain(world, ORPHAN, "before", username=username)
        with pytest.raises(errors.RoleNotPreparedError):
            world.take(Step.SET_SECRET)
        assert world.database.others["app_clone"] == "before"
        assert world.database.open_sessions == 0

    @pytest.mark.parametrize("verified", [True, False])
    def test_is_ours_by_a_refusal_after_authentication_where_the_server_has_proved_who_it_is(
        self, *, verified: bool
    ) -> None:
        world = doubtful(sslmode="require")
        sslmode = SslMode.VERIFY_FULL if verified else SslMode.VERIFY_CA  # of the superuser, who has the last word
        assert world.superusers.superuser
        world.superusers.superuser = replace(world.superusers.superuser, sslmode=sslmode)
        retain(world, ORPHAN, "before", username="app_clone")
        world.database.trouble["before"] = errors.LoginNotAllowedError("too many connections")
        if verified:
            world.take(Step.SET_SECRET)
        else:
            with pytest.raises(errors.RoleNotPreparedError):
                world.take(Step.SET_SECRET)
        assert (world.database.others["app_clone"] == "pending") == verified

    def test_is_not_asked_for_where_the_database_shows_it(self) -> None:
        world = alternating()
        world.take(Step.SET_SECRET)
        assert [user for user, _ in logins(world)] == ["app", "master", "app_clone"]

    def test_stays_as_it_is_where_nobody_answers(self) -> None:
        world = doubtful()
        retain(world, ORPHAN, "before", username="app_clone")
        world.database.trouble["before"] = errors.DatabaseTimeoutError("silence")
        with pytest.raises(errors.DatabaseTimeoutError):
            world.take(Step.SET_SECRET)
        assert world.database.changes == []


class TestTheUserInUse:
    def test_whose_password_nobody_knows_is_ours_by_the_tag_alone(self) -> None:
        world = by_superuser()
        world.database.password = "by hand"
        with pytest.raises(errors.RoleNotPreparedError):
            world.take(Step.SET_SECRET)
        assert world.database.password == "by hand"
        world.secrets.tags["rotation:users"] = "app"
        world.take(Step.SET_SECRET)
        assert world.database.password == "pending"

    def test_whose_password_a_retained_version_has_is_ours(self) -> None:
        world = by_superuser()
        retain(world, ORPHAN, "before", username="app")
        world.database.password = "before"
        world.take(Step.SET_SECRET)
        assert world.database.password == "pending"


class TestTheTag:
    @pytest.mark.parametrize(
        ("tags", "users"),
        [
            ({}, set()),
            ({"rotation:users": ""}, set()),
            ({"rotation:users": " app  app_clone "}, {"app", "app_clone"}),
            ({"rotation:users": "victim\u00a0reader app"}, {"victim\u00a0reader", "app"}),
            ({"Rotation:Users": "app", "rotation:users ": "app", "ROTATION:USERS": "app"}, set()),
        ],
    )
    def test_names_users_by_its_exact_name(
        self,
        tags: dict[str, str],
        users: set[str],
        make_secret: Any,  # noqa: ANN401
    ) -> None:
        """A policy that denies a writer the tag knows it by its exact name only."""
        secret: Secret = make_secret({})
        client = secret.server.client()
        client.tag_resource(SecretId=secret.arn, Tags=[{"Key": key, "Value": value} for key, value in tags.items()])
        versions = SecretsManager(client, secret.arn, FakeClock().deadline()).describe_secret()
        assert versions.users == users
