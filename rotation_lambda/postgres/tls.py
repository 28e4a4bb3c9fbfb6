"""What a server's certificate says: its names, its issuer, its end, and why it is not trusted."""

import re
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rotation_lambda.errors import ConfigurationError
from rotation_lambda.settings import PLATFORM_ROOTS, SHIPPED_BUNDLE

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # PostgreSQL 53.7, SSLRequest
_NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which the ssl module has no name
_PLATFORM_FILES = (
    "/etc/pki/tls/cert.pem",  # Amazon Linux, which Lambda runs on
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/certs/ca-certificates.crt",  # Debian
    "/etc/ssl/cert.pem",  # Alpine, macOS
)
ADD_ROOTS = (
    "Add the roots of the server's Region to the function: run `make bundle ARGS=--update` and deploy it again (for "
    "GovCloud and China add --source and the address of their bundle), or set PGSSLROOTCERT to the Region's bundle."
)
_MOST_NAMES = 5
_REGION = r"([a-z]+(?:-[a-z]+)+-[0-9]+)"
_RDS_ENDPOINT = re.compile(rf".+\.(?:{_REGION}\.rds|rds\.{_REGION})\.amazonaws\.com(?:\.cn)?")  # China: Region last


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's certificate; `distrust` is why it does not chain to the roots, None where it does."""

    names: tuple[str, ...]
    issuer: str
    expires: datetime
    distrust: str | None
    protocol: str

    @property
    def days_left(self) -> int:
        """How many whole days it is still valid; negative once it has expired."""
        return (self.expires - datetime.now(UTC)).days

    def fits(self, name: str) -> bool:
        """Tell whether it is for the name, as libpq compares them (PostgreSQL 32.19.1)."""
        first, _, rest = name.lower().partition(".")
        return any(own.lower() in {name.lower(), f"*.{rest}" if first and rest else ""} for own in self.names)

    def __str__(self) -> str:
        """Return what a person compares with what was asked for; all of it is the server's own claim."""
        names = ", ".join(self.names[:_MOST_NAMES]) or "no name at all"
        more = f" and {len(self.names) - _MOST_NAMES} more" if len(self.names) > _MOST_NAMES else ""
        return f"the certificate is for {names}{more}, issued by {self.issuer}, valid until {self.expires:%Y-%m-%d}"


@dataclass(frozen=True, slots=True)
class Roots:
    """The certificates of a bundle: how many, when the first of them expires, when the newest was made."""

    count: int
    first_expires: datetime
    newest: datetime

    @property
    def days_left(self) -> int:
        """How many whole days all of them are still valid."""
        return (self.first_expires - datetime.now(UTC)).days


def read_roots(sslrootcert: str) -> Roots:
    """Return what the bundle holds; ConfigurationError where that is not one certificate."""
    found = _trusting(sslrootcert).get_ca_certs()
    if not found:
        raise ConfigurationError(f"{describe(sslrootcert)} holds no certificate of an authority.")
    ends, begins = ([_moment(str(one[key])) for one in found] for key in ("notAfter", "notBefore"))
    return Roots(len(found), min(ends), max(begins))


def region_of(name: str) -> str | None:
    """Return the Region of an endpoint of RDS; None for any other name."""
    match = _RDS_ENDPOINT.fullmatch(name.rstrip(".").lower())
    return (match[1] or match[2]) if match else None


def roots_for(sslrootcert: str, name: str) -> str:
    """Return the file to verify a server of this name with: of the shipped roots those of its Region and Amazon's.

    libpq reads the file at every login, which with the roots of all Regions takes as long as the rest of the login.
    """
    file = Path(SHIPPED_BUNDLE).with_name(f"{region_of(name)}.pem")
    return str(file) if sslrootcert == SHIPPED_BUNDLE and file.is_file() else sslrootcert


def missing_region(sslrootcert: str, name: str) -> str | None:
    """Return the Region of an endpoint of RDS whose roots are not shipped, where the shipped ones are used."""
    return region_of(name) if roots_for(sslrootcert, name) == SHIPPED_BUNDLE else None


def describe(sslrootcert: str) -> str:
    """Return a short name of the bundle, for messages."""
    file, shipped = Path(sslrootcert), Path(SHIPPED_BUNDLE)
    if file.parent == shipped.parent:
        return f"the shipped RDS and Amazon roots{'' if file == shipped else f' for {file.stem}'}"
    if sslrootcert == PLATFORM_ROOTS:
        return f"the platform's roots ({platform_roots()})"
    return sslrootcert


def platform_roots() -> str:
    """Return the file with the platform's roots; ConfigurationError where it has none.

    `sslrootcert=system` lets OpenSSL look where it was configured to, which for the OpenSSL inside psycopg2-binary is a
    folder of the machine that built the wheel. Only SSL_CERT_FILE leads it elsewhere (OpenSSL, SSL_CTX_load_verify_
    locations); Python's own OpenSSL is the platform's, as a rule, and knows the place.
    """
    for file in (ssl.get_default_verify_paths().cafile, *_PLATFORM_FILES):
        if file and Path(file).is_file():
            return file
    raise ConfigurationError(
        "PGSSLROOTCERT is 'system', and the platform has no file of certificates.",
        hint="Set SSL_CERT_FILE to the platform's roots, or PGSSLROOTCERT to a file of your own.",
    )


