"""The certificates that ship are roots of RDS and Amazon by Region, and an update keeps them so."""

from __future__ import annotations

import re
import shutil
import ssl
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from local import StoppedError, bundle
from rotation_lambda.settings import SHIPPED_BUNDLE

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 11, 24, tzinfo=UTC)
SHIPPED = Path(SHIPPED_BUNDLE).read_text(encoding="utf-8")
NEW = "Amazon RDS ap-east-2 Root CA RSA2048 G1"
KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(name: str, *, issuer: str | None = None, ca: bool = True, days: int = 3650, other: bool = False) -> str:
    """Make a certificate, self-signed unless it has another `issuer` or an `other` key has signed it."""
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, issuer or name)]
    made = (
        x509.CertificateBuilder(names[1], names[0])
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime.now(UTC) + timedelta(days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(ec.generate_private_key(ec.SECP256R1()) if other else KEY, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the files that ship."""
    return Path(shutil.copytree(bundle.ROOTS, tmp_path / "roots"))


def names(file: Path) -> list[str]:
    return [root.name for root in bundle.read(file.read_text(), NOW)[0]]


class TestShipped:
    def test_is_all_right(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert bundle.faults(bundle.ROOTS, NOW) == []
        assert bundle.main([]) == 0
        told = capsys.readouterr().out
        assert "  86  in all; the first expires on 2037-12-31" in told
        assert "Covered (27 Regions): af-south-1, " in told
        assert "mx-central-1" in told.partition("Not covered")[2]

    def test_has_for_each_region_its_own_roots_and_amazons(self) -> None:
        for region in bundle.regions(bundle.shipped())[0]:
            own = names(bundle.ROOTS / f"{region}.pem")
            assert len(own) == 8
            assert len([name for name in own if f" {region} " in name]) == 3

    def test_is_too_old_in_the_year_before_its_first_root_expires(self) -> None:
        [fault] = bundle.faults(bundle.ROOTS, datetime(2037, 1, 10, tzinfo=UTC))
        assert fault == "Starfield Services Root Certificate Authority - G2 expires on 2037-12-31."

    def test_has_enough_roots(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "all.pem").write_text(bundle.shipped()[0].pem)
        assert bundle.main(["--folder", str(folder)]) == 1
        told = capsys.readouterr().out
        assert "There are 1 roots" in told
        assert "make bundle ARGS=--update" in told

    @pytest.mark.parametrize("name", ["all.pem", "eu-west-1.pem", "new.pem"])
    def test_is_one_thing_in_all_its_files(self, name: str, folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(certificate("Somebody's CA"))
        assert f"{name} is not what it has to be." in bundle.faults(folder, NOW)


class TestRoot:
    def test_is_told_from_what_is_none(self) -> None:
        root = certificate(NEW)
        text = "".join(
            (
                root,
                root,
                certificate("Amazon RDS Preview Root CA RSA2048 G1"),
                certificate("Amazon RDS Beta us-east-1 Root CA RSA2048 G1"),
                certificate("Somebody's CA"),
                certificate("Amazon RDS eu-west-1 Root CA RSA2048 G9", issuer="another"),
                certificate("Amazon RDS eu-west-1 Root CA RSA2048 G8", other=True),
                certificate("Amazon RDS eu-west-1 Root CA RSA2048 G7", ca=False),
                certificate("Amazon Root CA 9", days=-1),
            )
        )
        roots, others = bundle.read(text, datetime.now(UTC))
        assert [(root.family, root.name) for root in roots] == [("ap-east-2", NEW)]
        assert [sentence.rpartition(" is ")[2] for sentence in others[:-1]] == [
            *["not a root of RDS in a Region, or of Amazon."] * 3,
            *["not self-signed."] * 3,
        ]
        assert others[-1].startswith("Amazon Root CA 9 expired on ")

    def test_without_a_common_name_is_none(self) -> None:
        [sentence] = bundle.read(trustme.CA().cert_pem.bytes().decode(), NOW)[1]
        assert "trustme" in sentence


@dataclass(slots=True)
class Site:
    """What a server on this machine publishes by HTTPS, and at `plain` without; `redirect` is where it sends to."""

    url: str = ""
    plain: str = ""
    text: str = ""
    redirect: str = ""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Publish by a server whose authority this process trusts."""
    authority, site = trustme.CA(), Site()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if site.redirect and self.path == "/bundle.pem":
                self.send_response(302)
                self.send_header("Location", site.redirect)
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(site.text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server, HTTPServer(("127.0.0.1", 0), Handler) as plain:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threads = [threading.Thread(target=one.serve_forever, args=(0.01,)) for one in (server, plain)]
        for thread in threads:
            thread.start()
        site.url = f"https://localhost:{server.server_port}/bundle.pem"
        site.plain = f"http://localhost:{plain.server_port}/"
        yield site
        for one, thread in zip((server, plain), threads, strict=True):
            one.shutdown()
            thread.join()


class TestUpdate:
    def update(self, folder: Path, site: Site) -> int:
        return bundle.main(["--update", "--source", site.url, "--folder", str(folder)])

    def test_adds_a_region(self, folder: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
        site.text = SHIPPED + certificate(NEW) + certificate("Somebody's CA")
        assert self.update(folder, site) == 0
        told = capsys.readouterr().out
        assert f"+ {NEW}, until " in told
        assert "left out: Somebody's CA is not a root" in told
        assert "Covered (28 Regions)" in told
        assert NEW in names(folder / "all.pem")
        assert names(folder / "ap-east-2.pem") == [*names(folder / "eu-west-1.pem")[:5], NEW]
        assert bundle.faults(folder, NOW) == []

    def test_takes_away_what_is_no_longer_published(
        self, folder: Path, site: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One root of a Region that is published, and nothing of the others."""
        gone = "Amazon RDS eu-west-1 Root CA RSA4096 G1"
        site.text = "".join(root.pem for root in bundle.shipped() if root.family == "eu-west-1" and root.name != gone)
        assert self.update(folder, site) == 0
        told = capsys.readouterr().out
        assert [line for line in told.splitlines() if line[0] in "+-"] == [f"- {gone}, until 2121-05-20"]
        assert gone not in names(folder / "all.pem")
        assert len(names(folder / "us-east-1.pem")) == 8

    def test_leaves_no_file_of_a_region_that_has_no_root(self, folder: Path, site: Site) -> None:
        (folder / "xx-west-1.pem").write_text(certificate(NEW))
        site.text = SHIPPED
        assert self.update(folder, site) == 0
        assert not (folder / "xx-west-1.pem").exists()

    def test_says_that_nothing_has_changed(self, folder: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
        before = {file.name: file.read_text() for file in folder.iterdir()}
        site.text = SHIPPED
        assert self.update(folder, site) == 0
        assert "No root has changed." in capsys.readouterr().out
        assert {file.name: file.read_text() for file in folder.iterdir()} == before

    @pytest.mark.parametrize(
        ("source", "redirect", "text", "told"),
        [
            ("http://localhost/bundle.pem", "", "", "is not an https:// address"),
            ("https://localhost:1/bundle.pem", "", "", "refused"),
            ("https://localhost:x/bundle.pem", "", "", "nonnumeric port"),
            ("https://127.0.0.1:{port}/bundle.pem", "", SHIPPED, "certificate verify failed"),
            ("", "{plain}", SHIPPED, "which is not HTTPS"),
            ("", "", "<html>", "There is no root of RDS or Amazon in it."),
            ("", "", certificate("Somebody's CA"), "There is no root of RDS or Amazon in it."),
        ],
        ids=["http", "nobody", "no-port", "wrong-name", "redirect", "no-certificate", "no-root"],
    )
    def test_is_refused(
        self,
        source: str,
        redirect: str,
        text: str,
        told: str,
        folder: Path,
        site: Site,
    ) -> None:
        before = {file.name: file.read_text() for file in folder.iterdir()}
        site.text = text
        site.redirect = redirect.format(plain=site.plain)
        site.url = source.format(port=urlsplit(site.url).port) or site.url
        with pytest.raises(StoppedError, match=rf"{re.escape(told)}.* Nothing was changed\.$"):
            self.update(folder, site)
        assert {file.name: file.read_text() for file in folder.iterdir()} == before

    def test_does_not_trust_whoever_answers(self, folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "all.pem"))
        site.text = SHIPPED
        with pytest.raises(StoppedError, match="certificate verify failed"):
            self.update(folder, site)
