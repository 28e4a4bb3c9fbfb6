"""What a step may do is decided by the staging labels alone."""

from __future__ import annotations

from dataclasses import replace

import hypothesis
import pytest
from hypothesis import strategies as st

from rotation_lambda import errors, staging
from rotation_lambda.event import Step
from tests.worlds import leaks

CURRENT, PENDING, PREVIOUS = "AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"
OLDER, OLD, NEW = "0" * 32, "1" * 32, "2" * 32
STEPS = [Step.CREATE_SECRET, Step.SET_SECRET, Step.TEST_SECRET, Step.FINISH_SECRET]
CHANGING = [Step.CREATE_SECRET, Step.SET_SECRET, Step.FINISH_SECRET]
each_step = pytest.mark.parametrize("step", STEPS)


def versions(*, enabled: bool | None = True, deleted: bool = False, **labels: set[str]) -> staging.SecretVersions:
    named = {"older": OLDER, "old": OLD, "new": NEW}
    return staging.SecretVersions({named[name]: frozenset(its) for name, its in labels.items()}, enabled, deleted)


def refusal(state: staging.SecretVersions, step: Step, version: str = NEW) -> errors.RotationRefusedError:
    with pytest.raises(errors.RotationRefusedError) as caught:
        state.check(version, step)
    error = caught.value
    assert error.what.endswith(".")
    assert error.hint
    assert error.hint in str(error)
    assert error.__cause__ is error.__context__ is None
    return error


ALLOWED = {
    "empty or created": {PENDING},
    "current": {CURRENT},
    "current, with AWSPENDING left on it": {CURRENT, PENDING},
    "a version that was used before": {PENDING, PREVIOUS},
    "pending with a label of the user's": {PENDING, "blue"},
}
REFUSED = {
    "previous": {PREVIOUS},
    "a label of the user's": {"blue"},
    "previous with a label of the user's": {PREVIOUS, "blue"},
    "nearly pending": {"awspending", "AWSPENDING "},
}


@each_step
@pytest.mark.parametrize("labels", ALLOWED.values(), ids=ALLOWED)
def test_lets_a_step_come_to_a_version_that_is_pending_or_current(labels: set[str], step: Step) -> None:
    versions(older={PREVIOUS}, old={CURRENT} - labels, new=labels).check(NEW, step)


@each_step
def test_lets_a_first_rotation_come_to_a_secret_that_has_pending_alone(step: Step) -> None:
    versions(new={PENDING}, enabled=None).check(NEW, step)


@each_step
def test_refuses_a_version_that_does_not_exist(step: Step) -> None:
    error = refusal(versions(old={CURRENT, PENDING}), step)
    assert type(error) is errors.VersionNotStagedError
    assert NEW in error.what


@each_step
def test_refuses_a_version_whose_labels_are_gone(step: Step) -> None:
    error = refusal(versions(old={CURRENT}, new=set()), step)
    assert type(error) is errors.VersionNotStagedError
    assert NEW in error.what


@each_step
def test_refuses_any_version_of_a_secret_without_versions(step: Step) -> None:
    assert type(refusal(versions(), step)) is errors.VersionNotStagedError


@each_step
@pytest.mark.parametrize("labels", REFUSED.values(), ids=REFUSED)
def test_refuses_a_version_that_is_stale_and_says_what_it_is(labels: set[str], step: Step) -> None:
    error = refusal(versions(old={CURRENT}, new=labels), step)
    assert type(error) is errors.VersionNotPendingError
    assert error.what == f"Version {NEW} has {', '.join(sorted(labels))}, not AWSPENDING."


@each_step
def test_refuses_a_version_while_another_is_pending(step: Step) -> None:
    error = refusal(versions(older={PREVIOUS}, old={CURRENT}, new={PENDING}), step, version=OLDER)
    assert type(error) is errors.VersionNotPendingError


@pytest.mark.parametrize("step", CHANGING)
@pytest.mark.parametrize("labels", [{PENDING}, {CURRENT}, {CURRENT, PENDING}], ids=["pending", "current", "both"])
def test_refuses_a_changing_step_while_rotation_is_disabled(labels: set[str], step: Step) -> None:
    assert type(refusal(versions(new=labels, enabled=False), step)) is errors.RotationDisabledError


def test_lets_test_secret_come_while_rotation_is_being_switched_on() -> None:
    versions(old={CURRENT}, new={PENDING}, enabled=False).check(NEW, Step.TEST_SECRET)


@each_step
@pytest.mark.parametrize("enabled", [True, None], ids=["enabled", "null or absent"])
def test_only_false_means_disabled(enabled: bool | None, step: Step) -> None:  # noqa: FBT001
    versions(old={CURRENT}, new={PENDING}, enabled=enabled).check(NEW, step)