def look_at(address: str, port: int, name: str, sslrootcert: str, seconds: float) -> Certificate | None:
    """Return the certificate of a PostgreSQL server, trusted or not; None where it offers no TLS; OSError if silent.

    Nothing but TLS's own greetings is sent. The ssl module reads no certificate that it does not trust, so that one is
    fetched, then trusted as its own root for a second look, whatever its dates; the third asks the bundle.
    """
    end = time.monotonic() + seconds
    anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anything.check_hostname, anything.verify_mode = False, ssl.CERT_NONE
    first = _greet(address, port, name, anything, end)
    if first is None:
        return None
    der, _, protocol = first
    itself = _trusting(der=der)
    itself.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    _, said, _ = _greet(address, port, name, itself, end) or first
    distrust = None
    try:
        _greet(address, port, name, _trusting(roots_for(sslrootcert, name)), end)
    except ssl.SSLCertVerificationError as error:
        distrust = error.verify_message
    return Certificate(_names(said), _issuer(said), _moment(said["notAfter"]), distrust, protocol)


def advise(certificate: Certificate | None, name: str, sslrootcert: str) -> tuple[str, str | None]:
    """Return what is known about a server whose TLS libpq rejected, and the hint: None where no cause is found."""
    if certificate is None:
        return "", (
            "Switch TLS on in the server, or correct the port (RDS always offers TLS). For a server that is to stay "
            'without TLS, set `"ssl": false` as docs/runbook.md#change-the-secret shows.'
        )
    told = f"Asked for {name}; {certificate}; trusted are {describe(roots_for(sslrootcert, name))}."
    if certificate.days_left < 0:
        return told, (
            "Renew the server's certificate: it has expired. On RDS: `aws rds modify-db-instance "
            "--db-instance-identifier ID --ca-certificate-identifier rds-ca-rsa2048-g1`."
        )
    if certificate.distrust is not None:
        told = f"{told[:-1]}: {certificate.distrust}."
        if "Amazon" in certificate.issuer and sslrootcert == SHIPPED_BUNDLE:
            return told, ADD_ROOTS
        return told, (
            "Set PGSSLROOTCERT to the file of the CA that signed the certificate (in a layer it is under /opt), or to "
            "`system` for a public CA. Or give the server a certificate of a CA that is trusted here."
        )
    if not certificate.fits(name):
        own = certificate.names[0] if certificate.names else "the certificate's name"
        return told, (
            f"Use {own} as `host` (on RDS the endpoint, no CNAME and no address), or set `tlsServerName` to it, as "
            f"docs/runbook.md#change-the-secret shows. Or renew the certificate with {name} in it."
        )
    return told, None


def _greet(
    address: str, port: int, name: str, context: ssl.SSLContext, end: float
) -> tuple[bytes, Mapping[str, Any], str] | None:
    """Shake hands and hang up before `end`, whatever is sent in between; None where the server offers no TLS.

    Returns the certificate as it was sent, what it says (nothing, where it is not trusted), and the version of TLS.
    """

    def left() -> float:
        return max(0.01, end - time.monotonic())

    with closing(socket.create_connection((address, port), timeout=left())) as plain:
        plain.sendall(_SSL_REQUEST)
        plain.settimeout(left())
        if plain.recv(1) != b"S":
            return None
        plain.settimeout(left())  # of the whole handshake: the ssl module counts it down
        with context.wrap_socket(plain, server_hostname=name) as encrypted:
            der, said, protocol = encrypted.getpeercert(binary_form=True), encrypted.getpeercert(), encrypted.version()
            encrypted.settimeout(min(0.5, left()))
            with suppress(OSError):  # close it properly, or the server logs a reset connection
                encrypted.unwrap()
            return der or b"", said or {}, protocol or ""


def _trusting(sslrootcert: str | None = None, der: bytes | None = None) -> ssl.SSLContext:
    """Return a context that trusts the bundle, or the one certificate, and takes it under any name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    file = platform_roots() if sslrootcert == PLATFORM_ROOTS else sslrootcert
    context.load_verify_locations(cafile=file, cadata=der)
    return context


def _names(said: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names that count: the subject's common name only where there is no other."""
    names = tuple(_plain(value) for _, value in said.get("subjectAltName", ()))
    return names or tuple(_plain(value) for key, value in _flat(said.get("subject", ())) if key == "commonName")


def _issuer(said: Mapping[str, Any]) -> str:
    parts = dict(_flat(said.get("issuer", ())))
    return _plain(parts.get("commonName") or parts.get("organizationName") or "an issuer without a name")


def _flat(name: Iterable[Iterable[tuple[str, str]]]) -> Iterable[tuple[str, str]]:
    return (part for relative in name for part in relative)


def _plain(text: str) -> str:
    """Return a server's own words cut to 100 characters, and escaped for a log."""
    return ascii(text[:100])[1:-1]


def _moment(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)
