"""A login is renewed wherever an application reads it from a secret, and nothing else changes."""

from __future__ import annotations

import json
import re
import string
from base64 import b64encode, encodebytes, urlsafe_b64encode
from time import process_time
from typing import Any
from urllib.parse import quote

import hypothesis
import pytest
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn

from rotation_lambda.copies import Copies, Kind, Login, renew, show
from rotation_lambda.secret_text import strings
from tests.worlds import shapes

PASSWORD = "S3cr3t-of~the.past_0123456789abc"
NEW: Login = ("app", "N3w'\"\\ :;@/?#%&=+{}~ü\U0001f600")
OTHER: Login = ("app_clone", NEW[1])
WORDS = ["production", "postgres", "password", "database", "app", "shop"]
ANY = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=40)
PRINTABLE = st.text(string.digits + string.ascii_letters + string.punctuation + " ", min_size=1, max_size=40)
each_shape = pytest.mark.parametrize("name", shapes.SHAPES)


def change(document: dict[str, Any], new: Login = NEW, *allowed: str, password: str = PASSWORD) -> Copies:
    """Renew the login of a secret with these keys, whose user is app."""
    return renew(json.dumps({"host": "h", "username": "app", "password": password, **document}), new, allowed)


def only(
    document: dict[str, Any], new: Login = NEW, *, password: str = PASSWORD
) -> tuple[dict[str, Any], dict[Kind, list[str]]]:
    """Return what becomes of these keys, and what was found."""
    copies = change(document, new, password=password)
    return {key: value for key, value in json.loads(copies.text).items() if key in document}, copies.found


def is_left(document: dict[str, Any], *kinds: Kind, password: str = PASSWORD, new: Login = OTHER) -> None:
    """See that these keys stay as they are, and are told as these kinds."""
    after, found = only(document, new, password=password)
    assert after == document
    assert set(found) == set(kinds)


# In each of its forms.


@each_shape
@hypothesis.settings(max_examples=30)
@hypothesis.given(data=st.data())
def test_any_login_is_renewed_in_every_form_and_the_rest_stays(name: str, data: st.DataObject) -> None:
    passwords = ANY | PRINTABLE | st.sampled_from([PASSWORD, *WORDS])
    user = data.draw(ANY | st.sampled_from(["app", "inventory_service"]))
    old = user, data.draw(passwords | st.sampled_from([user, "shop", "db.example.com"]))
    new = data.draw(ANY | st.just(user)), data.draw(passwords)
    hypothesis.assume(new[1] != old[1])
    shape = shapes.SHAPES[name]
    value = shape.make(old[0], old[1])
    text = json.dumps({"password": old[1], "copy": value, "username": old[0]}, ensure_ascii=False)
    copies = renew(text, new)
    after = json.loads(copies.text)
    assert (after["username"], after["password"]) == (new[0], new[1])
    login = {"user": new[0], "password": new[1]}
    assert {key: str(its) for key, its in shape.read(after["copy"]).items()} == {
        key: str(its) for key, its in {**shape.read(value), **login}.items()
    }
    assert Kind.RENEWED in copies.found
    if len(old[1]) > 3 and name != "keys":  # in which there is another one that has the user's name in it
        assert Kind.UNKNOWN not in copies.found
    assert [one.path for one in strings(copies.text)] == [one.path for one in strings(text)]
    back = renew(copies.text, old)
    assert shape.read(json.loads(back.text)["copy"]) == shape.read(value)


def test_a_user_by_the_name_of_the_wildcard_is_written_as_a_name() -> None:
    value = shapes.SHAPES["pgpass"].make("app", PASSWORD)
    text = json.dumps({"username": "app", "password": PASSWORD, "copy": value})
    there = renew(text, ("*", "*")).text
    assert r":\\*:\\*" in there
    assert renew(there, ("app", PASSWORD)).text == text


@hypothesis.settings(max_examples=60)
@hypothesis.given(data=st.data())
def test_of_several_logins_in_a_secret_its_own_are_renewed_and_no_others(data: st.DataObject) -> None:
    passwords = ANY | PRINTABLE | st.sampled_from([PASSWORD, *WORDS])
    user = data.draw(ANY | st.sampled_from(WORDS))
    password = data.draw(passwords | st.just(user))
    new = data.draw(ANY | st.just(user)), data.draw(passwords)
    other = data.draw(ANY | st.sampled_from([*WORDS, f"{user}x"]))
    another = data.draw(passwords | st.sampled_from([password, f"{password}-x", f"x{password}"]))
    hypothesis.assume(other != user and new[1] != password)
    names = data.draw(st.lists(st.sampled_from([*shapes.SHAPES]), min_size=1, max_size=3, unique=True))
    own, others = shapes.copies(user, password, names), {"others": shapes.copies(other, another, names)}
    after = json.loads(renew(json.dumps({**own, "username": user, **others, "password": password}), new).text)
    assert after["others"] == others["others"]
    assert all(str((copy["user"], copy["password"])) == str(new) for copy in shapes.read(after).values())


