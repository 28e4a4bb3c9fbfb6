"""A superuser's password goes where its own secret or RDS says, and for a secret of the same database alone.

What moto's RDS can tell is asked of it as well as of the fake.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from rotation_lambda import errors
from rotation_lambda.credential import Credential, SslMode
from rotation_lambda.rds import Rds, Server
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.settings import Settings
from rotation_lambda.staging import StagingLabel
from rotation_lambda.superuser import Superusers
from tests.test_rds import ARN as RDS_ARN
from tests.test_rds import DOMAIN, Subject, cluster, described, instance
from tests.worlds.fakes import FakeClock, FakeRds, FakeSecretsManager
from tests.worlds.leaks import everything_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_rds import RDSClient

    from local.servers.secrets_manager import SecretsManagerServer

ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/master-d4E5f6"
VERSION = "5" * 32
SETTINGS = Settings.from_environment({})
INSTANCE_TAG, CLUSTER_TAG = "aws:rds:primaryDBInstanceArn", "aws:rds:primaryDBClusterArn"
MANAGED: dict[str, object] = {"username": "postgres", "password": "marker"}


def current(host: str = "db.example", port: int = 5432, username: str = "app", **fields: Any) -> Credential:  # noqa: ANN401
    return Credential(host, port, "shop", username, "old", masterarn=ARN, **fields)


@dataclass(slots=True)
class Account:
    """One superuser's secret, the RDS of its account, and the function's PGSSLMODE."""

    document: dict[str, object]
    rds: Subject = field(default_factory=FakeRds)
    sslmode: SslMode = SslMode.VERIFY_FULL
    arns: frozenset[str] | None = None
    secret: FakeSecretsManager = field(default_factory=FakeSecretsManager)
    opened: list[str] = field(default_factory=list)

    def superuser_of(self, credential: Credential) -> Credential:
        self.secret.values.setdefault(VERSION, json.dumps(self.document))
        self.secret.labels.setdefault(StagingLabel.CURRENT, VERSION)

        def open_secret(arn: str) -> FakeSecretsManager:
            self.opened.append(arn)
            return self.secret

        settings = replace(SETTINGS, sslmode=self.sslmode, superuser_secret_arns=self.arns)
        return Superusers(open_secret, lambda: self.rds, settings).of(credential)  # type: ignore[arg-type, return-value]


def account(host: str = "db.example", port: object = 5432, rds: Subject | None = None, **keys: object) -> Account:
    return Account({"host": host, "port": port, "username": "postgres", "password": "marker", **keys}, rds or FakeRds())


def refusal(one: Account, credential: Credential | None = None) -> errors.RotationError:
    """Return the error, which names the superuser's secret and quotes nothing that is in it."""
    with pytest.raises(errors.RotationError) as caught:
        one.superuser_of(credential or current())
    assert ARN in caught.value.what
    assert "marker" not in everything_in(caught.value)
    return caught.value


