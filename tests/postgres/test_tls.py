"""What is told of a server's certificate, of the roots that are trusted, and of the platform's."""

from __future__ import annotations

import shutil
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trustme

from local.servers.postgres import run_postgres
from rotation_lambda import errors
from rotation_lambda.credential import SslMode
from rotation_lambda.deadline import Deadline
from rotation_lambda.postgres import Postgres, tls
from rotation_lambda.settings import PLATFORM_ROOTS, SHIPPED_BUNDLE
from tests.postgres.test_answers import listener
from tests.postgres.test_session import credential, door

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.servers.postgres import PostgresServer
    from tests.conftest import Role


def certificate(
    *names: str, issuer: str = "an authority", distrust: str | None = None, days: int = 99
) -> tls.Certificate:
    return tls.Certificate(names, issuer, datetime.now(UTC) + timedelta(days + 0.5), distrust, "TLSv1.3")


class TestLook:
    def test_reads_what_a_real_server_shows(self) -> None:
        names = ("db.example.com", "*.example.org", "127.0.0.1", "::1")
        with run_postgres(server_names=("localhost", *names)) as server:
            logged = len(server.log())
            seen = tls.look_at("127.0.0.1", server.port, "localhost", str(server.ca_file), 5)
            log = server.log()[logged:]
        assert seen is not None
        assert set(seen.names) == {"localhost", "db.example.com", "*.example.org", "127.0.0.1", "0:0:0:0:0:0:0:1"}
        assert (seen.distrust, seen.protocol) == (None, "TLSv1.3")
        assert seen.issuer.startswith("trustme")
        assert log == ""  # not one complaint of a client that went away

    def test_reads_one_that_is_not_trusted(self, postgres: PostgresServer) -> None:
        seen = tls.look_at("127.0.0.1", postgres.port, "127.0.0.1", SHIPPED_BUNDLE, 5)
        assert seen is not None
        assert seen.distrust == "unable to get local issuer certificate"
        assert seen.names == ("localhost",)

    def test_sees_that_a_server_has_none(self, postgres_of: Callable[[int], PostgresServer]) -> None:
        assert tls.look_at("127.0.0.1", postgres_of(16).port, "localhost", SHIPPED_BUNDLE, 5) is None

    def test_does_not_wait_for_ever(self) -> None:
        with listener(None) as port, pytest.raises(TimeoutError):
            tls.look_at("127.0.0.1", port, "localhost", SHIPPED_BUNDLE, 0.2)

    def test_a_witness_that_is_gone_changes_nothing(
        self, postgres: PostgresServer, make_role: Callable[..., Role]
    ) -> None:
        class Alone(Postgres):
            def look_at_certificate(self, *_: object) -> None:
                raise ConnectionResetError

        database = Alone(SslMode.VERIFY_FULL, str(postgres.ca_file), Deadline.after(60_000))
        with pytest.raises(errors.TlsError) as caught:
            database.log_in(credential(make_role(postgres), host="127.0.0.1"))
        assert caught.value.what.endswith('does not match host name "127.0.0.1".')
        assert caught.value.hint == errors.TlsError.hint


class TestNames:
    @pytest.mark.parametrize(
        ("own", "name", "fits"),
        [
            ("db.example.com", "db.example.com", True),
            ("db.example.com", "DB.Example.Com", True),
            ("*.example.com", "db.example.com", True),
            ("*.example.com", "a.db.example.com", False),
            ("*.example.com", "example.com", False),
            ("*.com", ".com", False),
            ("localhost", "127.0.0.1", False),
            ("127.0.0.1", "127.0.0.1", True),
        ],
    )
    def test_fit_as_libpq_compares_them(self, own: str, name: str, *, fits: bool) -> None:
        assert certificate(own).fits(name) is fits

    def test_are_the_subjects_only_where_there_are_no_others(self) -> None:
        subject = ((("organizationName", "x"),), (("commonName", "old.example"),))
        assert tls._names({"subject": subject}) == ("old.example",)
        assert tls._names({"subject": subject, "subjectAltName": (("DNS", "new.example"),)}) == ("new.example",)

    def test_are_told_so_that_a_log_can_take_them(self) -> None:
        assert tls._names({"subjectAltName": (("DNS", "a\nb" + "x" * 200),)}) == ("a\\nb" + "x" * 97,)
        told = str(certificate(*map(str, range(9))))
        assert told.startswith("the certificate is for 0, 1, 2, 3, 4 and 4 more, issued by an authority")
        assert "no name at all" in str(certificate())

    def test_of_the_issuer_are_looked_for(self) -> None:
        assert tls._issuer({"issuer": ((("organizationName", "x"),),)}) == "x"
        assert tls._issuer({}) == "an issuer without a name"


class TestAdvice:
    def test_for_no_tls(self) -> None:
        told, hint = tls.advise(None, "db", SHIPPED_BUNDLE)
        assert told == ""
        assert '`"ssl": false`' in (hint or "")

    @pytest.mark.parametrize(
        ("seen", "hint"),
        [
            (certificate("db", days=-2), "it has expired"),
            (certificate("db", days=-2, distrust="certificate has expired"), "it has expired"),
            (certificate("db", distrust="no"), "PGSSLROOTCERT"),
            (certificate("db", distrust="no", issuer="Amazon RDS eu-central-1 Root CA RSA9999 G9"), "make bundle"),
            (certificate("other"), "Use other as `host`"),
            (certificate(), "Use the certificate's name as `host`"),
        ],
    )
    def test_for_each_cause(self, seen: tls.Certificate, hint: str) -> None:
        told, advice = tls.advise(seen, "db", SHIPPED_BUNDLE)
        assert told.startswith("Asked for db; the certificate is for ")
        assert "trusted are the shipped RDS and Amazon roots" in told
        assert advice is not None
        assert hint in advice

    def test_is_the_general_one_where_the_certificate_is_not_the_cause(self) -> None:
        assert tls.advise(certificate("db"), "db", SHIPPED_BUNDLE)[1] is None


