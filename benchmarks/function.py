"""The measured process: loads a handler as Lambda's runtime does, takes events, and tells what each of them took.

It imports next to nothing, for all of it counts as the function's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from types import SimpleNamespace
from typing import Any

TIMEOUT_S = 60
CONTEXT = SimpleNamespace(
    function_name="rotation",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:rotation",
    aws_request_id="benchmark",
    get_remaining_time_in_millis=lambda: TIMEOUT_S * 1000,
)


def main(name: str, began: str) -> None:
    """Load the handler MODULE.FUNCTION; `began` is when the process was started, on the monotonic clock."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the function logs
    module, _, function = name.rpartition(".")
    handler = getattr(import_module(module), function)

    def tell(**what: object) -> None:
        print(json.dumps(what), file=answers, flush=True)

    def invoke(event: dict[str, str]) -> str:
        try:
            handler(event, CONTEXT)
        except Exception as error:  # noqa: BLE001 - Lambda, too, reports whatever it is
            return type(error).__name__
        return ""

    tell(wall=time.monotonic() - float(began), cpu=time.process_time())
    for line in sys.stdin:
        order: Any = json.loads(line)
        if isinstance(order, list):
            _rotate_many(order, invoke, tell)
            continue
        wall, cpu = time.monotonic(), time.process_time()
        error = invoke(order)
        tell(wall=time.monotonic() - wall, cpu=time.process_time() - cpu, error=error)


def _rotate_many(shares: list[list[list[dict[str, str]]]], invoke: Any, tell: Any) -> None:  # noqa: ANN401
    """Take, in a process for each share, the events of one rotation after the other; tell how each rotation ended.

    As Secrets Manager does, it goes no further with a rotation that has failed, or whose step took too long.
    """
    for share in shares:
        if os.fork() == 0:
            for events in share:
                for event in events:
                    began = time.monotonic()
                    error = invoke(event)
                    if time.monotonic() - began > TIMEOUT_S:
                        error = error or "Sandbox.Timedout"
                    if error:
                        break
                tell(token=event["ClientRequestToken"], step=event["Step"], error=error)
            os._exit(0)
    for _ in shares:
        os.wait()
    tell(over=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