class TestSameServer:
    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ({}, {}),
            ({"host": "DB.Example"}, {"host": "db.EXAMPLE"}),
            ({"host": "db.example."}, {}),
            ({}, {"host": "db.example."}),
            ({"port": 5433}, {"port": "5433"}),
            ({"port": 5432}, {"port": ""}),
            ({"host": "192.0.2.1"}, {"host": "192.0.2.1"}),
            ({"host": "::1"}, {"host": "::1"}),
            ({"host": "pooler.example", "rotation_host": "db.example"}, {}),
            ({"host": "pooler.example", "port": 6432, "rotation_host": "db.example", "rotation_port": 5432}, {}),
            ({}, {"host": "pooler.example", "rotationHost": "DB.example."}),
            ({}, {"port": 6432, "rotationPort": 5432}),
            ({"host": f"one.c1x2y3.{DOMAIN}"}, {"host": f"one.c1x2y3.{DOMAIN}"}),
        ],
        ids=str,
    )
    def test_needs_no_word_of_rdss(self, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        rds = FakeRds()
        superuser = account(**theirs, rds=rds).superuser_of(current(**ours))
        assert (superuser.username, superuser.password, superuser.dbname) == ("postgres", "marker", "postgres")
        assert not rds.calls

    def test_is_asked_of_the_secret_that_masterarn_names_and_of_no_other(self) -> None:
        one = account()
        one.superuser_of(current())
        assert one.opened == [ARN]
        assert one.secret.calls == ["DescribeSecret", "GetSecretValue"]

    def test_keeps_the_superusers_own_host_database_and_tls(self) -> None:
        one = account("DB.example.", dbname="admin", sslmode="verify-ca", tlsServerName="named.example")
        superuser = one.superuser_of(current())
        assert (superuser.host, superuser.dbname) == ("DB.example.", "admin")
        assert (superuser.sslmode, superuser.tls_server_name) == (SslMode.VERIFY_CA, "named.example")


class TestAnotherServer:
    """Whoever may write a secret could let a superuser change a role of that name elsewhere: the confused deputy."""

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ({"host": "rogue.example"}, {}),
            ({}, {"host": "other.example"}),
            ({"port": 5433}, {}),
            ({"rotation_host": "rogue.example"}, {}),
            ({"rotation_port": 5433}, {}),
            ({"host": "db.example", "rotation_host": "rogue.example"}, {"rotationHost": "db.example"}),
            ({"host": "db.example.rogue"}, {}),
            ({"host": f"one.c1x2y3.{DOMAIN}"}, {}),
            ({}, {"host": f"one.c1x2y3.{DOMAIN}"}),
            ({"host": f"one.c1x2y3.{DOMAIN}.rogue.example"}, {"host": f"one.c1x2y3.{DOMAIN}"}),
            ({"host": "one.roguerds.amazonaws.com"}, {"host": f"one.c1x2y3.{DOMAIN}"}),
        ],
        ids=str,
    )
    def test_is_refused_and_rds_is_not_asked_of_what_is_not_its(
        self, ours: dict[str, Any], theirs: dict[str, Any]
    ) -> None:
        rds = FakeRds([instance("one")])
        error = refusal(account(**theirs, rds=rds), current(**ours))
        assert type(error) is errors.SuperuserMismatchError
        assert "RDS does not say that they are one" in error.what
        assert not rds.calls

    def test_is_named_beside_the_superusers(self) -> None:
        error = refusal(account(rotationPort=5433), current(rotation_host="rogue.example"))
        assert error.what.startswith("This secret is for rogue.example:5432, the superuser's, ")
        assert ", for db.example:5433, and RDS" in error.what


class TestList:
    """SUPERUSER_SECRET_ARNS says more than the secret's own value, which anyone may have written."""

    def test_lets_a_secret_name_what_it_lists(self) -> None:
        assert replace(account(), arns=frozenset({"another", ARN})).superuser_of(current()).username == "postgres"

    @pytest.mark.parametrize("arns", [frozenset(), frozenset({"another"})], ids=str)
    def test_lets_a_secret_name_no_other_and_none_is_opened(self, arns: frozenset[str]) -> None:
        one = replace(account(), arns=arns)
        error = refusal(one)
        assert type(error) is errors.SuperuserMismatchError
        assert error.what == f"`masterarn` is '{ARN}', which SUPERUSER_SECRET_ARNS does not list."
        assert error.hint.startswith("Correct `masterarn`, or have SUPERUSER_SECRET_ARNS list it")
        assert not one.opened


@pytest.fixture(params=["fake", "real"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """Know what test_rds's contract knows, and `alone`, which belongs to nobody."""
    if request.param == "real":
        return Rds(request.getfixturevalue("rds"), FakeClock().deadline())
    chain = [instance("one"), instance("two", of="one"), instance("three", of="two")]
    clusters = [cluster("clu"), instance("clu-1", cluster="clu"), cluster("clu2", of=f"{RDS_ARN}:cluster:clu")]
    return FakeRds([*chain, *clusters])


def host_of(rds: Subject, endpoint: str) -> str:
    """Return the host of an instance, of a cluster's writer, or with a « ro» behind it of its reader."""
    name, _, reader = endpoint.partition(" ")
    server = rds.describe_db_instances(name) or rds.describe_db_clusters(name)
    return described(server).endpoints[bool(reader)][0]


class TestServersThatRdsTellsTogether:
    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("two", "one"),
            ("three", "two"),
            ("three", "one"),
            ("clu ro", "clu"),
            ("clu", "clu ro"),
            ("clu-1", "clu"),
            ("clu-1", "clu ro"),
            ("clu", "clu-1"),
            ("clu ro", "clu-1"),
            ("clu2", "clu"),
            ("clu2 ro", "clu"),
            ("clu2 ro", "clu-1"),
        ],
    )
    def test_are_one(self, ours: str, theirs: str, subject: Subject) -> None:
        superuser = account(host_of(subject, theirs), rds=subject).superuser_of(current(host_of(subject, ours)))
        assert superuser.host == host_of(subject, theirs)

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [("one", "two"), ("two", "three"), ("one", "clu"), ("clu", "one"), ("clu", "clu2"), ("two", "clu-1")],
    )
    def test_are_two_where_the_superusers_is_no_source_of_ours(self, ours: str, theirs: str, subject: Subject) -> None:
        one = account(host_of(subject, theirs), rds=subject)
        assert type(refusal(one, current(host_of(subject, ours)))) is errors.SuperuserMismatchError

    @pytest.mark.parametrize("port", [5433, 1])
    @pytest.mark.parametrize(("ours", "theirs"), [("two", "one"), ("clu ro", "clu"), ("clu-1", "clu")])
    def test_are_two_where_a_port_is_not_the_one_that_rds_tells(
        self, port: int, ours: str, theirs: str, subject: Subject
    ) -> None:
        here, there = host_of(subject, ours), host_of(subject, theirs)
        refusal(account(there, rds=subject), current(here, port))
        refusal(account(there, port, rds=subject), current(here))


