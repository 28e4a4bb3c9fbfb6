"""What the README says to do is what the errors and the breakages say, and the shipped bundle is checked."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import trustme

from local import bundle, troubleshooting
from rotation_lambda import errors
from rotation_lambda.settings import SHIPPED_BUNDLE
from tests import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

FILES = {file: file.read_text(encoding="utf-8") for file in ROOT.glob("README*.md")}
README = "\n".join(FILES.values())
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def kinds(kind: type[errors.RotationError] = errors.RotationError) -> Iterator[type[errors.RotationError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from kinds(below)


def test_the_tables_are_up_to_date() -> None:
    """If not: python -m local.troubleshooting."""
    assert {file: troubleshooting.renew(text) for file, text in FILES.items()} == FILES


def test_the_tables_are_there() -> None:
    for name in ("codes", "breakages"):
        assert README.count(f"<!-- {name} -->") == 2
    for kind in kinds():
        assert f"| `{kind.code}` | " in README
        assert kind.hint in README


def test_what_a_hint_refers_to_is_there() -> None:
    for kind in kinds():
        for title in ("Environment", "The secret", "When a rotation is stuck"):
            if f"«{title}»" in kind.hint:
                assert f"# {title}\n" in README


def test_a_table_that_is_old_is_renewed() -> None:
    old = "a\n<!-- codes -->\nold\n<!-- codes -->\nb\n"
    new = troubleshooting.renew(old)
    assert new.startswith("a\n<!-- codes -->\n| `code` | ")
    assert new.endswith(" |\n<!-- codes -->\nb\n")
    assert "old" not in new.splitlines()


class TestBundle:
    def test_that_is_shipped_is_all_right(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert bundle.faults(SHIPPED_BUNDLE, NOW) == []
        assert bundle.main() == 0
        assert "  86  in rds-global-bundle.pem; the first expires on 2037-12-31" in capsys.readouterr().out

    def test_is_too_old_in_the_year_before_its_first_root_expires(self) -> None:
        [fault] = bundle.faults(SHIPPED_BUNDLE, datetime(2037, 1, 10, tzinfo=UTC))
        assert fault == "Starfield Services Root Certificate Authority - G2 expires on 2037-12-31."

    def test_has_roots_only_and_each_once(self, tmp_path: Path) -> None:
        file = tmp_path / "bundle.pem"
        shipped = Path(SHIPPED_BUNDLE).read_text(encoding="utf-8")
        first = shipped.partition("-----END CERTIFICATE-----\n")
        leaf = trustme.CA().issue_cert("x").cert_chain_pems[0].bytes().decode()
        for more in ("".join(first[:2]), leaf):
            file.write_text(shipped + more)
            [fault] = bundle.faults(str(file), NOW)
            assert fault == "The file has 87 certificates, of which 1 are no roots or there twice."

    def test_has_enough_roots(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        trustme.CA().cert_pem.write_to_path(str(tmp_path / "one.pem"))
        monkeypatch.setattr(bundle, "SHIPPED_BUNDLE", str(tmp_path / "one.pem"))
        assert bundle.main() == 1
        assert "There are 1 roots" in capsys.readouterr().out