SIGNS = st.text(st.sampled_from("abcXYZ019-._~" + " '\\\";=:@/?#%&+{},$"), min_size=1, max_size=16)


@st.composite
def texts_for_libpq(draw: st.DrawFn, user: str, password: str) -> str:
    """Return a URL or a keyword=value that has these in it, escaped more than they need, and perhaps others as well."""
    more = [
        ("dbname", SIGNS),
        ("options", SIGNS),
        ("user", SIGNS),
        ("password", SIGNS),
        ("sslmode", st.just("require")),
    ]
    extra = [(name, draw(values)) for name, values in draw(st.lists(st.sampled_from(more), max_size=2))]
    words = draw(st.permutations([("user", user), ("password", password), *extra]))
    how = draw(st.randoms())
    if draw(st.booleans()):
        return " ".join(
            f"{key} = '" + re.sub(r"['\\]", r"\\\g<0>", text) + "'"
            if " " in text or text[0] == "'" or how.random() < 0.5
            else f"{key}=" + "".join("\\" * (one == "\\" or how.random() < 0.2) + one for one in text)
            for key, text in words
        )
    words = [
        (key, "".join(shapes.percent(one) if how.random() < 0.7 or one in "%&=#@?/:" else one for one in text))
        for key, text in words
    ]
    login = how.choice(["", f"{words[0][1]}@", f"{words[0][1]}:{words[1][1]}@"]) if words[0][0] == "user" else ""
    return f"postgres://{login}[::1]:5432,h/d?" + "&".join(f"{key}={text}" for key, text in words)


@hypothesis.settings(max_examples=150)
@hypothesis.given(data=st.data())
def test_what_libpq_reads_as_the_login_is_renewed_or_told_and_no_other_is_touched(data: st.DataObject) -> None:
    user, password, text_user, text_password = (data.draw(SIGNS | st.just(one)) for one in ("app", PASSWORD) * 2)
    text_user, text_password = (
        data.draw(st.sampled_from(pair)) for pair in ((user, text_user), (password, text_password))
    )
    new = data.draw(st.just(user) | SIGNS), data.draw(SIGNS)
    hypothesis.assume(new[1] != password)
    text = data.draw(texts_for_libpq(text_user, text_password))
    copies = renew(json.dumps({"username": user, "password": password, "x": text}), new)
    before, after = parse_dsn(text), parse_dsn(json.loads(copies.text)["x"])
    if (before["user"], before["password"]) == (user, password):
        renewed = {**before, "user": new[0], "password": new[1]}
        assert after == renewed or (after == before and {Kind.UNKNOWN, Kind.WORD} & set(copies.found))
    else:
        assert after == before


@each_shape
def test_where_nothing_has_to_be_quoted_the_texts_differ_in_the_login_alone(name: str) -> None:
    value = shapes.SHAPES[name].make("app", PASSWORD)
    text = json.dumps({"username": "app", "password": PASSWORD, "copy": value}, indent=3)
    new = ("app_clone", "x" * 32)
    after = renew(text, new).text
    assert after.replace(new[1], PASSWORD).replace(new[0], "app") == text.replace("app_clone", "app")
    assert PASSWORD not in after


def test_several_lines_of_a_password_file_each_count_for_themselves() -> None:
    lines = [
        f"h:5432:*:{user}:{password}" for user, password in (("app", PASSWORD), ("ro", PASSWORD), ("app", "other"))
    ]
    any_user = f"h:*:*:*:{PASSWORD}"
    after, found = only({"pgpass": "\r\n".join(["# mine", "", *lines, any_user])}, OTHER)
    new = shapes.escape(NEW[1])
    lines[0] = f"h:5432:*:app_clone:{new}"
    assert after["pgpass"] == "\r\n".join(["# mine", "", *lines, f"h:*:*:*:{new}"])
    assert found == {Kind.RENEWED: ["pgpass"], Kind.OTHER_USER: ["pgpass"]}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("postgres://:{old}@h/d", "postgres://:{new}@h/d"),
        ("postgres://h/d?password={old}", "postgres://h/d?password={new}"),
        ("postgres://app@h/d?password={old}", "postgres://app_clone@h/d?password={new}"),
        ("postgres://app:{old}@h/d?password={old}", "postgres://app_clone:{new}@h/d?password={new}"),
        ("\n postgres://app:{old}@h\n", "\n postgres://app_clone:{new}@h\n"),
        ("POSTGRES://app:{old}@", "POSTGRES://app_clone:{new}@"),
        ("jdbc:postgresql:d?password={old}&user=app", "jdbc:postgresql:d?password={new}&user=app_clone"),
        (
            "jdbc:aws-wrapper:postgresql://h/?user=app&password={old}",
            "jdbc:aws-wrapper:postgresql://h/?user=app_clone&password={new}",
        ),
        ("password={old}", "password={new}"),
        ("PASSWORD = {old}  User=app", "PASSWORD = {new}  User=app_clone"),
        ("Password={old};", "Password={new};"),
        ("  user id = app ; pwd = {old} ; ", "  user id = app_clone ; pwd = {new} ; "),
        ("Host=a,b;;Username=app;Password='{old}'", "Host=a,b;;Username=app_clone;Password='{new}'"),
        ("DSN=d;UID=app;PWD={{{old}}}", "DSN=d;UID=app_clone;PWD={{{new}}}"),
        ("h:5432:d:app:{old}", "h:5432:d:app_clone:{new}"),
    ],
)
def test_renews_a_form_in_each_of_its_varieties(before: str, after: str) -> None:
    new = ("app_clone", "x" * 32)
    found, kinds = only({"copy": before.format(old=PASSWORD)}, new)
    assert found == {"copy": after.format(new=new[1])}
    assert set(kinds) == {Kind.RENEWED}


