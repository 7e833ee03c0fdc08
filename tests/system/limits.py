"""Limits to put a command under: a small disk, little memory. What makes them ends with the process that asked."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from tests.system.conftest import Command, wait_until

BLOCK = 4096
GREEDY = """
import sys
held = []
while "oom_kill 0" in open(sys.argv[1]).read():
    held.append(b"x" * (1 << 20))
"""
WAY = ("-m",) if os.geteuid() == 0 else ("-Urm",)


class Limited(Command):
    """A command that `before`, a command line that ends by executing it, has put under a limit."""

    def __init__(self, folder, before, arguments):
        folder.mkdir()
        self.out, self.err = open(folder / "out.txt", "w+b"), open(folder / "err.txt", "w+b")  # noqa: SIM115
        line = [*map(str, before), sys.executable, "-m", "adam_mp", *map(str, arguments)]
        self.process = subprocess.Popen(line, stdout=self.out, stderr=self.err, cwd=folder)
        self.children = {}


class Disk:
    """A tmpfs in a mount namespace: commands behind `before` see it at `path`, the test sees it at `inside`."""

    def __init__(self, path, options):
        path.mkdir(exist_ok=True)
        script = 'mount -t tmpfs -o "$1" tmpfs "$2" && echo mounted && exec cat'
        self.holder = subprocess.Popen(
            ["unshare", *WAY, "sh", "-c", script, "sh", options, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.mounted = self.holder.stdout.readline() == b"mounted\n"
        self.path = path
        self.inside = Path(f"/proc/{self.holder.pid}/root{path}")
        space = ("-m",) if WAY == ("-m",) else ("-U", "--preserve-credentials", "-m")
        self.before = ("nsenter", "-t", self.holder.pid, *space)

    def fill(self):
        """Leave no byte, until what others free is free again."""
        with open(self.inside / "filling", "ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(BLOCK))

    def free(self):
        (self.inside / "filling").unlink(missing_ok=True)

    def close(self):
        self.holder.stdin.close()
        self.holder.wait()
        self.holder.stdout.close()


class MemoryGroup:
    """A cgroup, of version 1 or 2, whose limit can be lowered; raises OSError where none can be made."""

    def __init__(self):
        two = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        root = Path("/sys/fs/cgroup") if two else Path("/sys/fs/cgroup/memory")
        names = ("max", "current", "events") if two else ("limit_in_bytes", "usage_in_bytes", "oom_control")
        self.folder = root / f"adam_mp_test_{os.getpid()}"
        self.folder.mkdir()
        self.limit, self.used, self.events = (self.folder / f"memory.{name}" for name in names)
        if not self.limit.exists():
            self.close()
            raise OSError("no memory controller")
        self.before = ("sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh")

    def squeeze(self, victim):
        """Have a process in it want more than there is, until the kernel has killed `victim`; then lift the limit.

        Whoever wants memory before the victim's is free has the kernel kill another: then the greedy one.
        """
        Path(f"/proc/{victim}/oom_score_adj").write_text("1000")
        self.limit.write_text(str(int(self.used.read_text()) + (64 << 20)))
        greedy = ("sh", "-c", 'echo 900 > /proc/self/oom_score_adj && exec "$@"', "sh", sys.executable, "-c", GREEDY)
        subprocess.run([*self.before, *greedy, str(self.events)], timeout=200, check=False)
        self.limit.write_text(str(1 << 40))

    def close(self):
        wait_until(lambda: not (self.folder / "cgroup.procs").read_text(), "the cgroup to be empty")
        self.folder.rmdir()
