"""An event is one of Secrets Manager's, or it is refused by the name of what is wrong in it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from rotation_lambda import errors, event
from tests.worlds import leaks

ARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:prod/app-AbCdEf"
VERSION = "8fd51a3c-2c4e-4a5d-9b1f-0e6f5d4c3b2a"
ROTATION_TOKEN = "xyzzy-rotation-token-0123456789-abcdefg"
EVENT = {"Step": "createSecret", "SecretId": ARN, "ClientRequestToken": VERSION}
WITH_TOKEN = {**EVENT, "RotationToken": ROTATION_TOKEN}
WRONG_TYPES = {
    "null": None,
    "number": 5,
    "fraction": 1.5,
    "boolean": True,
    "array": ["createSecret"],
    "object": {"Step": "createSecret"},
    "bytes": b"createSecret",
}


def refusal(asked: object) -> errors.InvalidEventError:
    with pytest.raises(errors.InvalidEventError) as caught:
        event.RotationEvent.parse(asked)
    error = caught.value
    assert error.what.isprintable()
    assert error.what.endswith(".")
    assert len(error.what) < 400
    assert error.hint
    assert ROTATION_TOKEN not in leaks.everything_in(error)
    return error


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("createSecret", event.Step.CREATE_SECRET),
        ("setSecret", event.Step.SET_SECRET),
        ("testSecret", event.Step.TEST_SECRET),
        ("finishSecret", event.Step.FINISH_SECRET),
    ],
)
def test_reads_each_of_the_four_steps(name: str, step: event.Step) -> None:
    assert event.RotationEvent.parse({**EVENT, "Step": name}) == event.RotationEvent(step, ARN, VERSION)


@pytest.mark.parametrize("token", [{}, {"ClientRequestToken": VERSION}])
def test_a_preflight_is_for_no_version(token: dict[str, str]) -> None:
    asked = event.RotationEvent.parse({"Step": "preflight", "SecretId": ARN, **token})
    assert asked == event.RotationEvent(event.Step.PREFLIGHT, ARN, "")


def test_a_preflight_without_a_secret_is_for_all_of_them() -> None:
    asked = event.RotationEvent.parse({"Step": "preflight"})
    assert asked == event.RotationEvent(event.Step.PREFLIGHT, "", "")
    assert refusal({"Step": "preflight", "SecretId": ""}).what == "SecretId is empty."
    assert refusal({"Step": "createSecret"}).what == "SecretId is missing from the event."


def test_the_steps_stand_in_the_order_of_a_rotation() -> None:
    assert list(event.Step)[:4] == ["createSecret", "setSecret", "testSecret", "finishSecret"]


def test_takes_any_mapping_for_an_object() -> None:
    assert event.RotationEvent.parse(MappingProxyType(EVENT)) == event.RotationEvent.parse(EVENT)


def test_passes_over_keys_that_it_does_not_know() -> None:
    asked = {"Extra": {"nested": [1]}, "step": "setSecret", "": None, **EVENT}
    assert event.RotationEvent.parse(asked) == event.RotationEvent.parse(EVENT)


@pytest.mark.parametrize("asked", [None, True, 5, "createSecret", b"{}", [], [EVENT], ("Step",), {"Step"}, object()])
def test_refuses_an_event_that_is_not_an_object(asked: object) -> None:
    assert "event" in refusal(asked).what


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        *((None, "null"), (True, "a boolean"), (5, "a number"), (0.5, "a number"), ("{}", "a string")),
        ([EVENT], "an array"),
    ],
)
def test_tells_in_words_of_json_what_an_event_is(asked: object, words: str) -> None:
    assert refusal(asked).what == f"The event is {words}, not an object."
    assert refusal({**EVENT, "Step": {}}).what == "Step is an object, not a string."


@pytest.mark.parametrize("key", EVENT)
def test_refuses_an_event_without_one_of_its_keys(key: str) -> None:
    asked = {name: value for name, value in WITH_TOKEN.items() if name != key}
    assert refusal(asked).what.startswith(f"{key} is missing")


def test_refuses_an_empty_event() -> None:
    assert refusal({}).what.startswith("Step is missing")


@pytest.mark.parametrize("key", WITH_TOKEN)
def test_refuses_an_empty_value(key: str) -> None:
    assert refusal({**WITH_TOKEN, key: ""}).what == f"{key} is empty."


@pytest.mark.parametrize("value", WRONG_TYPES.values(), ids=WRONG_TYPES)
@pytest.mark.parametrize("key", EVENT)
def test_refuses_a_value_that_is_not_a_string(key: str, value: object) -> None:
    error = refusal({**WITH_TOKEN, key: value})
    assert error.what.startswith(f"{key} is ")
    assert error.what.endswith("not a string.")


@pytest.mark.parametrize("key", EVENT)
def test_a_key_in_other_letters_is_another_key(key: str) -> None:
    asked = {name.lower() if name == key else name: value for name, value in EVENT.items()}
    assert refusal(asked).what.startswith(f"{key} is missing")


@pytest.mark.parametrize(
    "step",
    [
        "rotateSecret",
        "CREATE_SECRET",
        "createsecret",
        "createSecret ",
        " createSecret",
        "createSecret\n",
        "\0",
        "\ud800",
    ],
    ids=ascii,
)
def test_refuses_an_unknown_step(step: str) -> None:
    error = refusal({**WITH_TOKEN, "Step": step})
    assert error.what.startswith("Step is ")
    assert "createSecret, setSecret, testSecret, finishSecret" in error.what


@pytest.mark.parametrize("key", ["Step", "SecretId", "ClientRequestToken"])
def test_cuts_what_it_quotes(key: str) -> None:
    assert refusal({**EVENT, key: "x" * 100_000}).what.startswith(key)


@pytest.mark.parametrize(
    ("value", "quoted"),
    [("x\u00ff", "'x\\xff'"), ("x" * 80, f"'{'x' * 80}'"), ("x" * 81, f"'{'x' * 80}\\u2026'")],
    ids=ascii,
)
def test_quotes_80_characters_in_ascii(value: str, quoted: str) -> None:
    assert refusal({**EVENT, "Step": value}).what.startswith(f"Step is {quoted}, not one of ")


@pytest.mark.parametrize(
    "secret_id",
    [
        ARN,
        "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:app-AbCdEf",
        "arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:app-AbCdEf",
        "arn:aws-iso-b:secretsmanager:us-isob-east-1:123456789012:secret:app-AbCdEf",
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:a/b_c+d=e.f@g-h-AbCdEf",
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rds!cluster-0a1b2c3d-AbCdEf",
    ],
)
def test_takes_the_arn_of_a_secret_in_every_partition(secret_id: str) -> None:
    assert event.RotationEvent.parse({**EVENT, "SecretId": secret_id}).secret_id == secret_id


@pytest.mark.parametrize("step", ["createSecret", "preflight"])
@pytest.mark.parametrize("secret_id", ["prod/app", "prod/app-AbCdEf", "a/b_c+d=e.f@g-h", "arn", "rds!cluster-0a1b2c3d"])
def test_takes_the_name_of_a_secret(secret_id: str, step: str) -> None:
    """Emulators send it; what is done afterwards is done by the ARN that DescribeSecret gives."""
    assert event.RotationEvent.parse({**EVENT, "Step": step, "SecretId": secret_id}).secret_id == secret_id


@pytest.mark.parametrize(
    "secret_id",
    [
        "prod/app name",
        "prod:app",
        "prod/äpp",
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:",
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret",
        "arn:aws:secretsmanager:eu-central-1::secret:app-AbCdEf",
        "arn:aws:secretsmanager::123456789012:secret:app-AbCdEf",
        "arn:aws:secretsmanager:eu-central-1:12345678901:secret:app-AbCdEf",
        "arn:aws:secretsmanager:eu-central-1:1234567890123:secret:app-AbCdEf",
        "arn:aws:secretsmanager:eu-central-1:١٢٣٤٥٦٧٨٩٠١٢:secret:app-AbCdEf",
        "arn:aws:secretsmanager:EU-CENTRAL-1:123456789012:secret:app-AbCdEf",
        "arn:aws:ssm:eu-central-1:123456789012:parameter/app",
        "arn:aws:lambda:eu-central-1:123456789012:function:app",
        "arn:gcp:secretsmanager:eu-central-1:123456789012:secret:app-AbCdEf",
        f"{ARN}:json-key:AWSCURRENT:",
        f"{ARN}\n",
        f" {ARN}",
        f"{ARN}\0",
        f"{ARN},{ARN}",
        f"{ARN} or so",
        f"{ARN}ü",
        f"{ARN}\ud800",
        ARN.upper(),
    ],
    ids=ascii,
)
def test_refuses_a_secret_id_of_another_shape(secret_id: str) -> None:
    error = refusal({**WITH_TOKEN, "SecretId": secret_id})
    assert error.what.startswith("SecretId is ")
    assert "ARN" in error.hint


@pytest.mark.parametrize("length", [32, 36, 64])
def test_takes_a_client_request_token_as_long_as_a_version_id(length: int) -> None:
    assert event.RotationEvent.parse({**EVENT, "ClientRequestToken": "a" * length}).client_request_token == "a" * length


@pytest.mark.parametrize("length", [1, 31, 65, 1000])
def test_refuses_a_client_request_token_of_another_length(length: int) -> None:
    error = refusal({**WITH_TOKEN, "ClientRequestToken": "a" * length})
    assert error.what.startswith(f"ClientRequestToken has {length} characters")


@pytest.mark.parametrize("character", ["\0", "\n", "\x1b", " ", "\x7f", "\u2028", "ü", "\ud800"], ids=ascii)
def test_refuses_a_client_request_token_that_no_log_line_could_hold(character: str) -> None:
    error = refusal({**WITH_TOKEN, "ClientRequestToken": character + VERSION})
    assert error.what.startswith("ClientRequestToken ")


def test_passes_a_rotation_token_on() -> None:
    assert event.RotationEvent.parse(WITH_TOKEN).rotation_token == ROTATION_TOKEN


@pytest.mark.parametrize("asked", [EVENT, {**EVENT, "RotationToken": None}], ids=["absent", "null"])
def test_does_without_a_rotation_token(asked: dict[str, object]) -> None:
    assert event.RotationEvent.parse(asked).rotation_token is None


@pytest.mark.parametrize(
    "token",
    [5, True, [ROTATION_TOKEN], {"a": ROTATION_TOKEN}, ROTATION_TOKEN.encode()],
    ids=lambda it: type(it).__name__,
)
def test_refuses_a_rotation_token_of_another_type_and_does_not_quote_it(token: object) -> None:
    assert refusal({**EVENT, "RotationToken": token}).what.startswith("RotationToken is ")


@pytest.mark.parametrize("token", ["a" * 36, "a" * 256, "A-z-0-9" * 6], ids=len)
def test_takes_a_rotation_token_of_aws_own_pattern(token: str) -> None:
    assert event.RotationEvent.parse({**EVENT, "RotationToken": token}).rotation_token == token


@pytest.mark.parametrize(
    "token", ["xyzzy", "a" * 35, "a" * 257, "a" * 40 + "\n", "ä" * 40, "a_" * 20, "a" * 40 + " "], ids=ascii
)
def test_refuses_a_rotation_token_of_another_pattern_and_does_not_quote_it(token: str) -> None:
    """Passed on, it would end in a ParamValidationError of the client's, which says that there was no answer."""
    error = refusal({**EVENT, "RotationToken": token})
    assert error.what == "RotationToken is not one: 36 to 256 letters, digits and hyphens."
    assert token not in leaks.everything_in(error)


def test_never_shows_the_rotation_token() -> None:
    asked = event.RotationEvent.parse(WITH_TOKEN)
    for shown in (repr(asked), str(asked), f"{asked}", f"{[asked]}"):
        assert ROTATION_TOKEN not in shown
        assert "rotation_token" not in shown
        assert VERSION in shown


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@hypothesis.given(st.dictionaries(st.sampled_from([*WITH_TOKEN, "Other"]), JSON_VALUES | st.just("setSecret")))
def test_any_event_is_read_or_refused(changes: dict[str, Any]) -> None:
    asked = {**WITH_TOKEN, **changes}
    try:
        event.RotationEvent.parse(asked)
    except errors.InvalidEventError as error:
        assert any(error.what.startswith(key) for key in WITH_TOKEN)  # noqa: PT017
        if "RotationToken" not in changes:
            assert ROTATION_TOKEN not in leaks.everything_in(error)  # noqa: PT017


@hypothesis.given(JSON_VALUES)
def test_any_json_is_read_or_refused(asked: object) -> None:
    assert refusal(asked).code == "invalid-event"