@pytest.mark.parametrize(
    ("password", "before", "after"),
    [
        ("p@ss/w?rd#1%41b", "postgres://app:p@ss/w?rd#1%41b@h/d", None),
        ("p@ss w%rd", "postgres://app:p@ss w%rd@h/d", "postgres://app:new@h/d"),
        ("p/ss?w#rd", "postgres://app:p/ss?w#rd@h/d?x=y", "postgres://app:new@h/d?x=y"),
        ("p ss+w", "postgres://h/d?user=app&password=p+ss%2bw", "postgres://h/d?user=app&password=new"),
        ("p+ss", "postgres://h/d?user=app&password=p+ss", "postgres://h/d?user=app&password=new"),
        ("pässwörd", "postgres://app:p%C3%A4ssw%c3%b6rd@h", "postgres://app:new@h"),
        ("a;b", "user=app password=a;b", "user=app password=new"),
        ("a b", "user=app password=a\\ b", "user=app password=new"),
        ("a'b", "user=app password=a'b", "user=app password=new"),
        ('"a"', 'Uid=app;Pwd="""a"""', 'Uid=app;Pwd="new"'),
        ('a"b', 'Uid=app;Pwd=a"b', "Uid=app;Pwd=new"),
        ("{a}", "Uid=app;Pwd={a}", "Uid=app;Pwd=new"),
        ("a=b", "Uid=app;Pwd=a=b", "Uid=app;Pwd=new"),
        ("a\\:b", "h:1:d:app:a\\\\\\:b", "h:1:d:app:new"),
        ("a:b", "h:1:d:app:a:b", "h:1:d:app:new"),
    ],
)
def test_reads_what_others_have_written_without_much_care(password: str, before: str, after: str | None) -> None:
    found, kinds = only({"copy": before}, ("app", "new"), password=password)
    assert found == {"copy": after or before}
    assert set(kinds) == ({Kind.RENEWED} if after else {Kind.UNKNOWN})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("user=app password={old}", "user=app password='N3w\\'\"\\\\ :;@/?#%&=+{}~ü\U0001f600'"),
        ("Uid=app;Pwd={old}", 'Uid=app;Pwd="N3w\'""\\ :;@/?#%&=+{}~ü\U0001f600"'),
        ("FileDsn=d;Uid=app;Pwd={old}", "FileDsn=d;Uid=app;Pwd={N3w'\"\\ :;@/?#%&=+{}}~ü\U0001f600}"),
        ("Dsn=d;Uid=app;Pwd={old}", "Dsn=d;Uid=app;Pwd={N3w'\"\\ :;@/?#%&=+{}}~ü\U0001f600}"),
        ("h:*:*:app:{old}", "h:*:*:app:N3w'\"\\\\ \\:;@/?#%&=+{}~ü\U0001f600"),
        ("x://app:{old}@h", "x://app:N3w%27%22%5C%20%3A%3B%40%2F%3F%23%25%26%3D%2B%7B%7D~%C3%BC%F0%9F%98%80@h"),
    ],
)
def test_quotes_as_the_form_asks(before: str, after: str) -> None:
    assert only({"copy": before.format(old=PASSWORD)})[0] == {"copy": after}


def test_a_key_with_the_very_password_is_renewed_with_the_user_beside_it() -> None:
    document = {"PGUSER": "app", "PGPASSWORD": PASSWORD, "token": PASSWORD, "x": {"y": [PASSWORD]}, "db_login": "app"}
    after, found = only(document, OTHER)
    new = OTHER[1]
    assert after == {"PGUSER": "app_clone", "PGPASSWORD": new, "token": new, "x": {"y": [new]}, "db_login": "app_clone"}
    assert found == {
        Kind.RENEWED: ["PGPASSWORD", "token", "PGUSER", "db_login", "x.y.0"],
        Kind.NO_USER: ["x.y.0"],
    }


