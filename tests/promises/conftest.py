"""Rotations by the thousand: what a secret says, and what becomes of its text, is found out once for each text."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import pytest

from rotation_lambda import credential

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("read_object", "renew"):
            patch.setattr(credential, name, lru_cache(1000)(getattr(credential, name)))
        parse = lru_cache(1000)(partial(_parse, credential.Credential.parse))
        patch.setattr(credential.Credential, "parse", lambda text, keys=(): parse(text, tuple(dict(keys).items())))
        yield


def _parse(parse: Callable[..., credential.Credential], text: str, keys: tuple[Any, ...]) -> credential.Credential:
    return parse(text, dict(keys))
