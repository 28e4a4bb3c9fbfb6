"""Show the certificates that the function ships, and check that there are enough and none is about to expire."""

from __future__ import annotations

import ssl
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from rotation_lambda.settings import SHIPPED_BUNDLE

_Name = tuple[tuple[tuple[str, str], ...], ...]
FEWEST = 80
"""RDS has three roots for each region, RDS Proxy chains to Amazon's own."""

SOON_DAYS = 365
SOURCE = "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"


def read(file: str) -> list[tuple[datetime, str]]:
    """Return when each certificate expires, and its common name, the first to expire first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(file)
    found = []
    for certificate in context.get_ca_certs():
        subject = dict(part for relative in cast("_Name", certificate["subject"]) for part in relative)
        expires = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
        found.append((expires, subject.get("commonName", "a root without a name")))
    return sorted(found)


def faults(file: str, now: datetime) -> list[str]:
    """Return what is wrong with a bundle, in whole sentences."""
    roots = read(file)
    written = Path(file).read_text(encoding="utf-8").count("-----BEGIN CERTIFICATE-----")
    found = []
    if len(roots) < FEWEST:
        found.append(f"There are {len(roots)} roots; of RDS and Amazon there are {FEWEST} at least.")
    if written != len(roots):
        found.append(
            f"The file has {written} certificates, of which {written - len(roots)} are no roots or there twice."
        )
    found += [f"{name} expires on {expires:%Y-%m-%d}." for expires, name in roots if (expires - now).days < SOON_DAYS]
    return found


def main() -> int:
    """Print what is in the bundle; return 1, after what is wrong with it, where something is."""
    roots = read(SHIPPED_BUNDLE)
    for (year, kind), number in sorted(Counter((expires.year, _kind(name)) for expires, name in roots).items()):
        sys.stdout.write(f"{number:4}  {kind}, until {year}\n")
    sys.stdout.write(f"{len(roots):4}  in {Path(SHIPPED_BUNDLE).name}; the first expires on {roots[0][0]:%Y-%m-%d}\n")
    wrong = faults(SHIPPED_BUNDLE, datetime.now(UTC))
    for sentence in wrong:
        sys.stdout.write(f"{sentence}\n")
    if wrong:
        sys.stdout.write(f"Get the newest from {SOURCE}.\n")
    return 1 if wrong else 0


def _kind(name: str) -> str:
    """Name the family of a root: those of RDS differ by region only."""
    return f"Amazon RDS … {name.partition(' Root CA ')[2] or 'Root CA'}" if name.startswith("Amazon RDS ") else name


if __name__ == "__main__":
    sys.exit(main())