class TestServersThatOnlyTheFakeHas:
    @pytest.mark.parametrize(
        ("servers", "ours", "theirs"),
        [
            ([instance("two", of="one"), instance("one")], "TWO.C1x2y3", "one.c1x2Y3"),
            ([instance("two", of=f"{RDS_ARN}:db:one"), instance("one")], "two.c1x2y3", "one.c1x2y3"),
            ([cluster("clu", "mine")], "mine.cluster-custom-c1x2y3", "clu.cluster-c1x2y3"),
            (
                [cluster("clu", "mine"), instance("clu-1", cluster="clu")],
                "mine.cluster-custom-c1x2y3",
                "clu-1.c1x2y3",
            ),
            ([instance("a", cluster="clu"), instance("b", cluster="clu"), cluster("clu")], "a.c1x2y3", "b.c1x2y3"),
            ([cluster("maz"), instance("replica", of="maz")], "replica.c1x2y3", "maz.cluster-c1x2y3"),
            (
                [cluster("maz"), instance("m", cluster="maz"), instance("replica", of="maz")],
                "replica.c1x2y3",
                "m.c1x2y3",
            ),
            (
                [cluster("maz"), instance("m", cluster="maz"), instance("replica", of="m")],
                "replica.c1x2y3",
                "maz.cluster-c1x2y3",
            ),
        ],
        ids=[
            "letters",
            "replica by ARN",
            "custom endpoint",
            "custom endpoint of a member's cluster",
            "two members",
            "replica of a Multi-AZ cluster",
            "replica of a member's Multi-AZ cluster",
            "replica of a member",
        ],
    )
    def test_are_one(self, servers: list[Server], ours: str, theirs: str) -> None:
        one = account(f"{theirs}.{DOMAIN}", rds=FakeRds(servers))
        assert one.superuser_of(current(f"{ours}.{DOMAIN}.")).host == f"{theirs}.{DOMAIN}"

    @pytest.mark.parametrize(
        ("servers", "ours", "theirs"),
        [
            ([instance("two", of="one"), instance("one")], "two.0th3r5", "one.c1x2y3"),
            ([instance("two", of="one"), instance("one")], "two.c1x2y3", "one.0th3r5"),
            ([instance("two", of="one"), instance("one")], "two.c1x2y3", "none.c1x2y3"),
            ([instance("one")], "two.c1x2y3", "one.c1x2y3"),
            ([instance("a", of="one"), instance("b", of="one"), instance("one")], "a.c1x2y3", "b.c1x2y3"),
            ([instance("b"), cluster("clu"), instance("a", cluster="clu")], "b.c1x2y3", "a.c1x2y3"),
            ([cluster("clu"), cluster("clu2")], "clu2.cluster-c1x2y3", "clu.cluster-c1x2y3"),
            ([cluster("clu"), cluster("b", of=f"{RDS_ARN}:cluster:a")], "b.cluster-c1x2y3", "clu.cluster-c1x2y3"),
            ([cluster("clu", "mine")], "clu.cluster-c1x2y3", "mine.cluster-custom-c1x2y3"),
            ([cluster("clu", "mine"), cluster("clu2")], "mine.cluster-custom-c1x2y3", "clu2.cluster-c1x2y3"),
            ([instance("a", cluster="gone"), instance("b", cluster="gone")], "a.c1x2y3", "b.c1x2y3"),
        ],
        ids=[
            "another account's domain",
            "another account's superuser",
            "a superuser's that is not there",
            "one that is not there",
            "sisters",
            "no member",
            "clusters",
            "a replica of another",
            "a superuser's custom endpoint",
            "another cluster's custom endpoint",
            "a cluster that is not there",
        ],
    )
    def test_are_two(self, servers: list[Server], ours: str, theirs: str) -> None:
        one = account(f"{theirs}.{DOMAIN}", rds=FakeRds(servers))
        assert type(refusal(one, current(f"{ours}.{DOMAIN}"))) is errors.SuperuserMismatchError

    @pytest.mark.parametrize("domain", ["0ld.cn-north-1.rds.amazonaws.com.cn", "n3w.rds.cn-north-1.amazonaws.com.cn"])
    def test_are_known_in_china_by_either_form_of_their_names(self, domain: str) -> None:
        rds = FakeRds([instance("one", domain=domain), instance("two", of="one", domain=domain)])
        assert account(f"one.{domain}", rds=rds).superuser_of(current(f"two.{domain}"))

    def test_are_two_where_a_chain_of_replicas_has_no_end(self) -> None:
        """RDS will not say so; the step would end all the same."""
        rds = FakeRds([instance("one"), instance("a", of="b"), instance("b", of="a")])
        refusal(account(f"one.c1x2y3.{DOMAIN}", rds=rds), current(f"a.c1x2y3.{DOMAIN}"))
        assert len(rds.calls) < 10

    def test_are_two_where_a_chain_is_longer_than_rds_makes_them(self) -> None:
        chain = [instance(f"r{number}", of=f"r{number - 1}") for number in range(1, 7)]
        rds = FakeRds([instance("r0"), *chain])
        host = f"r0.c1x2y3.{DOMAIN}"
        assert account(host, rds=rds).superuser_of(current(f"r5.c1x2y3.{DOMAIN}"))
        refusal(account(host, rds=rds), current(f"r6.c1x2y3.{DOMAIN}"))

    def test_are_not_known_where_rds_does_not_answer(self) -> None:
        rds = FakeRds(trouble=errors.RdsError("DescribeDBInstances of one failed with Throttling."))
        with pytest.raises(errors.RdsError, match="Throttling"):
            account(f"one.c1x2y3.{DOMAIN}", rds=rds).superuser_of(current(f"two.c1x2y3.{DOMAIN}"))