@pytest.mark.parametrize(
    "key", ["PGPASSWORD", "db_pass", "dbPwd", "secret", "client-secret", "password2", "passphrase"]
)
@pytest.mark.parametrize("password", ["shop", "password", "fifteen letters"])
def test_a_key_with_a_short_password_is_renewed_where_its_name_says_so(key: str, password: str) -> None:
    assert only({key: password}, password=password)[0] == {key: NEW[1]}


# What is left alone.


@pytest.mark.parametrize("password", WORDS)
def test_a_word_is_not_a_password_wherever_it_stands(password: str) -> None:
    """First passwords are words; the login itself and the URL's are renewed, the rest of the secret is not touched."""
    url = f"postgres://{password}:%s@{password}.example/{password}?application_name={password}&x=1"
    document = {
        "engine": "postgres",
        "dbname": password,
        "note": f"The {password} database of production, password by {password}",
        "database": password,
        "environment": password,
        "secretType": password,
        "owner": password,
        "hosts": {"host": password, "database": password, "schema": password},
        "tags": [password, {"name": password}],
        "pass": "through",
        "usernames": [password, "another"],
        "url": url % password,
    }
    text = json.dumps({"host": password, "username": password, "password": password, **document}, indent=1)
    copies = renew(text, (password, "new"))
    assert set(copies.found) == {Kind.RENEWED, Kind.WORD}
    after = copies.text
    assert after == text.replace(f'"password": "{password}"', '"password": "new"').replace(url % password, url % "new")


@pytest.mark.parametrize("password", ["database", PASSWORD])
@pytest.mark.parametrize(
    "document",
    [
        {"ro": {"username": "ro", "password": "its own"}},
        {"ro": {"username": "ro", "password": "{old}-ro", "url": "postgres://ro:{old}-ro@h/d?password={old}-ro"}},
        {"ro_user": "ro", "ro_password": "{old}-ro"},
        {"ro_url": "postgres://ro:its%20own@h/d", "ro_dsn": "user=ro password='{old}-ro'"},
        {"pgpass": "h:1:d:ro:{old}-ro\nh:1:d:rw:its own"},
    ],
)
def test_another_users_own_password_is_none_of_ours(document: dict[str, Any], password: str) -> None:
    """One that has ours in it is told, if ours is no word."""
    text = json.dumps(document)
    kinds = [Kind.OTHER_USER] if "{old}" in text and password == PASSWORD else []
    is_left(json.loads(text.replace("{old}", password)), *kinds, password=password)


@pytest.mark.parametrize("password", ["database", PASSWORD])
@pytest.mark.parametrize(
    "document",
    [
        {"ro": {"username": "ro", "password": "{old}"}},
        {"ro": {"dbUser": "ro", "PGPASSWORD": "{old}"}},
        {"ro_user": "ro", "ro_password": "{old}"},
        {"roUserName": "ro", "RO_PASS": "{old}"},
        {"ro": {"login": "ro", "secret": "{old}", "password": "{old}"}},
        {"ro_url": "postgres://ro:{old}@h/d"},
        {"ro": {"url": "postgres://ro@h/d", "password": "{old}"}},
        {"ro": {"url": "postgres://:{old}@h/d", "user": "ro"}},
        {"jdbc_url": "jdbc:postgresql://h/d?password={old}", "jdbc_user": "ro"},
        {"ro": {"dsn": "host=h password={old}", "PGUSER": "ro"}},
        {"ro": {"uid": "ro", "pwd": "{old}"}},
        {"ro": {"userId": "ro", "password": "{old}"}},
        {"ro_dsn": "user=ro password={old}"},
        {"ro_ado": "Uid=ro;Pwd={old}"},
        {"pgpass": "h:1:d:ro:{old}"},
        {"config": '{"user": "ro", "password": "{old}"}'},
    ],
)
def test_the_same_password_of_another_user_is_left_and_told(document: dict[str, Any], password: str) -> None:
    is_left(json.loads(json.dumps(document).replace("{old}", password)), Kind.OTHER_USER, password=password)


