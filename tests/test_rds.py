"""What RDS tells of instances and clusters, on a real HTTP emulator; the fake has to pass the same contract.

moto has neither custom endpoints nor replicas of a Multi-AZ cluster, and nothing that fails: those answers are served
here, worded as RDS words them.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import boto3
import pytest
from botocore.config import Config

from rotation_lambda import errors
from rotation_lambda import rds as adapter
from tests.conftest import serving
from tests.worlds.fakes import FakeClock, FakeRds
from tests.worlds.leaks import everything_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_rds import RDSClient

DOMAIN = "us-east-1.rds.amazonaws.com"
ARN = "arn:aws:rds:us-east-1:123456789012"
Subject = adapter.Rds | FakeRds


def instance(
    name: str, *, of: str | None = None, cluster: str | None = None, port: int = 5432, domain: str = f"c1x2y3.{DOMAIN}"
) -> adapter.Server:
    return adapter.Server(
        name, f"{ARN}:db:{name}", [(f"{name}.{domain}", port)], cluster, frozenset(filter(None, [of]))
    )


def cluster(name: str, *custom: str, of: str | None = None) -> adapter.Server:
    hosts = [f"{name}.cluster-c1x2y3", f"{name}.cluster-ro-c1x2y3", *(f"{one}.cluster-custom-c1x2y3" for one in custom)]
    endpoints = [(f"{host}.{DOMAIN}", 5432) for host in hosts]
    return adapter.Server(name, f"{ARN}:cluster:{name}", endpoints, name, frozenset(filter(None, [of])))


@pytest.fixture(params=["fake", "real"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """Know `one`, its replica `two` and that one's replica `three`; and `clu`, with a member and a replica."""
    if request.param == "real":
        return adapter.Rds(request.getfixturevalue("rds"), FakeClock().deadline())
    chain = [instance("one"), instance("two", of="one"), instance("three", of="two")]
    return FakeRds([*chain, cluster("clu"), instance("clu-1", cluster="clu"), cluster("clu2", of=f"{ARN}:cluster:clu")])


def described(server: adapter.Server | None) -> adapter.Server:
    assert server is not None
    return server


class TestContract:
    """Held by the fake and by the emulator."""

    @pytest.mark.parametrize(("name", "sources"), [("one", set()), ("two", {"one"}), ("three", {"two"})])
    def test_tells_where_an_instance_is_and_whose_replica(self, name: str, sources: set[str], subject: Subject) -> None:
        server = described(subject.describe_db_instances(name))
        [(host, port)] = server.endpoints
        assert host.startswith(f"{name}.")
        assert host.endswith(f".{DOMAIN}")
        assert port == 5432
        assert (server.name, server.cluster, set(server.sources)) == (name, None, sources)
        assert server.arn.endswith(f":db:{name}")

    def test_tells_which_cluster_an_instance_is_a_member_of(self, subject: Subject) -> None:
        assert described(subject.describe_db_instances("clu-1")).cluster == "clu"

    def test_tells_the_endpoints_of_a_cluster_the_writers_first(self, subject: Subject) -> None:
        server = described(subject.describe_db_clusters("clu"))
        (writer, port), (reader, same) = server.endpoints
        assert writer.startswith("clu.cluster-")
        assert reader.startswith("clu.cluster-ro-")
        assert port == same == 5432
        assert (server.name, server.cluster, set(server.sources)) == ("clu", "clu", set())

    def test_tells_whose_replica_a_cluster_is_by_its_arn(self, subject: Subject) -> None:
        source = described(subject.describe_db_clusters("clu")).arn
        assert described(subject.describe_db_clusters("clu2")).sources == {source}

    def test_knows_them_by_their_arns_too(self, subject: Subject) -> None:
        one, clu = described(subject.describe_db_instances("one")), described(subject.describe_db_clusters("clu"))
        assert subject.describe_db_instances(one.arn) == one
        assert subject.describe_db_clusters(clu.arn) == clu

    @pytest.mark.parametrize("identifier", ["none", f"{ARN}:db:none", f"{ARN}:cluster:none"])
    def test_knows_none_that_there_is_not(self, identifier: str, subject: Subject) -> None:
        assert subject.describe_db_instances(identifier) is None
        assert subject.describe_db_clusters(identifier) is None

    def test_takes_no_cluster_for_an_instance_nor_the_other_way_round(self, subject: Subject) -> None:
        assert subject.describe_db_instances("clu") is None
        assert subject.describe_db_clusters("one") is None


def client(endpoint: str) -> RDSClient:
    return boto3.client(
        "rds",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(retries={"total_max_attempts": 1}, proxies={}),
    )


@contextmanager
def answering(body: str, status: int = 200) -> Iterator[tuple[adapter.Rds, list[dict[str, list[str]]]]]:
    """Serve every call the same answer; yield RDS, and the requests for it."""
    with serving(body.encode(), status, lambda sent: parse_qs(sent.decode())) as (url, requests):
        yield adapter.Rds(client(url), FakeClock().deadline()), requests


