"""Who may invoke the function, and has no permission on a secret."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from local.servers import rotation
from rotation_lambda import errors, handler
from tests.worlds.scenes import Scene, scene, set_scene

__all__ = ["scene", "set_scene"]


class TestAPreflightOfASuperusersSecret:
    """The function may read it, so that whoever may invoke the function could have it log in with that."""

    def look(self, scene: Scene, secret_id: str, function_arn: str) -> dict[str, Any]:
        scene.secret.server.calls.clear()
        context: Any = SimpleNamespace(
            function_name="rotation",
            memory_limit_in_mb=256,
            invoked_function_arn=function_arn,
            aws_request_id="test",
            get_remaining_time_in_millis=lambda: 60_000,
        )
        report = handler.lambda_handler({"Step": "preflight", "SecretId": secret_id}, context)
        assert report is not None
        return {finding["check"]: finding for finding in report["findings"]}

    @pytest.mark.parametrize("by_name", [False, True])
    @pytest.mark.parametrize("rotated_by", ["nothing", "another"])
    def test_is_refused_before_the_secret_is_read(self, rotated_by: str, *, by_name: bool, scene: Scene) -> None:
        arn, function_arn = scene.master.arn, scene.master.server.function_arn
        if rotated_by == "another":
            rotation.begin(scene.master.server.client(), arn, function_arn)
            function_arn += "-2"
        logged = len(scene.server.log())
        found = self.look(scene, arn.rpartition(":")[2][:-7] if by_name else arn, function_arn)
        assert (found["rotation"]["status"], found["rotation"]["code"]) == ("failed", "rotation-refused")
        assert found["GetSecretValue"]["status"] == found["login AWSCURRENT"]["status"] == "not reached"
        assert scene.secret.server.calls == ["DescribeSecret"]
        assert "connection received" not in scene.server.log()[logged:]

    @pytest.mark.parametrize("alias", ["", ":live"])
    def test_is_honest_where_this_function_rotates_it(self, alias: str, scene: Scene) -> None:
        function_arn = scene.master.server.function_arn
        rotation.begin(scene.master.server.client(), scene.master.arn, function_arn)
        assert self.look(scene, scene.master.arn, function_arn + alias)["login AWSCURRENT"]["status"] == "ok"

    def test_is_honest_of_a_secret_that_is_no_superusers(self, scene: Scene) -> None:
        """Before its rotation is switched on, too."""
        found = self.look(scene, scene.secret.arn, scene.master.server.function_arn)
        assert found["login AWSCURRENT"]["status"] == "ok"


class TestAStepOfNoRotation:
    """Secrets Manager alone attaches AWSPENDING to a version."""

    @pytest.mark.parametrize("step", ["createSecret", "setSecret", "testSecret", "finishSecret"])
    @pytest.mark.parametrize("whose", ["secret", "master"])
    def test_is_refused(self, whose: str, step: str, scene: Scene) -> None:
        arn = {"secret": scene.secret.arn, "master": scene.master.arn}[whose]
        before = scene.written()
        with pytest.raises(errors.VersionNotStagedError):
            scene.invoke({"Step": step, "SecretId": arn, "ClientRequestToken": str(uuid4())})
        assert scene.written() == before
        assert scene.role.lets_in(scene.role.password)

    @pytest.mark.parametrize("step", ["createSecret", "setSecret", "testSecret", "finishSecret"])
    def test_changes_nothing_with_the_version_in_use(self, step: str, scene: Scene) -> None:
        before, labels = scene.written(), scene.secret.labels
        scene.take(labels["AWSCURRENT"], step)
        assert (scene.written(), scene.secret.labels) == (before, labels)

    def test_is_honest_with_the_version_that_a_rotation_has_begun(self, scene: Scene) -> None:
        assert scene.rotate()["username"] == scene.clone
