"""Rotations by the thousand: what a secret says, and what becomes of its text, is found out once for each text."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import pytest

from rotation_lambda import credential

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("read_object", "renew"):
            patch.setattr(credential, name, lru_cache(1000)(getattr(credential, name)))
        yield