@pytest.mark.parametrize("password", ["database", PASSWORD])
@pytest.mark.parametrize(
    "document",
    [
        {"url": "postgres://app@h/d?user=ro&password={old}"},
        {"url": "postgres://app:{old}@h/d?password=another"},
        {"dsn": "user=ro user=app password={old}"},
        {"dsn": "user=app password=another password={old}"},
        {"toml": 'user = "app"\npassword = "{old}"'},
        {"commas": "user=app, password={old}"},
        {"odbc": 'Driver=d;Uid="app";Pwd="{old}"'},
        {"DB_USER": "'app'", "DB_PASSWORD": "'{old}'"},
        {"json": '{"user": "app", "password": "another", "password": "{old}"}'},
        {"url": "https://h/?user=app;password={old}"},
        {"url": "https://h/?user=app&amp;password={old}"},
        {"url": "postgres://a?b@h/?password={old}"},
    ],
)
def test_a_login_that_can_be_read_in_two_ways_is_left_and_told(document: dict[str, Any], password: str) -> None:
    """Which user or password counts, drivers decide: libpq takes the last, ODBC the first."""
    document = {key: text.replace("{old}", password) for key, text in document.items()}
    is_left(document, Kind.UNKNOWN if password == PASSWORD else Kind.WORD, password=password)


@pytest.mark.parametrize(
    ("text", "user", "password"),
    [
        ("host=h user={user}", "dsn", "PGPASSWORD"),
        ("postgres://{user}@h/d", "url", "pwd"),
        ("jdbc:postgresql:d?user={user}", "a", "pass"),
        ("Host=h;Username={user}", "ado", "pwd"),
        ("{user}", "user_id", "pwd"),
        ("{user}", "UID", "PWD"),
        ("host=h user={user}", "ro_dsn", "ro_pwd"),
    ],
)
def test_a_user_whose_password_stands_beside_it_changes_with_it(text: str, user: str, password: str) -> None:
    before = {"a": {user: text.format(user="app"), password: PASSWORD, "empty_user": "", "empty_password": ""}}
    after = {"a": {**before["a"], user: text.format(user="app_clone"), password: "new"}}
    assert only(before, ("app_clone", "new"))[0] == after


@pytest.mark.parametrize(
    "document",
    [
        {"url": "https://app@h"},
        {"dn": "uid=app,dc=x"},
        {"ro_dsn": "host=h user=app", "ro_password": "another"},
        {"url": f"https://h/?user=app&amp;sslpassword={PASSWORD}"},
        {"dsn": f"host=h user=app sslpassword={PASSWORD}"},
    ],
)
def test_a_user_in_a_text_is_left_whose_password_is_another(document: dict[str, str]) -> None:
    assert json.loads(change({"a": {**document, "pwd": PASSWORD}}, OTHER).text)["a"] == {**document, "pwd": OTHER[1]}


@pytest.mark.parametrize(
    "login",
    [
        ["app", PASSWORD],
        {"role": "app", "password": PASSWORD},
        {"app": PASSWORD},
        {"name": "PGPASSWORD", "value": PASSWORD},
        {"url": f"postgres://:{PASSWORD}@h"},
    ],
)
def test_a_password_is_told_whose_user_changes_and_is_not_found(login: object) -> None:
    assert Kind.NO_USER in only({"a": login}, OTHER)[1]
    assert set(only({"a": login}, NEW)[1]) == {Kind.RENEWED}


def test_a_user_is_left_whose_password_is_left() -> None:
    document = {"a": {"user": "app", "password": PASSWORD}}
    assert json.loads(change(document, OTHER, "a.password").text)["a"] == document["a"]


def test_names_may_pair_by_what_comes_after_the_word() -> None:
    is_left({"user_ro": "ro", "password_ro": PASSWORD}, Kind.OTHER_USER)
    document = {"user_rw": "app", "password_rw": PASSWORD, "user_ro": "ro", "password_ro": "another"}
    after = {**document, "user_rw": "app_clone", "password_rw": OTHER[1]}
    assert only(document, OTHER)[0] == after


@pytest.mark.parametrize("usernames", [["app", "app_clone"], '["app", "app_clone"]'])
def test_the_names_of_two_users_are_no_copy_of_one(usernames: object) -> None:
    is_left({"usernames": usernames})


def test_a_user_is_left_where_no_password_was_renewed_beside_it() -> None:
    is_left({"replica": {"username": "app", "host": "h"}}, Kind.OLD_USER)
    is_left({"admin": {"user": "app", "password": "another"}}, Kind.OLD_USER)
    is_left({"admin_user": "app", "admin_password": "another"}, Kind.OLD_USER)
    is_left({"application": "app", "env": [{"name": "PGUSER", "value": "app"}]}, Kind.OLD_USER)
    is_left({"owner": "app", "a": {"owner": "app", "dbname": "app", "password": "another"}, "masterarn": "app"})
    is_left({"replica": {"username": "app"}}, new=NEW)  # the user does not change


def test_a_users_name_that_is_the_password_too_is_a_name() -> None:
    document = {"DB_USER": PASSWORD, "DB_PASSWORD": PASSWORD, "url": f"postgres://{PASSWORD}:{PASSWORD}@h"}
    text = json.dumps({"username": PASSWORD, "password": PASSWORD, **document})
    after = json.loads(renew(text, ("other", "new")).text)
    assert after == {
        "username": "other",
        "password": "new",
        "DB_USER": "other",
        "DB_PASSWORD": "new",
        "url": "postgres://other:new@h",
    }