class TestManagedSecret:
    """RDS keeps a name and a password in it; the tag, which only RDS can set, says where they belong."""

    @pytest.mark.parametrize(("tag", "name"), [(INSTANCE_TAG, "one"), (CLUSTER_TAG, "clu")])
    def test_is_for_the_writer_of_what_its_tag_names(self, tag: str, name: str, subject: Subject) -> None:
        server = described(subject.describe_db_instances(name) or subject.describe_db_clusters(name))
        one = Account(MANAGED, subject, secret=FakeSecretsManager(tags={tag: server.arn}))
        superuser = one.superuser_of(current(host_of(subject, name)))
        assert superuser.address == server.endpoints[0]
        assert (superuser.username, superuser.password, superuser.dbname) == ("postgres", "marker", "postgres")

    @pytest.mark.parametrize(("tag", "name", "ours"), [(INSTANCE_TAG, "one", "three"), (CLUSTER_TAG, "clu", "clu ro")])
    def test_serves_replicas_and_readers(self, tag: str, name: str, ours: str, subject: Subject) -> None:
        server = described(subject.describe_db_instances(name) or subject.describe_db_clusters(name))
        one = Account(MANAGED, subject, secret=FakeSecretsManager(tags={tag: server.arn}))
        assert one.superuser_of(current(host_of(subject, ours))).address == server.endpoints[0]

    def test_serves_no_other_server(self, subject: Subject) -> None:
        server = described(subject.describe_db_instances("one"))
        one = Account(MANAGED, subject, secret=FakeSecretsManager(tags={INSTANCE_TAG: server.arn}))
        assert "RDS does not say" in refusal(one, current(host_of(subject, "clu"))).what
        assert "RDS does not say" in refusal(one, current("one.rogue.example")).what

    def test_has_the_port_that_rds_tells(self) -> None:
        rds = FakeRds([instance("one", port=5433)])
        tags = {INSTANCE_TAG: rds.servers[0].arn}
        one = Account(MANAGED, rds, secret=FakeSecretsManager(tags=tags))
        assert one.superuser_of(current(f"one.c1x2y3.{DOMAIN}", 5433)).port == 5433

    @pytest.mark.parametrize("tag", [INSTANCE_TAG, CLUSTER_TAG])
    def test_is_of_no_use_once_its_database_is_deleted(self, tag: str, subject: Subject) -> None:
        arn = f"{RDS_ARN}:{'db' if tag == INSTANCE_TAG else 'cluster'}:deleted"
        error = refusal(Account(MANAGED, subject, secret=FakeSecretsManager(tags={tag: arn})))
        assert type(error) is errors.InvalidSecretError
        assert f"RDS knows no endpoint of {arn}" in error.what

    def test_is_of_no_use_while_its_database_is_being_made(self) -> None:
        server = Server("one", f"{RDS_ARN}:db:one", [])
        one = Account(MANAGED, FakeRds([server]), secret=FakeSecretsManager(tags={INSTANCE_TAG: server.arn}))
        assert "RDS knows no endpoint" in refusal(one).what

    @pytest.mark.parametrize("tags", [{}, {INSTANCE_TAG: ""}, {"owner": "dba"}], ids=str)
    def test_is_of_no_use_without_its_tag(self, tags: dict[str, str]) -> None:
        rds = FakeRds()
        error = refusal(Account(MANAGED, rds, secret=FakeSecretsManager(tags=tags)))
        assert error.what == f"The superuser's secret, {ARN}: `host` is missing from the secret."
        assert not rds.calls

    @pytest.mark.parametrize("error", [errors.RdsError("Throttling."), errors.AccessDeniedError("denied.")])
    def test_is_of_no_use_where_rds_does_not_answer(self, error: errors.RotationError) -> None:
        tags = {INSTANCE_TAG: f"{RDS_ARN}:db:one"}
        found = refusal(Account(MANAGED, FakeRds(trouble=error), secret=FakeSecretsManager(tags=tags)))
        assert type(found) is type(error)
        assert found.hint == error.hint