def described_instance(inner: str) -> str:
    named = f"<DBInstanceIdentifier>x</DBInstanceIdentifier><DBInstanceArn>{ARN}:db:x</DBInstanceArn>{inner}"
    listed = f"<DBInstances><DBInstance>{named}</DBInstance></DBInstances>"
    result = f"<DescribeDBInstancesResult>{listed}</DescribeDBInstancesResult>"
    return f"<DescribeDBInstancesResponse>{result}</DescribeDBInstancesResponse>"


def described_cluster(inner: str) -> str:
    named = f"<DBClusterIdentifier>x</DBClusterIdentifier><DBClusterArn>{ARN}:cluster:x</DBClusterArn>{inner}"
    listed = f"<DBClusters><DBCluster>{named}</DBCluster></DBClusters>"
    result = f"<DescribeDBClustersResult>{listed}</DescribeDBClustersResult>"
    return f"<DescribeDBClustersResponse>{result}</DescribeDBClustersResponse>"


class TestAnswers:
    def test_have_custom_endpoints(self) -> None:
        custom = "".join(f"<member>{name}.cluster-custom-c1x2y3.{DOMAIN}</member>" for name in ("a", "b"))
        inner = f"<Endpoint>writer</Endpoint><CustomEndpoints>{custom}</CustomEndpoints><Port>5433</Port>"
        with answering(described_cluster(inner)) as (rds, requests):
            server = described(rds.describe_db_clusters("x"))
        hosts = ["writer", *(f"{name}.cluster-custom-c1x2y3.{DOMAIN}" for name in ("a", "b"))]
        assert server.endpoints == [(host, 5433) for host in hosts]
        assert (requests[0]["Action"], requests[0]["DBClusterIdentifier"]) == (["DescribeDBClusters"], ["x"])

    def test_have_the_cluster_whose_replica_an_instance_is(self) -> None:
        inner = "<ReadReplicaSourceDBClusterIdentifier>clu</ReadReplicaSourceDBClusterIdentifier>"
        with answering(described_instance(inner)) as (rds, requests):
            assert described(rds.describe_db_instances("x")).sources == {"clu"}
        assert (requests[0]["Action"], requests[0]["DBInstanceIdentifier"]) == (["DescribeDBInstances"], ["x"])

    @pytest.mark.parametrize("inner", ["", "<Endpoint><HostedZoneId>Z1</HostedZoneId></Endpoint>"])
    def test_have_no_endpoint_while_an_instance_is_being_made(self, inner: str) -> None:
        with answering(described_instance(inner)) as (rds, _):
            assert described(rds.describe_db_instances("x")).endpoints == []

    def test_have_no_endpoint_while_a_cluster_is_being_made(self) -> None:
        with answering(described_cluster("")) as (rds, _):
            assert described(rds.describe_db_clusters("x")).endpoints == []


def fault(code: str, message: str = "no") -> str:
    inner = f"<Type>Sender</Type><Code>{code}</Code><Message>{message}</Message>"
    return f"<ErrorResponse><Error>{inner}</Error></ErrorResponse>"


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "code", "error"),
        [
            (403, "AccessDenied", errors.AccessDeniedError),
            (403, "AccessDeniedException", errors.AccessDeniedError),
            (403, "UnrecognizedClientException", errors.AccessDeniedError),
            (403, "403", errors.AccessDeniedError),
            (400, "Throttling", errors.RdsError),
            (503, "ServiceUnavailable", errors.RdsError),
            (500, "InternalFailure", errors.RdsError),
            (400, "InvalidParameterValue", errors.RdsError),
        ],
    )
    def test_have_a_class_by_what_an_operator_does(self, status: int, code: str, error: type[Exception]) -> None:
        message = "User: marker is not authorized"
        with answering(fault(code, message), status) as (rds, _):
            for ask, operation in (
                (rds.describe_db_instances, "DescribeDBInstances"),
                (rds.describe_db_clusters, "DescribeDBClusters"),
            ):
                with pytest.raises(error) as caught:
                    ask("asked-for")
                assert type(caught.value) is error
                assert f"{operation} o" in str(caught.value)
                assert "asked-for" in str(caught.value)
                assert code in str(caught.value) or "was denied" in str(caught.value)
                assert "marker" not in everything_in(caught.value)

    def test_name_the_action_and_the_resource_that_a_role_lacks(self) -> None:
        with (
            answering(fault("AccessDenied"), 403) as (rds, _),
            pytest.raises(errors.AccessDeniedError, match="rds:DescribeDBClusters on clu was denied") as caught,
        ):
            rds.describe_db_clusters("clu")
        assert "Grant the action" in caught.value.hint

    def test_say_that_nobody_answered(self) -> None:
        rds = adapter.Rds(client("http://127.0.0.1:1"), FakeClock().deadline())
        with pytest.raises(errors.RdsError, match=r"no answer.*EndpointConnectionError") as caught:
            rds.describe_db_instances("one")
        assert "interface endpoint" in caught.value.hint

    def test_are_told_from_there_being_none(self) -> None:
        for code in ("DBInstanceNotFound", "DBClusterNotFoundFault"):
            with answering(fault(code), 404) as (rds, _):
                assert rds.describe_db_instances("x") is rds.describe_db_clusters("x") is None