def test_an_old_password_in_a_form_of_its_own_is_another_login() -> None:
    is_left({"url": "postgres://app:older@h", "dsn": "user=app password=older", "PGPASSWORD": "older"})


# What cannot be renewed.

UNKNOWN: dict[str, str | dict[str, str]] = {
    "sentence": "the password is {old}, keep it",
    "basic": "app:{old}",
    "shell": "export PGPASSWORD='{old}'",
    "environment": "PGUSER=app\nPGPASSWORD={old}\n",
    "xml": '<login user="app" password="{old}"/>',
    "yaml": "url: postgres://app:{old}@h/d\nuser: app",
    "a url in quotes after another": "postgres://app:{old}@a/d,'postgres://app:{old}@b/d'",
    "urls of which one is none": "postgres://app:{old}@a/d,jdbc://@@?{old}",
    "a path in a url": "postgres://app:{old}@h/d/{old}",
    "a fragment of a url": "postgres://app:{old}@h/d#{old}",
    "a parameter by another name": "postgres://app:{old}@h/d?user=app&token={old}",
    "another parameter": "user=app password={old} sslpassword={old}",
    "a key's value of its own kind": "user=app password=x options={old}",
    "commas": "user=app, password={old}",
    "commas without blanks": "h:6379,password={old},ssl=True",
    "jaas": 'Login required username="app" password="{old}";',
    "an open quote": "user=app password='{old}",
    "json in json in json": json.dumps({"a": json.dumps({"password": "{old}"})}),
    "a line end": "{old}\n",
    "percent": "x=%41&p=" + "".join(f"%{ord(one):02x}" for one in PASSWORD),
    "beside the name": {"PGPASSWORD": "'{old}'"},
    "base64": b64encode(PASSWORD.encode()).decode(),
    "base64 of both": urlsafe_b64encode(f"app:{PASSWORD}???".encode()).decode().rstrip("="),
    "base64 with - and _": urlsafe_b64encode(f"c€oé:{PASSWORD}".encode()).decode(),
    "a header": "Basic " + b64encode(f"app:{PASSWORD}".encode()).decode(),
    "base64 in lines": encodebytes(f"DB_HOST=db.example.com\nDB_NAME=shop\nDB_PASSWORD={PASSWORD}\n".encode()).decode(),
    "base64 after a slash": "data/" + b64encode(PASSWORD.encode()).decode(),
    "percent of percent": "https://h/?next=" + quote("".join(f"%{ord(one):02x}" for one in PASSWORD)),
}


@pytest.mark.parametrize("text", UNKNOWN.values(), ids=UNKNOWN)
def test_tells_a_copy_that_it_does_not_know(text: str | dict[str, str]) -> None:
    document = json.loads(json.dumps({"a": [{"b": text}]}).replace("{old}", PASSWORD))
    copies = change(document, OTHER)
    [path, *others] = copies.found[Kind.UNKNOWN]
    assert (path.startswith("a.0.b"), others) == (True, [])
    if Kind.RENEWED not in copies.found:
        assert json.loads(copies.text)["a"] == document["a"]


@pytest.mark.parametrize(
    ("password", "text"),
    [
        ("it's-long-password", "PGPASSWORD='it'\\''s-long-password' psql"),
        ("it's-long-password", "PGPASSWORD='it'\"'\"'s-long-password' psql"),
        ("a&b<c-long-password", '<add password="a&amp;b&lt;c-long-password"/>'),
        ("a b%-long-password", "https://h/?next=x%3Fp%3Da%2Bb%2525-long-password"),
    ],
)
def test_tells_a_copy_in_the_writing_of_a_shell_or_a_document(password: str, text: str) -> None:
    is_left({"text": text}, Kind.UNKNOWN, password=password)


@pytest.mark.parametrize("password", ["changeme", "postgres", PASSWORD])
@pytest.mark.parametrize(
    "text",
    [
        "postgres://app:{old}@a/d,'postgres://app:{old}@b/d'",
        "postgres://app:{old}@a/d|postgres://app:{old}@b/d",
        "postgres://app:{old}@a/d,app:{old}@b/d",
        "postgres://app:{old}@a,app:{old}@b/d",
        "jdbc:postgresql://a/d?user=app&password={old}&x=a%3D{old}",
        "Host=h;Username=app;Password={old};Options=password={old}",
        "user=app password={old} options='-c x.password={old}'",
        "h:1:d:app:{old}\nh:1:d:'app':{old}",
        "# or {old}\nh:1:d:app:{old}",
    ],
)
def test_a_text_that_would_be_renewed_by_half_is_told_whatever_the_password(text: str, password: str) -> None:
    text = text.format(old=password)
    assert Kind.UNKNOWN in only({"text": text}, password=password)[1]