class TestSecretThatCannotBeRead:
    """The superuser's: the message says whose secret it is, and the error's class and hint are those of any secret."""

    @pytest.mark.parametrize("operation", ["DescribeSecret", "GetSecretValue"])
    @pytest.mark.parametrize(
        "error",
        [
            errors.SecretNotFoundError("Secrets Manager does not know the secret."),
            errors.SecretDeletedError("The secret is marked for deletion."),
            errors.AccessDeniedError("denied"),
            errors.AccessDeniedError("could not use the KMS key", hint="Grant kms:Decrypt"),
            errors.SecretsManagerError("failed with ThrottlingException."),
            errors.MissingVersionError("has no value."),
        ],
    )
    def test_says_why(self, error: errors.RotationError, operation: str) -> None:
        one = account()
        one.secret.trouble[operation] = error
        found = refusal(one)
        assert type(found) is type(error)
        assert found.what == f"The superuser's secret, {ARN}: {error.what}"
        assert found.hint == error.hint

    def test_has_no_current_version(self) -> None:
        one = account()
        one.secret.labels[StagingLabel.CURRENT] = "6" * 32
        assert type(refusal(one)) is errors.MissingVersionError

    def test_has_no_label(self) -> None:
        one = account()
        one.secret.labels[StagingLabel.PREVIOUS] = VERSION
        one.secret.labels[StagingLabel.CURRENT] = ""
        assert type(refusal(one)) is errors.MissingVersionError

    @pytest.mark.parametrize("key", ["host", "username", "password"])
    def test_lacks_a_key(self, key: str) -> None:
        one = account()
        del one.document[key]
        assert f"`{key}` is missing" in refusal(one).what

    @pytest.mark.parametrize("text", ["", "marker", '["marker"]', '{"password": "marker"', '{"password": ["marker"]}'])
    def test_is_no_credential(self, text: str) -> None:
        one = account()
        one.secret.values[VERSION] = text
        assert type(refusal(one)) is errors.InvalidSecretError

    @pytest.mark.parametrize(
        ("key", "value"),
        [("engine", "mysql"), ("host", "marker example"), ("port", "marker"), ("sslmode", "prefer"), ("ssl", "marker")],
    )
    def test_has_a_key_that_cannot_be_used(self, key: str, value: str) -> None:
        one = account()
        one.document[key] = value
        assert f"`{key}`" in refusal(one).what


