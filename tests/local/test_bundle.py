"""The bundle that ships has enough roots, nothing but roots, and none that expires soon."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import trustme

from local import bundle
from rotation_lambda.settings import SHIPPED_BUNDLE

if TYPE_CHECKING:
    import pytest

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def test_the_shipped_one_is_all_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert bundle.faults(SHIPPED_BUNDLE, NOW) == []
    assert bundle.main() == 0
    assert "  86  in rds-global-bundle.pem; the first expires on 2037-12-31" in capsys.readouterr().out


def test_is_too_old_in_the_year_before_its_first_root_expires() -> None:
    [fault] = bundle.faults(SHIPPED_BUNDLE, datetime(2037, 1, 10, tzinfo=UTC))
    assert fault == "Starfield Services Root Certificate Authority - G2 expires on 2037-12-31."


def test_has_roots_only_and_each_once(tmp_path: Path) -> None:
    file = tmp_path / "bundle.pem"
    shipped = Path(SHIPPED_BUNDLE).read_text(encoding="utf-8")
    first = shipped.partition("-----END CERTIFICATE-----\n")
    leaf = trustme.CA().issue_cert("x").cert_chain_pems[0].bytes().decode()
    for more in ("".join(first[:2]), leaf):
        file.write_text(shipped + more)
        [fault] = bundle.faults(str(file), NOW)
        assert fault == "The file has 87 certificates, of which 1 are no roots or there twice."


def test_has_enough_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "one.pem"))
    monkeypatch.setattr(bundle, "SHIPPED_BUNDLE", str(tmp_path / "one.pem"))
    assert bundle.main() == 1
    assert "There are 1 roots" in capsys.readouterr().out
