"""What a run takes of memory, against what it is said to need."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from adam_mp.training.plan.memory_need import run_need
from adam_mp.training.plan.plan import make_plan

DEADLINE = 300.0
NETWORK = """
name = "wide"
[[layers]]
type = "flatten"
[[layers]]
type = "dense"
units = 4096
[[layers]]
type = "relu"
[[layers]]
type = "dense"
units = 2200
[[layers]]
type = "dense"
[[layers]]
type = "softmax"
"""  # 49 MB of weights


def taken(process: psutil.Process) -> tuple[int, int]:
    """Return the bytes of a run's processes, what they share once, and how many are at its work."""
    total = count = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            lines = Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines()
            works = each.cmdline()[-1:] != ["fork server"]
        except (OSError, psutil.Error):
            continue  # it ended
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
        count += works
    return total, count


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs the kernel's sums of memory")
@pytest.mark.parametrize(("optimizer", "partitions"), [("momentum", 1), ("sgd", 1), ("momentum", 2)])
def test_the_need_that_is_counted_is_what_a_run_takes(start, small_data, tmp_path, optimizer, partitions):
    (tmp_path / "wide.toml").write_text(NETWORK)
    given = {
        "data": str(small_data), "model": str(tmp_path / "wide.toml"), "cores": 2, "epochs": 3, "lr": "0.0001",
        "optimizer": optimizer, "checkpoint_seconds": 0.01, "rollbacks": 3, "partitions": partitions,
    }  # fmt: skip
    need = run_need(make_plan(given, lambda event: None), None, keeps=True)
    flags = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    run = start("train", *flags, "--run-dir", str(tmp_path / "run"))
    process, before, most = psutil.Process(run.process.pid), 0, 0
    deadline = time.monotonic() + DEADLINE
    while run.process.poll() is None and time.monotonic() < deadline:
        now, processes = taken(process)
        if processes > 1:
            most = max(most, now)
        elif not most:
            before = now  # the supervisor as it plans
        time.sleep(0.02)
    assert run.finish(DEADLINE).code == 0
    plain = 60 << 20  # a supervisor that has planned; what it looked like then may be a moment with weights to measure
    assert 0.8 < (most - min(before, plain)) / need.total < 1.15, (most, before, need)
