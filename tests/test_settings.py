"""The environment is read as docs/configuration.md says, and a bad value is refused by the variable's name."""

from __future__ import annotations

import string
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from rotation_lambda import errors, settings
from rotation_lambda.credential import SslMode
from tests.worlds import leaks

BOOLEANS = {
    "EXCLUDE_NUMBERS": "exclude_numbers",
    "EXCLUDE_PUNCTUATION": "exclude_punctuation",
    "EXCLUDE_UPPERCASE": "exclude_uppercase",
    "EXCLUDE_LOWERCASE": "exclude_lowercase",
    "REQUIRE_EACH_INCLUDED_TYPE": "require_each_included_type",
}
VARIABLES = ["PASSWORD_LENGTH", "EXCLUDE_CHARACTERS", *BOOLEANS, "ROTATION_STRATEGY", "PGSSLMODE", "PGSSLROOTCERT"]
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nxyzzy\n-----END CERTIFICATE-----\n"
PRINTABLE = string.digits + string.ascii_letters + string.punctuation


def read(**environment: str) -> settings.Settings:
    return settings.Settings.from_environment(environment)


def refusal(**environment: str) -> errors.ConfigurationError:
    with pytest.raises(errors.ConfigurationError) as caught:
        read(**environment)
    error = caught.value
    assert error.what.isprintable()
    assert error.what.endswith(".")
    assert len(error.what) < 400
    assert error.hint
    return error


def alphabet(policy: settings.PasswordPolicy) -> dict[str, set[str]]:
    """Return what is left of each type of character that the policy includes."""
    types = {
        string.digits: policy.exclude_numbers,
        string.punctuation: policy.exclude_punctuation,
        string.ascii_uppercase: policy.exclude_uppercase,
        string.ascii_lowercase: policy.exclude_lowercase,
    }
    return {type_: set(type_) - set(policy.exclude_characters) for type_, excluded in types.items() if not excluded}


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read() == settings.Settings(
        password_policy=settings.PasswordPolicy(),
        strategy=settings.Strategy.AUTO,
        sslmode=SslMode.VERIFY_FULL,
        sslrootcert=settings.SHIPPED_BUNDLE,
        superuser_secret_arns=None,
    )


def test_a_password_has_32_characters_of_each_type_by_default() -> None:
    policy = settings.PasswordPolicy()
    assert policy.length == 32
    assert policy.require_each_included_type
    assert len(alphabet(policy)) == 4


def test_the_default_alphabet_is_safe_in_a_url_a_dsn_and_a_shell() -> None:
    assert set().union(*alphabet(read().password_policy).values()) == set(string.ascii_letters + string.digits + "-._~")


def test_the_shipped_bundle_holds_certificates() -> None:
    assert Path(settings.SHIPPED_BUNDLE).read_text().count("-----BEGIN CERTIFICATE-----") > 50


@pytest.mark.parametrize("name", sorted({*VARIABLES} - {"EXCLUDE_CHARACTERS"}))
def test_an_empty_variable_counts_as_absent(name: str) -> None:
    assert read(**{name: ""}) == read()


def test_an_empty_exclude_characters_excludes_nothing() -> None:
    policy = read(EXCLUDE_CHARACTERS="").password_policy
    assert set().union(*alphabet(policy).values()) == set(PRINTABLE)


def test_excludes_the_characters_that_it_is_given() -> None:
    assert read(EXCLUDE_CHARACTERS=":/@\"'\\").password_policy.exclude_characters == ":/@\"'\\"


def test_variables_that_are_not_its_own_have_no_effect() -> None:
    hostile = {
        "PGHOSTADDR": "192.0.2.1",
        "PGOPTIONS": "-c x=y",
        "PGSERVICE": "x",
        "PGPASSFILE": "/x",
        "PGREQUIREAUTH": "none",
        "PGPASSWORD": "x",
        "password_length": "8",
    }
    assert read(**hostile) == read()


@pytest.mark.parametrize(("value", "length"), [("8", 8), ("32", 32), ("0064", 64), ("4096", 4096)])
def test_takes_a_length(value: str, length: int) -> None:
    assert read(PASSWORD_LENGTH=value).password_policy.length == length


@pytest.mark.parametrize("value", ["0", "3", "7", "4097", "999999999"])
def test_refuses_a_length_out_of_bounds(value: str) -> None:
    error = refusal(PASSWORD_LENGTH=value)
    assert error.what == f"PASSWORD_LENGTH is {value}; it must be from 8 to 4096."


@pytest.mark.parametrize(
    "value",
    [
        "abc",
        "²",
        "٣٢",
        "-32",
        "+32",
        "32.0",
        "1e2",
        " 32",
        "32 ",
        "32\n",
        "3_2",
        "0x20",
        "true",
        "None",
        "\0",
        "\udcff",
        "9" * 10,
        "9" * 5000,
    ],
    ids=lambda value: ascii(value[:10]),
)
def test_refuses_a_length_that_is_not_a_whole_number(value: str) -> None:
    assert refusal(PASSWORD_LENGTH=value).what.startswith("PASSWORD_LENGTH is ")


