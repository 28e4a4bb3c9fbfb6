"""A share of one processor for a process, as Lambda gives it by memory size: by a control group of Linux."""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

WHOLE_MB = 1769
"""The memory size with which a function has one processor (AWS: Configure Lambda function memory)."""

PERIOD_US = 20_000
"""How often the share is given anew; so does Lambda."""

MOUNTS = Path("/proc/mounts")
IMPOSSIBLE = (
    "No control group can be made here, which takes Linux and root, or a container with a writable /sys/fs/cgroup. So "
    "the function has a whole processor: all sizes measure the same."
)


def find_root(mounts: Path = MOUNTS) -> Path | None:
    """Return the folder of the control groups that limit processor time, of either version; None where there is none.

    Version 2 needs its controller handed on to the groups below (Linux: cgroup-v2, cgroup.subtree_control).
    """
    with suppress(OSError):
        for line in mounts.read_text().splitlines():
            _, place, kind, options, *_ = line.split()
            root = Path(place)
            if kind == "cgroup" and "cpu" in options.split(",") and os.access(root, os.W_OK):
                return root
            if kind == "cgroup2" and os.access(root, os.W_OK):
                with suppress(OSError):
                    (root / "cgroup.subtree_control").write_text("+cpu")
                if "cpu" in re.findall(r"\w+", (root / "cgroup.subtree_control").read_text()):
                    return root
    return None


@contextmanager
def of(memory_mb: int, root: Path | None) -> Iterator[list[str]]:
    """Yield how a command begins that is to run under the share of the memory size: all of it, without a root.

    Within its share the process goes before all others of the machine, as there are none in Lambda.
    """
    if root is None:
        yield []
        return
    group = root / group_name()
    quota = PERIOD_US * memory_mb // WHOLE_MB
    group.mkdir()
    try:
        if (root / "cgroup.subtree_control").exists():
            (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
            (group / "cpu.weight").write_text("10000")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
            (group / "cpu.shares").write_text("262144")
        yield [shutil.which("sh") or "sh", "-c", 'echo $$ >"$0" && exec "$@"', str(group / "cgroup.procs")]
    finally:
        for _ in range(20):  # a group is in use for a moment after its last process has ended
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.01)


def group_name() -> str:
    """Return what this process's group is called."""
    return f"rotation-benchmark-{os.getpid()}"