class TestRoots:
    @pytest.mark.parametrize(
        ("name", "region"),
        [
            ("db.c1x2y3.eu-west-1.rds.amazonaws.com", "eu-west-1"),
            ("DB.c1x2y3.EU-WEST-1.rds.amazonaws.com.", "eu-west-1"),
            ("clu.cluster-ro-c1x2y3.us-east-2.rds.amazonaws.com", "us-east-2"),
            ("pool.proxy-c1x2y3.ap-northeast-3.rds.amazonaws.com", "ap-northeast-3"),
            ("db.c1x2y3.us-gov-west-1.rds.amazonaws.com", "us-gov-west-1"),
            ("db.c1x2y3.rds.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("clu.global-c1x2y3.global.rds.amazonaws.com", None),
            ("eu-west-1.rds.amazonaws.com", None),
            ("db.c1x2y3.eu-west-1.rds.amazonaws.com.example", None),
            ("db.c1x2y3.../x-1.rds.amazonaws.com", None),
            ("db.example", None),
            ("10.0.0.1", None),
            ("", None),
        ],
    )
    def test_are_those_of_the_endpoints_region(self, name: str, region: str | None) -> None:
        assert tls.region_of(name) == region
        file = Path(SHIPPED_BUNDLE).with_name(f"{region}.pem")
        covered = region is not None and file.exists()
        assert tls.roots_for(SHIPPED_BUNDLE, name) == (str(file) if covered else SHIPPED_BUNDLE)
        assert tls.missing_region(SHIPPED_BUNDLE, name) == (None if covered else region)
        assert tls.describe(tls.roots_for(SHIPPED_BUNDLE, name)).endswith(f" for {region}") == covered

    @pytest.mark.parametrize("own", [PLATFORM_ROOTS, "/opt/ca.pem"])
    def test_of_the_users_own_stay_as_they_are(self, own: str) -> None:
        assert tls.roots_for(own, "db.c1x2y3.eu-west-1.rds.amazonaws.com") == own
        assert tls.missing_region(own, "db.c1x2y3.us-gov-west-1.rds.amazonaws.com") is None

    def test_of_another_region_do_not_verify_an_endpoint(
        self, postgres: PostgresServer, make_role: Callable[..., Role], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The driver and the second look take the same file: that of the name which is verified, not all of them."""
        (tmp_path / "all.pem").write_text(Path(str(postgres.ca_file)).read_text())
        shutil.copy(Path(SHIPPED_BUNDLE).with_name("eu-west-1.pem"), tmp_path)
        monkeypatch.setattr(tls, "SHIPPED_BUNDLE", str(tmp_path / "all.pem"))
        database = Postgres(SslMode.VERIFY_CA, str(tmp_path / "all.pem"), Deadline.after(60_000))
        login = credential(make_role(postgres))
        database.log_in(login).close()
        elsewhere = replace(login, tls_server_name="db.c1x2y3.eu-west-1.rds.amazonaws.com")
        with pytest.raises(errors.TlsError, match="trusted are the shipped RDS and Amazon roots for eu-west-1: "):
            database.log_in(elsewhere)

    def test_of_rds_and_amazon_are_shipped_and_valid_for_years(self) -> None:
        roots = tls.read_roots(SHIPPED_BUNDLE)
        assert roots.count >= 80
        assert roots.days_left > 365
        names = Path(SHIPPED_BUNDLE).read_text()
        for name in ("Amazon Root CA 1", "Amazon RDS eu-central-1 Root CA RSA2048 G1"):
            assert name in names

    def test_that_are_none_are_refused(self, tmp_path: Path) -> None:
        leaf = trustme.CA().issue_cert("db.example")
        leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "leaf.pem"))
        with pytest.raises(errors.ConfigurationError, match=r"leaf\.pem holds no certificate of an authority"):
            tls.read_roots(str(tmp_path / "leaf.pem"))


class TestPlatform:
    def test_is_trusted_where_the_driver_would_look_elsewhere(
        self,
        postgres: PostgresServer,
        make_role: Callable[..., Role],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", "")  # put back afterwards, since the door sets it
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: SimpleNamespace(cafile=str(postgres.ca_file)))
        database = Postgres(SslMode.VERIFY_FULL, PLATFORM_ROOTS, Deadline.after(60_000))
        with database.log_in(credential(make_role(postgres))) as session:
            assert session.encryption == "TLSv1.3"

    def test_is_the_platforms_and_not_that_of_the_machine_which_built_the_driver(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "roots.pem").touch()
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: SimpleNamespace(cafile=None))
        monkeypatch.setattr(tls, "_PLATFORM_FILES", (str(tmp_path / "none.pem"), str(tmp_path / "roots.pem")))
        assert tls.platform_roots() == str(tmp_path / "roots.pem")
        monkeypatch.setattr(tls, "_PLATFORM_FILES", ())
        with pytest.raises(errors.ConfigurationError, match="no file of certificates") as caught:
            tls.platform_roots()
        assert "SSL_CERT_FILE" in caught.value.hint


def test_channel_binding_is_used_where_the_server_offers_it(
    postgres: PostgresServer, make_role: Callable[..., Role]
) -> None:
    """It ties a login to its TLS connection (RFC 5929). libpq does not tell whether it did, only what it was asked."""
    role = make_role(postgres)
    with door(postgres).log_in(credential(role)) as session:
        asked = session._connection.info.dsn_parameters
    assert asked["channel_binding"] == "prefer"
    postgres.connect(role.name, role.password, channel_binding="require").close()