@pytest.mark.parametrize("length", [-1, 7, 4097])
def test_a_policy_made_by_hand_is_checked_too(length: int) -> None:
    with pytest.raises(errors.ConfigurationError, match="PASSWORD_LENGTH"):
        settings.PasswordPolicy(length=length)


@pytest.mark.parametrize("value", ["true", "TRUE", "True", "1", "yes", "y", "Y"])
@pytest.mark.parametrize(("name", "attribute"), BOOLEANS.items())
def test_takes_true_in_the_words_of_the_aws_sample(name: str, attribute: str, value: str) -> None:
    assert getattr(read(**{name: value}).password_policy, attribute) is True


@pytest.mark.parametrize("value", ["false", "FALSE", "False", "0", "no", "n", "N"])
@pytest.mark.parametrize(("name", "attribute"), BOOLEANS.items())
def test_takes_false_in_as_many_words(name: str, attribute: str, value: str) -> None:
    assert getattr(read(**{name: value}).password_policy, attribute) is False


@pytest.mark.parametrize("value", ["maybe", "2", "on", " true", "true ", "t", "null", "ture", "1\n"], ids=ascii)
@pytest.mark.parametrize("name", BOOLEANS)
def test_refuses_what_is_neither_true_nor_false(name: str, value: str) -> None:
    assert refusal(**{name: value}).what == f"{name} is {value!a}, not true or false."


@pytest.mark.parametrize("strategy", settings.Strategy)
def test_takes_each_strategy(strategy: settings.Strategy) -> None:
    assert read(ROTATION_STRATEGY=str(strategy)).strategy is strategy


@pytest.mark.parametrize("value", ["Auto", "single_user", "single-user ", "multi", "*"])
def test_refuses_an_unknown_strategy(value: str) -> None:
    error = refusal(ROTATION_STRATEGY=value)
    assert error.what.startswith("ROTATION_STRATEGY is ")
    assert "auto, single-user" in error.what


@pytest.mark.parametrize("mode", SslMode)
def test_takes_each_sslmode(mode: SslMode) -> None:
    assert read(PGSSLMODE=str(mode)).sslmode is mode


@pytest.mark.parametrize("value", ["prefer", "allow", "VERIFY-FULL", "verify_full", "true", " require"])
def test_refuses_an_sslmode_that_downgrades_or_does_not_exist(value: str) -> None:
    error = refusal(PGSSLMODE=value)
    assert error.what.startswith("PGSSLMODE is ")
    assert "disable, require, verify-ca, verify-full" in error.what


@pytest.mark.parametrize("name", sorted({*VARIABLES} - {"EXCLUDE_CHARACTERS"}))
def test_cuts_what_it_quotes(name: str) -> None:
    assert refusal(**{name: "x" * 3000}).what.startswith(name)


def test_cuts_a_bundle_that_was_pasted_into_the_variable() -> None:
    assert refusal(PGSSLROOTCERT=CERTIFICATE * 50).what.startswith("PGSSLROOTCERT is ")


def test_refuses_to_exclude_every_type() -> None:
    error = refusal(**dict.fromkeys([name for name in BOOLEANS if name.startswith("EXCLUDE_")], "true"))
    assert "EXCLUDE_" in error.what
    assert "fewer than 10 characters" in error.what


@pytest.mark.parametrize("required", ["true", "false"])
def test_refuses_to_exclude_every_character(required: str) -> None:
    error = refusal(EXCLUDE_CHARACTERS=PRINTABLE, REQUIRE_EACH_INCLUDED_TYPE=required)
    assert "EXCLUDE_CHARACTERS" in error.what


@pytest.mark.parametrize("required", ["true", "false"])
def test_refuses_to_exclude_what_the_types_leave(required: str) -> None:
    error = refusal(
        EXCLUDE_CHARACTERS=string.digits,
        EXCLUDE_PUNCTUATION="true",
        EXCLUDE_UPPERCASE="true",
        EXCLUDE_LOWERCASE="true",
        REQUIRE_EACH_INCLUDED_TYPE=required,
    )
    assert "EXCLUDE_CHARACTERS" in error.what


TYPES = {
    "EXCLUDE_NUMBERS": string.digits,
    "EXCLUDE_PUNCTUATION": string.punctuation,
    "EXCLUDE_UPPERCASE": string.ascii_uppercase,
    "EXCLUDE_LOWERCASE": string.ascii_lowercase,
}


@pytest.mark.parametrize(("name", "characters"), TYPES.items())
def test_refuses_to_require_a_type_of_which_nothing_is_left(name: str, characters: str) -> None:
    error = refusal(EXCLUDE_CHARACTERS=characters)
    assert "EXCLUDE_CHARACTERS" in error.what
    assert "REQUIRE_EACH_INCLUDED_TYPE" in error.what
    assert f"{name}=true" in error.what


@pytest.mark.parametrize(("name", "characters"), TYPES.items())
def test_the_remedy_it_names_is_one(name: str, characters: str) -> None:
    assert read(EXCLUDE_CHARACTERS=characters, **{name: "true"}).password_policy.exclude_characters == characters
    assert read(EXCLUDE_CHARACTERS=characters, REQUIRE_EACH_INCLUDED_TYPE="false").password_policy