class TestSuperuserWhosePasswordWouldChange:
    @pytest.mark.parametrize(
        ("username", "usernames", "superuser"),
        [
            ("app", None, "app"),
            ("app", None, "app_clone"),
            ("app_clone", None, "app"),
            ("app_clone", None, "app_clone"),
            ("a", ("a", "b"), "a"),
            ("a", ("a", "b"), "b"),
        ],
    )
    def test_is_refused_before_anything_else(
        self, username: str, usernames: tuple[str, str] | None, superuser: str
    ) -> None:
        rds = FakeRds()
        one = account("other.example", rds=rds, username=superuser)
        error = refusal(one, current(username=username, usernames=usernames))
        assert type(error) is errors.SuperuserMismatchError
        assert f"is for '{superuser}', whose password would change" in error.what
        assert "single-user" in error.hint
        assert not rds.calls

    def test_is_not_taken_for_another_whose_name_is_like_it(self) -> None:
        assert account(username="app_clone").superuser_of(current(username="a", usernames=("a", "app")))
        assert account(username="App").superuser_of(current())


class TestTls:
    @pytest.mark.parametrize("ours", list(SslMode))
    @pytest.mark.parametrize(
        ("keys", "theirs"),
        [
            ({}, None),
            ({"ssl": True}, SslMode.VERIFY_FULL),
            ({"ssl": False}, SslMode.DISABLE),
            ({"sslmode": "disable"}, SslMode.DISABLE),
            ({"sslmode": "require"}, SslMode.REQUIRE),
        ],
        ids=str,
    )
    def test_is_given_up_by_the_superusers_secret_alone(
        self, keys: dict[str, object], theirs: SslMode | None, ours: SslMode
    ) -> None:
        """What is left to PGSSLMODE stays with it, unless that would send a superuser's password without TLS."""
        one = account(**keys)  # type: ignore[arg-type]
        one.sslmode = ours
        expected = SslMode.VERIFY_FULL if theirs is None and ours is SslMode.DISABLE else theirs
        assert one.superuser_of(current()).sslmode is expected
        assert one.superuser_of(current(sslmode=SslMode.DISABLE)).sslmode is expected

    def test_is_not_given_up_for_a_secret_that_rds_manages(self) -> None:
        rds = FakeRds([instance("one")])
        secret = FakeSecretsManager(tags={INSTANCE_TAG: rds.servers[0].arn})
        one = Account(MANAGED, rds, SslMode.DISABLE, secret=secret)
        assert one.superuser_of(current(f"one.c1x2y3.{DOMAIN}")).sslmode is SslMode.VERIFY_FULL


class TestOnTheEmulator:
    """Both adapters together: a secret with RDS's tag, and RDS to say where that leads."""

    @pytest.mark.parametrize(("tag", "name", "ours"), [(INSTANCE_TAG, "one", "two"), (CLUSTER_TAG, "clu", "clu-1")])
    def test_finds_the_superuser_of_a_managed_secret(
        self, tag: str, name: str, ours: str, secrets_manager: SecretsManagerServer, rds: RDSClient
    ) -> None:
        servers = Rds(rds, FakeClock().deadline())
        server = described(servers.describe_db_instances(name) or servers.describe_db_clusters(name))
        client = secrets_manager.client()
        arn = secrets_manager.create_secret(f"rds!{name}", MANAGED)
        client.tag_resource(SecretId=arn, Tags=[{"Key": tag, "Value": server.arn}])
        superusers = Superusers(
            partial(SecretsManager, client, deadline=FakeClock().deadline()), lambda: servers, SETTINGS
        )
        secret = Credential(host_of(servers, ours), 5432, "shop", "app", "old", masterarn=arn)
        assert superusers.of(secret).address == server.endpoints[0]

    def test_names_a_superusers_secret_that_is_deleted(
        self, secrets_manager: SecretsManagerServer, make_secret: Callable[[object], Any]
    ) -> None:
        client = secrets_manager.client()
        arn = make_secret({"host": "db.example", **MANAGED}).arn
        client.delete_secret(SecretId=arn)
        superusers = Superusers(partial(SecretsManager, client, deadline=FakeClock().deadline()), pytest.fail, SETTINGS)
        with pytest.raises(errors.SecretDeletedError, match=f"The superuser's secret, {arn}: .*deletion"):
            superusers.of(Credential("db.example", 5432, "shop", "app", "old", masterarn=arn))
