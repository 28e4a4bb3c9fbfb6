"""The function in a process of its own for each invocation, so that it can be killed at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any

from local import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TIMEOUT_S = 60
KILLED = "killed"
DONE = "done"


@dataclass(slots=True)
class Worker:
    """Invokes the real handler; one invocation at a time."""

    _master: subprocess.Popen[str] = field(repr=False)
    _pid: int = 0
    _is_running: Event = field(default_factory=Event, repr=False)

    def invoke(self, event: Mapping[str, object]) -> str:
        """Have the function take a step, and return how that ended: "done", "killed", or the error's class."""
        assert self._master.stdin is not None and self._master.stdout is not None  # noqa: PT018, S101 - pipes, both
        self._master.stdin.write(json.dumps(event) + "\n")
        self._master.stdin.flush()
        self._pid = int(self._master.stdout.readline())
        self._is_running.set()
        outcome = self._master.stdout.readline().strip()
        self._is_running.clear()
        return outcome

    def kill(self) -> None:
        """Kill the invocation that is running; from another thread, such as a proxy's."""
        self._is_running.wait(10)
        os.kill(self._pid, signal.SIGKILL)


@contextmanager
def run_worker(environment: Mapping[str, str], log: int | IO[str] = subprocess.DEVNULL) -> Iterator[Worker]:
    """Run the function in that environment, with its log lines going to `log`; afterwards no process of it is left."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PG"))}
    with subprocess.Popen(  # noqa: S603 - this very program
        [sys.executable, "-m", __spec__.name],
        env={**inherited, **environment, "AWS_EC2_METADATA_DISABLED": "true"},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    ) as master:
        try:
            yield Worker(master)
        finally:
            if master.stdin is not None:  # pragma: no branch
                master.stdin.close()


def serve() -> None:
    """Fork for every event on standard input: tell the child's process id, and then how it ended."""
    words, sys.stdout = sys.stdout, sys.stderr  # where the function logs is found out when it is loaded
    from rotation_lambda.handler import lambda_handler  # noqa: PLC0415 - once, for all children

    context: Any = SimpleNamespace(
        function_name="rotation",
        memory_limit_in_mb=256,
        invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:rotation",
        aws_request_id="local",
        get_remaining_time_in_millis=lambda: TIMEOUT_S * 1000,
    )
    for line in sys.stdin:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                lambda_handler(json.loads(line), context)
            except BaseException as error:  # noqa: BLE001 - Lambda, too, reports whatever it is
                os.write(write, type(error).__name__.encode())
            else:
                os.write(write, DONE.encode())
            os._exit(0)
        os.close(write)
        print(pid, file=words, flush=True)
        with open(read, encoding="utf-8") as pipe:  # noqa: PTH123 - a descriptor
            outcome = pipe.read()
        os.waitpid(pid, 0)
        print(outcome or KILLED, file=words, flush=True)


if __name__ == "__main__":
    serve()
