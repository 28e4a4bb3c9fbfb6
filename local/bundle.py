"""Show the root certificates that the function ships, check them, and bring them up to date."""

from __future__ import annotations

import argparse
import re
import ssl
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import botocore.session
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from local import StoppedError
from local.terminal import Screen, run
from rotation_lambda.settings import SHIPPED_BUNDLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOTS = Path(SHIPPED_BUNDLE).parent
SOURCE = "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"
"""What AWS publishes for its commercial Regions; GovCloud and China have files of their own."""

FEWEST = 80
"""RDS has three roots in each Region, RDS Proxy chains to Amazon's own."""

SOON_DAYS = 365
AMAZON = "Amazon"
UNCHANGED = "Nothing was changed."
_RDS = re.compile(r"Amazon RDS ([a-z]+(?:-[a-z]+)+-\d+) Root CA \w+ G\d+")  # neither Beta nor Preview
_AMAZON = re.compile(r"Amazon Root CA \d|Starfield Services Root Certificate Authority - G2")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\n[\w+/=\n]+\n-----END CERTIFICATE-----", re.ASCII)
_LARGEST = 5_000_000


@dataclass(frozen=True, slots=True, order=True)
class Root:
    """A root certificate; `family` is the Region whose RDS it is of, or AMAZON."""

    family: str
    name: str
    expires: datetime
    pem: str


def read(text: str, now: datetime) -> tuple[list[Root], list[str]]:
    """Return the roots of RDS and Amazon in a PEM text, and why each other certificate is none, in whole sentences."""
    roots, others = set(), []
    for pem in _PEM.findall(text):
        with warnings.catch_warnings():  # of Starfield's serial number, which is 0
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            certificate = x509.load_pem_x509_certificate(pem.encode())
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        name = str(names[0].value) if names else certificate.subject.rfc4514_string()
        expires = certificate.not_valid_after_utc
        family = match[1] if (match := _RDS.fullmatch(name)) else AMAZON if _AMAZON.fullmatch(name) else None
        if family is None:
            others.append(f"{name} is not a root of RDS in a Region, or of Amazon.")
        elif not _is_root(certificate):
            others.append(f"{name} is not self-signed.")
        elif expires <= now:
            others.append(f"{name} expired on {expires:%Y-%m-%d}.")
        else:
            roots.add(Root(family, name, expires, certificate.public_bytes(Encoding.PEM).decode()))
    return sorted(roots), others


def faults(folder: Path, now: datetime) -> list[str]:
    """Return what is wrong with the shipped files, in whole sentences."""
    text = (folder / "all.pem").read_text(encoding="utf-8")
    roots, found = read(text, now)
    if len(roots) < FEWEST:
        found.append(f"There are {len(roots)} roots; of RDS and Amazon there are {FEWEST} at least.")
    found += [f"{one.name} expires on {one.expires:%Y-%m-%d}." for one in roots if (one.expires - now).days < SOON_DAYS]
    due = _files(roots)
    there = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.pem")}
    found += [f"{name} is not what it has to be." for name in sorted(due | there) if due.get(name) != there.get(name)]
    return found


def regions(roots: Iterable[Root]) -> tuple[list[str], list[str]]:
    """Return the Regions that are covered, and those of botocore's list for RDS that are not."""
    covered = {root.family for root in roots} - {AMAZON}
    session = botocore.session.get_session()
    partitions = [name for name in session.get_available_partitions() if not name.startswith("aws-iso")]
    known = {region for partition in partitions for region in session.get_available_regions("rds", partition)}
    return sorted(covered), sorted(known - covered)


def shipped(folder: Path = ROOTS) -> list[Root]:
    """Return the roots that the function ships."""
    return read((folder / "all.pem").read_text(encoding="utf-8"), datetime.now(UTC))[0]


def fetch(url: str) -> str:
    """Return what is published at the address; StoppedError unless each step of the way there was verified HTTPS."""
    if not url.startswith("https://"):
        raise StoppedError(f"{url} is not an https:// address. {UNCHANGED}")
    try:
        with urlopen(url, timeout=20, context=ssl.create_default_context()) as answer:  # noqa: S310 - https, see above
            if not answer.geturl().startswith("https://"):
                raise StoppedError(f"{url} leads to {answer.geturl()}, which is not HTTPS. {UNCHANGED}")
            return str(answer.read(_LARGEST).decode("ascii", errors="replace"))
    except (OSError, HTTPException, ValueError) as error:
        raise StoppedError(f"{url} cannot be fetched: {getattr(error, 'reason', error)}. {UNCHANGED}") from error


def update(folder: Path, text: str, now: datetime) -> list[str]:
    """Write the roots of the text, and the shipped ones of families that it does not cover; return what changes."""
    found, others = read(text, now)
    if not found:
        raise StoppedError(f"There is no root of RDS or Amazon in it. {UNCHANGED}")
    before = shipped(folder)
    covered = {root.family for root in found}
    after = sorted({*found, *(root for root in before if root.family not in covered)})
    files = _files(after)
    for file in folder.glob("*.pem"):
        if file.name not in files:
            file.unlink()
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    changes = [f"- {root.name}, until {root.expires:%Y-%m-%d}" for root in before if root not in after]
    changes += [f"+ {root.name}, until {root.expires:%Y-%m-%d}" for root in after if root not in before]
    return [*(f"  left out: {sentence}" for sentence in others), *(changes or ["  No root has changed."])]


def _files(roots: Sequence[Root]) -> dict[str, str]:
    """Return the content of each file: a Region's has Amazon's roots too, since RDS Proxy chains to them."""
    families = {root.family for root in roots} - {AMAZON}
    members = {family: [root for root in roots if root.family in {family, AMAZON}] for family in families}
    return {
        f"{name}.pem": "".join(f"# {one.name}, until {one.expires:%Y-%m-%d}\n{one.pem}" for one in some)
        for name, some in {"all": roots, **members}.items()
    }


def _is_root(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return 1, after what is wrong, where something is."""
    parser = argparse.ArgumentParser(prog="make bundle", description=__doc__)
    parser.add_argument("--update", action="store_true", help="fetch what AWS publishes, and change the files")
    parser.add_argument("--source", metavar="URL", default=SOURCE, help="where to fetch from (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=ROOTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    now = datetime.now(UTC)
    if options.update:
        changes = update(options.folder, fetch(options.source), now)
        sys.stdout.write("".join(f"{line}\n" for line in changes))
    roots = shipped(options.folder)
    for (year, family), number in sorted(Counter((one.expires.year, _kind(one)) for one in roots).items()):
        sys.stdout.write(f"{number:4}  {family}, until {year}\n")
    first = min(root.expires for root in roots)
    sys.stdout.write(f"{len(roots):4}  in all; the first expires on {first:%Y-%m-%d}\n")
    for title, names in zip(("Covered", "Not covered"), regions(roots), strict=True):
        Screen().say(f"{title} ({len(names)} Regions): {', '.join(names)}", indent="  ")
    wrong = faults(options.folder, now)
    sys.stdout.write("".join(f"{sentence}\n" for sentence in wrong))
    if wrong:
        sys.stdout.write("Fetch what AWS publishes: make bundle ARGS=--update\n")
    return 1 if wrong else 0


def _kind(root: Root) -> str:
    """Name the kind of a root: those of RDS differ by Region only."""
    return root.name if root.family == AMAZON else f"Amazon RDS ... {root.name.partition(' Root CA ')[2]}"


if __name__ == "__main__":
    run(main)
