"""What speaks for a secret beside its value, which proves nothing: its writer can write anything."""

from collections.abc import Callable
from dataclasses import dataclass

from rotation_lambda.credential import Credential

TAG = "rotation:users"
"""The secret's tag with the names, separated by spaces, of users whose passwords may be changed for it."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What a superuser's change of a user's password goes by, for a secret whose login is `current`.

    `is_ours` tells of a user whether one of the secret's passwords is accepted for it, or the secret's TAG names it.
    `runs_as` is the role that AWSCURRENT's own session runs as; None where it was not let in. `pinned` is true where
    not the secret alone names its superuser (SUPERUSER_SECRET_ARNS).
    """

    current: Credential
    is_ours: Callable[[str], bool]
    runs_as: str | None = None
    pinned: bool = False
