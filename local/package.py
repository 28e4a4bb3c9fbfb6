"""What is deployed without SAM: for each architecture a zip, and the template that names the zip in a bucket."""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from local import ROOT
from local.release import ARCHITECTURES, NAME, NotReadyError, build, pack
from local.terminal import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

FOLDER = ROOT / "build" / "package"
_ARCHITECTURE, _CODE = "      Architecture: x86_64\n", "      CodeUri: lambda\n"


def template_for(architecture: str, text: str, bucket: str, key: str) -> str:
    """Return template.yaml for an architecture, with its code in a bucket; ${AWS::Region} in `bucket` is filled in.

    What `sam publish` needs is left out, since it names files of the repository.
    """
    for place in (_ARCHITECTURE, _CODE):
        if text.count(place) != 1:
            raise NotReadyError(f"template.yaml has no line {place.strip()!r}, or more than one.")
    code = f"      CodeUri: {{Bucket: !Sub '{bucket}', Key: '{key}'}}\n"
    text = re.sub(r"^  AWS::ServerlessRepo::Application:\n(    .*\n)+", "", text, flags=re.MULTILINE)
    return text.replace(_ARCHITECTURE, f"      Architecture: {architecture}\n").replace(_CODE, code)


def package(
    folder: Path, bucket: str, prefix: str = "", build: Callable[[str, Path], None] = build
) -> Iterator[tuple[Path, Path, str]]:
    """Make zip and template of each architecture in `folder`; yield both, and the key of the zip in the bucket.

    The zip's name changes with its content, so that CloudFormation deploys a new one.
    """
    text = (ROOT / "template.yaml").read_text(encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for architecture in ARCHITECTURES:
        packed = folder / "new.zip"
        with TemporaryDirectory(dir=folder) as work:
            build(architecture, folder / work)
            pack(folder / work, packed)
        digest = hashlib.sha256(packed.read_bytes()).hexdigest()[:12]
        file = packed.rename(folder / f"{NAME}-{architecture}-{digest}.zip")
        template = folder / f"template-{architecture}.yaml"
        template.write_text(template_for(architecture, text, bucket, prefix + file.name), encoding="utf-8")
        yield file, template, prefix + file.name


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what `make package` asks; return the exit status."""
    parser = argparse.ArgumentParser(prog="make package", description=__doc__)
    parser.add_argument("--bucket", default="", help="where the zips will be, ${AWS::Region} in it is filled in")
    parser.add_argument("--prefix", default="", help="what their keys begin with, such as rotation/")
    options = parser.parse_args(arguments)
    if not options.bucket:
        parser.error("Name the bucket that will have the zips: make package BUCKET=my-bucket")
    for file, template, key in package(FOLDER, options.bucket, options.prefix):
        place = f"s3://{options.bucket}/{key}"
        sys.stdout.write(f"{template.relative_to(ROOT)} deploys {place}. Upload it:\n")
        sys.stdout.write(f"  aws s3 cp {file.relative_to(ROOT)} '{place}'\n")
    return 0


if __name__ == "__main__":
    run(main)