def test_absent_does_not_mean_disabled() -> None:
    staging.SecretVersions({NEW: frozenset({PENDING})}).check(NEW, Step.SET_SECRET)


@each_step
@pytest.mark.parametrize("enabled", [True, None, False])
def test_refuses_every_step_of_a_secret_marked_for_deletion(enabled: bool | None, step: Step) -> None:  # noqa: FBT001
    state = versions(old={CURRENT}, new={PENDING}, enabled=enabled, deleted=True)
    assert type(refusal(state, step)) is errors.SecretDeletedError


@each_step
def test_refuses_every_step_of_a_secret_that_rds_manages(step: Step) -> None:
    error = refusal(replace(versions(old={CURRENT}, new={PENDING}), managed=True), step)
    assert type(error) is errors.SecretManagedError
    assert "masterarn" in error.hint


@each_step
def test_deletion_is_told_before_all_else(step: Step) -> None:
    assert type(refusal(versions(enabled=False, deleted=True), step)) is errors.SecretDeletedError


@pytest.mark.parametrize("step", CHANGING)
def test_disabled_is_told_before_a_missing_label(step: Step) -> None:
    assert type(refusal(versions(old={CURRENT}, enabled=False), step)) is errors.RotationDisabledError


def test_test_secret_asks_for_the_label_even_while_rotation_is_disabled() -> None:
    error = refusal(versions(old={CURRENT}, enabled=False), Step.TEST_SECRET)
    assert type(error) is errors.VersionNotStagedError


def test_finds_the_current_version() -> None:
    assert versions(older={PREVIOUS}, old={CURRENT}, new={PENDING}).current == OLD


@pytest.mark.parametrize(
    "state",
    [versions(), versions(new={PENDING}), versions(old={PREVIOUS}, new={PENDING})],
    ids=["no version", "pending alone", "previous and pending"],
)
def test_refuses_a_secret_without_a_current_version(state: staging.SecretVersions) -> None:
    with pytest.raises(errors.MissingVersionError, match="AWSCURRENT") as caught:
        assert not state.current
    assert caught.value.what == "The secret has no version with AWSCURRENT: there is nothing to rotate from."
    assert "put-secret-value" in caught.value.hint
    assert caught.value.hint in leaks.everything_in(caught.value)


@pytest.mark.parametrize(
    ("label", "version"),
    [
        (staging.StagingLabel.CURRENT, OLD),
        (staging.StagingLabel.PENDING, NEW),
        (staging.StagingLabel.PREVIOUS, OLDER),
    ],
)
def test_finds_the_version_with_a_label(label: staging.StagingLabel, version: str) -> None:
    assert versions(older={PREVIOUS}, old={CURRENT, "blue"}, new={PENDING}).with_label(label) == version


@pytest.mark.parametrize("label", staging.StagingLabel)
def test_no_version_has_a_label_that_is_nowhere(label: staging.StagingLabel) -> None:
    assert versions(old={"blue"}, new=set()).with_label(label) is None


@pytest.mark.parametrize("labels", [{CURRENT}, {CURRENT, PENDING}, {CURRENT, "blue"}])
def test_a_rotation_is_done_when_its_version_is_current(labels: set[str]) -> None:
    assert versions(new=labels).is_current(NEW)


@pytest.mark.parametrize("labels", [{PENDING}, {PREVIOUS}, {"blue"}, set()])
def test_a_rotation_is_not_done_before_its_version_is_current(labels: set[str]) -> None:
    assert not versions(old={CURRENT}, new=labels).is_current(NEW)


def test_a_version_that_does_not_exist_is_not_current() -> None:
    assert not versions(old={CURRENT}).is_current(NEW)


LABELS = st.frozensets(st.sampled_from([CURRENT, PENDING, PREVIOUS, "blue"]))


@hypothesis.given(
    labels=st.dictionaries(st.sampled_from([OLDER, OLD, NEW]), LABELS),
    enabled=st.none() | st.booleans(),
    deleted=st.booleans(),
    step=st.sampled_from(STEPS),
)
def test_a_step_passes_exactly_where_the_version_is_pending_or_current_and_nothing_forbids_it(
    labels: dict[str, frozenset[str]],
    enabled: bool | None,  # noqa: FBT001
    deleted: bool,  # noqa: FBT001
    step: Step,
) -> None:
    allowed = (
        not deleted
        and (enabled is not False or step is Step.TEST_SECRET)
        and bool(labels.get(NEW, frozenset()) & {PENDING, CURRENT})
    )
    state = staging.SecretVersions(labels, enabled, deleted)
    if allowed:
        state.check(NEW, step)
    else:
        refusal(state, step)