@pytest.mark.parametrize("password", ["app", "changeme", PASSWORD])
@pytest.mark.parametrize("between", [",", "\n", " ", ";", " , "])
def test_each_of_several_urls_is_renewed(between: str, password: str) -> None:
    new = ("app_clone", "new")
    text = between.join(["postgres://app:{old}@a:1,b/d", "jdbc:postgresql://b/d?user=app&password={old}"])
    text = f"\n{text}{between}postgres://ro:its@h"
    after = text.format(old=password).replace("//app:", "//app_clone:").replace("user=app", "user=app_clone")
    after = after.replace(f":{password}@a", ":new@a").replace(f"password={password}", "password=new")
    assert only({"urls": text.format(old=password)}, new, password=password) == (
        {"urls": after},
        {Kind.RENEWED: ["urls"]},
    )
    alone = {"urls": f"postgres://app@a/d{between}postgres://app@b/d", "pwd": PASSWORD}
    renewed = {"urls": f"postgres://app_clone@a/d{between}postgres://app_clone@b/d", "pwd": "new"}
    assert only(alone, new)[0] == renewed


OF_ONE_NAME = {
    "url": "postgres://app:OLD@app:5432,app.example/app?application_name=app",
    "url with a database alone": "postgres://app:OLD@/app",
    "jdbc": "jdbc:app:app?user=app&password=OLD",
    "dsn": "host=app user=app password=OLD dbname=app sslmode='app' application_name = app",
    "ado": "Server=app;User ID=app;Password=OLD;Database=app;Search Path=app",
    "odbc": "Driver={app};Uid=app;Pwd=OLD;Database=app",
    "pgpass": "# why\napp:1:app:app:OLD\napp:1:app:*:OLD",
}


@pytest.mark.parametrize("name", ["app", "production", "shop_production", "inventory_service"])
@pytest.mark.parametrize("text", OF_ONE_NAME.values(), ids=OF_ONE_NAME)
def test_a_password_that_is_a_name_too_is_renewed_where_it_is_the_password(text: str, name: str) -> None:
    """What the user, the host and the database are called explains itself."""
    text = re.sub(r"\bapp\b", name, text)
    copies = renew(json.dumps({"username": name, "password": name, "x": text.replace("OLD", name)}), (name, "new"))
    assert json.loads(copies.text)["x"] == text.replace("OLD", "new")
    assert copies.found == {Kind.RENEWED: ["x"]}


@pytest.mark.parametrize("key", ["username", "dbname", "host"])
@pytest.mark.parametrize("name", ["app", "shop_production", "inventory_service"])
def test_a_key_with_a_name_that_is_the_password_too_is_left_and_told(key: str, name: str) -> None:
    names = ["database", "role", "schema", "application_name", "cluster", "note"]
    document = {"host": "h", "username": "app", key: name, "password": name, **dict.fromkeys(names, name)}
    copies = renew(json.dumps({**document, "PGPASSWORD": name}), (document["username"], "new"))
    assert json.loads(copies.text) == {**document, "password": "new", "PGPASSWORD": "new"}
    assert copies.found == {Kind.RENEWED: ["PGPASSWORD"], Kind.WORD: names}


def test_a_quote_that_stays_open_belongs_to_the_password() -> None:
    password = f'"{PASSWORD}x'
    after, found = only({"dsn": f"Host=h;Username=app;Password={password}"}, ("app", "new"), password=password)
    assert (after, found) == ({"dsn": "Host=h;Username=app;Password=new"}, {Kind.RENEWED: ["dsn"]})


@pytest.mark.parametrize("length", [12, 15])
def test_takes_whatever_holds_a_long_password_for_a_copy(length: int) -> None:
    password = PASSWORD[:length]
    is_left({"key": password, "text": f"x{password}x"}, Kind.UNKNOWN, password=password)
    assert only({"key": PASSWORD[:16]}, password=PASSWORD[:16])[1] == {Kind.RENEWED: ["key"]}


@pytest.mark.parametrize("password", ["production", "eleven char"])
def test_tells_a_word_only_where_it_stands_for_itself(password: str) -> None:
    is_left({"key": password, "text": f"the {password}, here"}, Kind.WORD, password=password)
    is_left(
        {"text": f"x{password}s", "host": {"host": password, "engine": password}, password: "key"}, password=password
    )
    is_left({"base64": b64encode(f"app:{password}".encode()).decode()}, Kind.WORD, password=password)


def test_a_key_that_has_the_password_in_it_is_told_without_it() -> None:
    copies = change({"a": {f"app:{PASSWORD}": {"url": f"postgres://app:{PASSWORD}@h"}}})
    assert copies.found == {Kind.UNKNOWN: ["a.…"], Kind.RENEWED: ["a.….url"]}
    assert PASSWORD not in "".join(copies.notes(*Kind))
    is_left({"…": {"…": "a key of its own"}})


