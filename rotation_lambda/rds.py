"""Where a database is, by RDS's own word: which endpoints an instance or a cluster has, and whose replica it is."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rotation_lambda import clients
from rotation_lambda.errors import AccessDeniedError, RdsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_rds import RDSClient

    from rotation_lambda.deadline import Deadline


class Server(NamedTuple):
    """An instance or a cluster: the (host, port) pairs that lead to it, the writer's first.

    `cluster` is the one that an instance belongs to, a cluster's own name; `sources` name what it is a replica of, by
    name in the same region, by ARN in another.
    """

    name: str
    arn: str
    endpoints: list[tuple[str, int]]
    cluster: str | None = None
    sources: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rds:
    """The RDS of the function's account and region. An `identifier` is a name or an ARN; None: there is none."""

    client: RDSClient
    deadline: Deadline

    def describe_db_instances(self, identifier: str) -> Server | None:
        """Return the instance (AWS: DescribeDBInstances)."""

        def describe() -> Server:
            [db] = self.client.describe_db_instances(DBInstanceIdentifier=identifier)["DBInstances"]
            endpoint = db.get("Endpoint", {})
            sources = db.get("ReadReplicaSourceDBInstanceIdentifier"), db.get("ReadReplicaSourceDBClusterIdentifier")
            return Server(
                name=db["DBInstanceIdentifier"],
                arn=db["DBInstanceArn"],
                endpoints=[(endpoint["Address"], endpoint["Port"])] if "Address" in endpoint else [],
                cluster=db.get("DBClusterIdentifier"),
                sources=frozenset(filter(None, sources)),
            )

        return self._ask("DescribeDBInstances", identifier, describe)

    def describe_db_clusters(self, identifier: str) -> Server | None:
        """Return the cluster (AWS: DescribeDBClusters)."""

        def describe() -> Server:
            [cluster] = self.client.describe_db_clusters(DBClusterIdentifier=identifier)["DBClusters"]
            hosts = [cluster.get("Endpoint"), cluster.get("ReaderEndpoint"), *cluster.get("CustomEndpoints", [])]
            return Server(
                name=cluster["DBClusterIdentifier"],
                arn=cluster["DBClusterArn"],
                endpoints=[(host, cluster["Port"]) for host in hosts if host],
                cluster=cluster["DBClusterIdentifier"],
                sources=frozenset(filter(None, [cluster.get("ReplicationSourceIdentifier")])),
            )

        return self._ask("DescribeDBClusters", identifier, describe)

    def _ask(self, operation: str, identifier: str, describe: Callable[[], Server]) -> Server | None:
        """Make a call, repeated where that may help; None where RDS knows nothing of the name."""
        gone = self.client.exceptions.DBInstanceNotFoundFault, self.client.exceptions.DBClusterNotFoundFault

        def call() -> Server | None:
            with suppress(*gone):
                return describe()
            return None

        def read(failure: clients.Failure) -> Exception:
            if failure.code in clients.DENIED:
                return AccessDeniedError(f"rds:{operation} on {identifier} was denied.")
            return RdsError(f"{operation} of {identifier} {failure.what}.", hint=failure.hint)

        return clients.ask(call, self.deadline, read)
