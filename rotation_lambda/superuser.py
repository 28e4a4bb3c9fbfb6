"""Who may change other roles' passwords, and on which server: the secret that `masterarn` names, and its guards."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rotation_lambda.credential import Credential, SslMode
from rotation_lambda.errors import InvalidSecretError, RotationError, SuperuserMismatchError
from rotation_lambda.rds import Rds, Server
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.settings import Settings

_RDS_HOST = re.compile(r".+\.rds(\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?")  # in China the region comes last
_INSTANCE_TAG, _CLUSTER_TAG = "aws:rds:primarydbinstancearn", "aws:rds:primarydbclusterarn"
# How long a chain of replicas is followed; RDS has three levels at most (AWS: cascading read replicas).
_MOST_HOPS = 5


@dataclass(frozen=True, slots=True)
class Superusers:
    """Opens superusers' secrets; RDS is asked only where a secret and its superuser's name different hosts.

    The function's own `sslmode` never makes a superuser's password travel without TLS.
    """

    open_secret: Callable[[str], SecretsManager]
    open_rds: Callable[[], Rds]
    settings: Settings

    @property
    def pinned(self) -> bool:
        """Whether more than a secret's own value says which superuser it may name."""
        return self.settings.superuser_secret_arns is not None

    def of(self, current: Credential) -> Credential:
        """Return the credential of the superuser who may change passwords for this secret.

        It only ever goes to the host that its own secret names, or RDS for a secret that RDS manages. Raises
        SuperuserMismatchError unless the secret's own host is the same, or by RDS's word a replica of it or another
        endpoint of the same cluster: else a writer of the secret could have a role of that name changed elsewhere
        (AWS: "Lambda rotation functions", the confused deputy). The same where SUPERUSER_SECRET_ARNS does not list it.
        """
        arn = current.masterarn or ""
        if self.pinned and arn not in (self.settings.superuser_secret_arns or ()):
            raise SuperuserMismatchError(
                f"`masterarn` is {arn!a}, which SUPERUSER_SECRET_ARNS does not list.",
                hint="Correct `masterarn`, or have SUPERUSER_SECRET_ARNS list it (template.yaml: SuperuserSecretArns). "
                "docs/runbook.md#change-the-secret has the commands for the secret.",
            )
        superuser = self._read(arn)
        if superuser.username in {current.username, *current.pair}:
            raise SuperuserMismatchError(
                f"The secret of `masterarn`, {arn}, is for {superuser.username!a}, whose password would change.",
                hint="Rotate a superuser's own secret as single-user: remove `masterarn` from it, as "
                "docs/runbook.md#change-the-secret shows.",
            )
        if current.end != superuser.end and not self._are_one(current.end, superuser.end):
            (host, port), (other_host, other_port) = current.address, superuser.address
            raise SuperuserMismatchError(
                f"This secret is for {host}:{port}, the superuser's, {arn}, for {other_host}:{other_port}, and RDS "
                "does not say that they are one."
            )
        return superuser

    def _read(self, arn: str) -> Credential:
        secret = self.open_secret(arn)
        try:
            description = secret.describe()
            text = secret.get_secret_value(description.versions.current)
            tls = {"ssl": True} if self.settings.sslmode is SslMode.DISABLE else {}
            return Credential.parse(text, {**tls, **self._place(description.tags)})
        except RotationError as error:
            failure = type(error)(f"The superuser's secret, {arn}: {error.what}", hint=error.hint)
        raise failure

    def _place(self, tags: Mapping[str, str]) -> dict[str, object]:
        """Return host and port for a secret that RDS manages, which has only a name and a password (AWS: tags)."""
        if arn := tags.get(_INSTANCE_TAG):
            server = self.open_rds().describe_db_instances(arn)
        elif arn := tags.get(_CLUSTER_TAG):
            server = self.open_rds().describe_db_clusters(arn)
        else:
            return {}
        if server is None or not server.endpoints:
            raise InvalidSecretError(f"RDS knows no endpoint of {arn}, to which the secret belongs by its tag.")
        host, port = server.endpoints[0]
        return {"host": host, "port": port}

    def _are_one(self, ours: tuple[str, int], theirs: tuple[str, int]) -> bool:
        """Tell whether RDS says that one leads to the cluster of the other, or to a replica of it."""
        if not all(_RDS_HOST.fullmatch(host) for host, _ in (ours, theirs)):
            return False
        rds = self.open_rds()
        server = _find(rds, theirs)
        if server is None:
            return False
        cluster = rds.describe_db_clusters(server.cluster) if server.cluster else None
        if cluster and ours in _lower(cluster):
            return True
        names = {server.name, server.arn, server.cluster, cluster and cluster.arn}
        own, hops = _find(rds, ours), 0
        while own and hops < _MOST_HOPS:
            if (cluster and own.cluster == cluster.name) or own.sources & names:
                return True
            own = next((rds.describe_db_instances(source) for source in own.sources), None)
            hops += 1
        return False


def _find(rds: Rds, end: tuple[str, int]) -> Server | None:
    """Find an instance or a cluster by an endpoint, whose first label is its name; custom endpoints have their own."""
    host, _ = end
    name, _, domain = host.partition(".")
    server = rds.describe_db_clusters(name) if domain.startswith("cluster-") else rds.describe_db_instances(name)
    return server if server and end in _lower(server) else None


def _lower(server: Server) -> list[tuple[str, int]]:
    return [(host.lower(), port) for host, port in server.endpoints]