def test_shows_a_path_on_one_line() -> None:
    assert show(("a\nb\u2028", 0, "ü" * 100), PASSWORD) == f"a?b?.0.{'ü' * 80}"


@each_shape
def test_leaves_what_is_allowed_to_go_stale(name: str) -> None:
    document = {"copy": shapes.SHAPES[name].make("app", PASSWORD), "note": f"it is {PASSWORD}", PASSWORD: 1}
    found = change(document, OTHER).found
    copies = change(document, OTHER, *(path for paths in found.values() for path in paths))
    assert set(copies.found) == {Kind.ALLOWED}
    assert {*copies.found[Kind.ALLOWED]} == {path for paths in found.values() for path in paths}
    text = json.dumps({"host": "h", "username": "app", "password": PASSWORD, **document})
    assert renew(text, ("app_clone", "new"), tuple(copies.found[Kind.ALLOWED])).text == text.replace(
        f'"username": "app", "password": "{PASSWORD}"', '"username": "app_clone", "password": "new"'
    )


def test_tells_each_kind_in_a_sentence_with_every_path_once() -> None:
    copies = Copies("", {Kind.RENEWED: ["a", "b.0", "a"], Kind.WORD: ["c"]})
    assert copies.notes(Kind.RENEWED, Kind.ALLOWED) == ["`a`, `b.0`: renewed, as copies of the login."]
    assert copies.paths(Kind.UNKNOWN) == ""
    assert len(copies.notes(*Kind)) == 2


def test_finds_the_copies_of_another_login_of_the_same_secret() -> None:
    text = json.dumps({"username": "app", "password": PASSWORD, "url": "postgres://app:previous-one@h", "x": PASSWORD})
    copies = renew(text, ("app", "new"), (), ("app", "previous-one"))
    assert copies.found == {Kind.RENEWED: ["url"]}
    text = json.dumps({"username": "app", "password": PASSWORD, PASSWORD: {"pwd": "previous-one"}})
    assert renew(text, ("app", "new"), (), ("app", "previous-one")).found == {Kind.RENEWED: ["….pwd"]}


SIGNS_OF_SYNTAX = [
    *(
        " ",
        "a",
        "=",
        ";",
        "a=",
        "a=b;",
        "'",
        '"',
        "\\",
        "\\'",
        ":",
        "a:",
        "@",
        "://",
        "%",
        "}",
        "{",
        "\n",
        "?",
        "?&",
        "&",
        "&=",
        "/",
    ),
    *("a=b&", "host={;", 'host=";', "host='\";", "a={}};", "%41", "&amp;", "#", "AAAA ", ",a://", "a://b,"),
]
HOSTILE = 10_000  # characters: a secret has six times as many at most
BEFORE = ("", "a://", "a://h?", "a=", "a='", "host=", "jdbc:", "jdbc:postgres", "a://h,a://", "Driver=d;")


def is_quick(text: str, password: str) -> bool:
    """Tell whether it takes nothing like the seconds that a pattern takes which goes back and forth.

    It takes some 10 ms of a machine that is not busy, and 200 at most.
    """
    began = process_time()
    renew(f'{{"username": "app", "password": "{password}", "copy": {text}}}', ("app_clone", "new"))
    return process_time() - began < 1


@pytest.mark.costly
@pytest.mark.no_cover  # which would take as long again
@pytest.mark.parametrize("part", SIGNS_OF_SYNTAX)
def test_a_hostile_value_takes_no_time(part: str) -> None:
    """Were a pattern to go back and forth, a secret three times as long would take minutes."""
    many = part * (HOSTILE // len(part))
    for password in (PASSWORD, "x"):
        for text in (f"postgres://h?{many}", *(before + many + password for before in BEFORE), password + many):
            assert is_quick(json.dumps(text), password), text[:20]
    assert is_quick(json.dumps(f"jdbc:{many}?@"), PASSWORD)


@pytest.mark.costly
@pytest.mark.no_cover
@pytest.mark.parametrize(
    "member",
    [
        "",
        "app",
        PASSWORD,
        "host=h user=app",
        f"postgres://app:{PASSWORD}@h",
        {"user": "app"},
        {"user": ""},
        {"a key that is long": PASSWORD},
        [PASSWORD],
    ],
)
def test_a_hostile_number_of_values_takes_no_time(member: object) -> None:
    """Deep down, where each has a long path, as near the top."""
    one = json.dumps(member)
    many = ",".join([one] * (HOSTILE // (len(one) + 1)))
    assert is_quick(f"[{many}]", PASSWORD)
    for opening, closing in (("[", "]"), ('{"a key that is long":', "}")):
        inside = many[: -(len(one) + 1) * (2000 // (len(one) + 1) + 1)]
        assert is_quick(f"{opening * 90}[{inside}]{closing * 90}", PASSWORD)