@hypothesis.given(
    st.builds(dict, EXCLUDE_CHARACTERS=st.text(PRINTABLE) | st.sampled_from([*TYPES.values(), PRINTABLE]))
    | st.just({}),
    st.dictionaries(st.sampled_from([*BOOLEANS]), st.sampled_from(["true", "false"])),
)
def test_a_policy_that_is_taken_can_be_satisfied(characters: dict[str, str], switches: dict[str, str]) -> None:
    try:
        policy = read(**characters, **switches).password_policy
    except errors.ConfigurationError as error:
        assert "EXCLUDE_" in error.what  # noqa: PT017
        return
    left = alphabet(policy)
    assert any(left.values())
    assert all(left.values()) or not policy.require_each_included_type
    assert len(left) <= policy.length


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    path = tmp_path / "own-ca.pem"
    path.write_text(f"# my own\n{CERTIFICATE}")
    return path


def test_takes_a_bundle_of_ones_own(certificates: Path) -> None:
    assert read(PGSSLROOTCERT=str(certificates)).sslrootcert == str(certificates)


def test_takes_the_platforms_certificates() -> None:
    assert read(PGSSLROOTCERT="system").sslrootcert == "system"


def test_takes_a_bundle_with_comments_that_are_not_utf8(certificates: Path) -> None:
    certificates.write_bytes(b"# \xff\xfe caf\xe9\n" + CERTIFICATE.encode())
    assert read(PGSSLROOTCERT=str(certificates)).sslrootcert == str(certificates)


def test_refuses_a_bundle_that_is_missing(tmp_path: Path) -> None:
    error = refusal(PGSSLROOTCERT=str(tmp_path / "none.pem"))
    assert error.what.startswith("PGSSLROOTCERT is ")
    assert "none.pem" in error.what
    assert "No such file or directory" in error.what


def test_refuses_a_bundle_that_is_a_directory(tmp_path: Path) -> None:
    error = refusal(PGSSLROOTCERT=str(tmp_path))
    assert error.what.startswith("PGSSLROOTCERT is ")
    assert "directory" in error.what


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b", "a\0b\n"], ids=ascii)
def test_refuses_a_bundle_whose_path_is_none(path: str) -> None:
    error = refusal(PGSSLROOTCERT=path)
    assert error.what.startswith("PGSSLROOTCERT is ")
    assert "not a path" in error.what


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello xyzzy",
        b"\x30\x82\x05\x60 xyzzy",
        b"-----BEGIN PRIVATE KEY-----\nxyzzy\n-----END PRIVATE KEY-----\n",
        b"BEGIN CERTIFICATE xyzzy",
    ],
    ids=["empty", "text", "DER", "a key", "no dashes"],
)
def test_refuses_a_bundle_without_a_certificate_and_quotes_none_of_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bundle.pem"
    path.write_bytes(content)
    error = refusal(PGSSLROOTCERT=str(path))
    assert error.what.startswith("PGSSLROOTCERT is ")
    assert "no certificate" in error.what
    assert "xyzzy" not in leaks.everything_in(error)


@hypothesis.given(st.dictionaries(st.sampled_from(sorted({*VARIABLES} - {"PGSSLROOTCERT"})), st.text()))
def test_any_environment_is_read_or_refused_by_name(environment: dict[str, str]) -> None:
    try:
        read(**environment)
    except errors.ConfigurationError as error:
        assert any(name in error.what for name in environment)  # noqa: PT017


class TestSuperuserSecretArns:
    ONE = "arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/master-d4E5f6"
    TWO = "arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:rds!cluster-8b1f-AbCdEf"

    @pytest.mark.parametrize("value", ["{0},{1}", "{0} {1}", " {1} ,\n{0},", "none,{0},{1},{0}"])
    def test_are_separated_by_spaces_or_commas(self, value: str) -> None:
        arns = read(SUPERUSER_SECRET_ARNS=value.format(self.ONE, self.TWO)).superuser_secret_arns
        assert arns == frozenset({self.ONE, self.TWO})

    @pytest.mark.parametrize("value", ["none", "none,none", " none "])
    def test_can_be_none(self, value: str) -> None:
        assert read(SUPERUSER_SECRET_ARNS=value).superuser_secret_arns == frozenset()

    @pytest.mark.parametrize("value", ["", " ", ","])
    def test_are_not_laid_down_where_there_are_no_words(self, value: str) -> None:
        assert read(SUPERUSER_SECRET_ARNS=value).superuser_secret_arns is None

    @pytest.mark.parametrize(
        "value", ["prod/master", ONE[:-7], f"{ONE};{TWO}", f"{ONE} *", ONE.replace("secretsmanager", "rds")]
    )
    def test_that_are_not_complete_are_refused_by_name(self, value: str) -> None:
        assert refusal(SUPERUSER_SECRET_ARNS=value).what.startswith("SUPERUSER_SECRET_ARNS has ")
