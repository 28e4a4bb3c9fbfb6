"""A preflight of every secret that this function rotates, as many as one invocation has time for."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rotation_lambda import clients
from rotation_lambda.deadline import MINIMUM_S, REPORT_S, Deadline
from rotation_lambda.preflight.findings import Report
from rotation_lambda.preflight.run import run
from rotation_lambda.preflight.secret import is_same_function
from rotation_lambda.secrets_manager import SecretsManager

LOOK_S = 60.0
"""What one secret may take at most: a server that does not answer must not cost all others their turn."""

MOST_BYTES = 5_000_000
"""What an answer has at most: Lambda fails an invocation that returns more than 6 MB (AWS: Lambda quotas)."""

_FIRST = ("failed", "warning", "left_out", "ok", "not reached")
_GOLDEN = (5**0.5 - 1) / 2
_DAY_S = 86_400


def run_all(
    environment: Mapping[str, str], tell: Callable[[Report], None], *, seconds: float, function_arn: str
) -> list[str]:
    """Hand the report of each secret to `tell` as soon as it is there; return the secrets that there was no time for.

    Raises SecretsManagerError, or one of its kinds, where the secrets cannot be listed.
    """
    end = time.monotonic() + seconds - REPORT_S
    keeper = SecretsManager(clients.secrets_manager(), "*", Deadline(end))
    rotated = (arn for arn, its in keeper.list_secrets().items() if its and is_same_function(its, function_arn))
    waiting = in_turn(rotated, time.time() / _DAY_S)
    while waiting and (left := end - time.monotonic()) >= MINIMUM_S:
        tell(run(waiting.pop(0), environment, seconds=min(left, LOOK_S), function_arn=function_arn))
    return waiting


def in_turn(secrets: Iterable[str], days: float) -> list[str]:
    """Return the secrets in the order in which they are looked at, `days` after the epoch.

    Nothing remembers which secret was not reached. So the beginning moves on each day by the golden ratio of their
    number, which spreads what is reached evenly, however much that is: where one invocation in a day reaches a third of
    the secrets, each is looked at within any six days, twice the three that a round over all would take.
    """
    ordered = sorted(secrets)
    start = int(len(ordered) * (days * _GOLDEN % 1))
    return ordered[start:] + ordered[:start]


def answer(reports: Iterable[dict[str, Any]], left_out: Iterable[str]) -> dict[str, Any]:
    """Return what the function answers, however many secrets it has.

    `reports` begin with the worst, `left_out` names the secrets that there was no time for. What there is no room for
    is counted by status in `omitted`; the log has it all.
    """
    lists: dict[str, list[Any]] = {"reports": [], "left_out": []}
    parts: list[tuple[str, str, Any]] = [("left_out", "left_out", name) for name in left_out]
    parts += [("reports", report["status"], report) for report in reports]
    omitted, room = Counter[str](), MOST_BYTES
    for key, status, part in sorted(parts, key=lambda part: _FIRST.index(part[1])):
        room -= len(json.dumps(part)) + len(", ")
        if room < 0:
            omitted[status] += 1
        else:
            lists[key].append(part)
    return {**lists, "omitted": dict(omitted)} if omitted else {**lists}
