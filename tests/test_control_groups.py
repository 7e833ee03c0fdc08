"""Limits are read from trees of files that the tests write, as kernels, containers and batch systems lay them out."""

import dataclasses

import pytest

from adam_mp import control_groups, machine
from adam_mp.control_groups import Kills, MemoryLimit, Quota, cpu_quota, killed_since, memory_kills, memory_limits

MB = 1 << 20
NONE_1 = 9223372036854771712  # what version 1 writes where there is no memory limit


@pytest.fixture
def tree(tmp_path):
    def write(groups, mounts, files):
        for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return tmp_path

    return write


def mount(version, folder, top="/", controllers=""):
    kind = "cgroup" if version == 1 else "cgroup2"
    return f"35 31 0:32 {top} /{folder} rw,relatime shared:9 - {kind} {kind} rw,{controllers}"


CPU, MEMORY, UNIFIED = "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/memory", "sys/fs/cgroup"
OTHERS = "23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
ONE = OTHERS + mount(1, CPU, "/", "cpu,cpuacct") + "\n" + mount(1, MEMORY, "/", "memory")
TWO = OTHERS + mount(2, UNIFIED)


def quota_1(folder, quota, period=100000):
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": period}


QUOTAS = {
    "v2, a container's own namespace": ("0::/", TWO, {f"{UNIFIED}/cpu.max": "200000 100000"}, 2, UNIFIED),
    "v2, nested": (
        "0::/slurm/job_7/step_0", TWO, {f"{UNIFIED}/slurm/job_7/step_0/cpu.max": "150000 100000"}, 1.5,
        f"{UNIFIED}/slurm/job_7/step_0",
    ),
    "v2, in a group above": (
        "0::/slurm/job_7/step_0", TWO,
        {f"{UNIFIED}/slurm/job_7/step_0/cpu.max": "max 100000", f"{UNIFIED}/slurm/job_7/cpu.max": "400000 200000"}, 2,
        f"{UNIFIED}/slurm/job_7",
    ),
    "v2, the smallest": (
        "0::/a/b", TWO, {f"{UNIFIED}/a/b/cpu.max": "300000 100000", f"{UNIFIED}/a/cpu.max": "100000 100000"}, 1,
        f"{UNIFIED}/a",
    ),
    "v2, a period left out": ("0::/", TWO, {f"{UNIFIED}/cpu.max": "50000"}, 0.5, UNIFIED),
    "v2, groups of others": ("0::/a", TWO, {f"{UNIFIED}/b/cpu.max": "100000 100000"}, None, None),
    "v2, a group out of sight": ("0::/../other", TWO, {f"{UNIFIED}/cpu.max": "100000 100000"}, 1, UNIFIED),
    "v1": ("4:cpu,cpuacct:/", ONE, quota_1(CPU, 100000), 1, CPU),
    "v1, nested": ("4:cpu,cpuacct:/job/step", ONE, quota_1(f"{CPU}/job/step", 300000), 3, f"{CPU}/job/step"),
    "v1, in a group above": (
        "4:cpu,cpuacct:/job/step", ONE, quota_1(f"{CPU}/job", 50000, 25000) | quota_1(f"{CPU}/job/step", -1), 2,
        f"{CPU}/job",
    ),
    "v1, none": ("4:cpu,cpuacct:/", ONE, quota_1(CPU, -1), None, None),
    "v1, a container that sees its own group as the top": (
        "4:cpu,cpuacct:/docker/abc/sub", OTHERS + mount(1, CPU, "/docker/abc", "cpu,cpuacct"),
        quota_1(CPU, 200000) | quota_1(f"{CPU}/sub", -1), 2, CPU,
    ),
    "v1, a mount of another group beside its own": (
        "4:cpu,cpuacct:/mine", f"{mount(1, 'other', '/theirs', 'cpu')}\n{ONE}",
        quota_1("other", 100000) | quota_1(f"{CPU}/mine", 400000), 4, f"{CPU}/mine",
    ),
    "v1, other controllers": (
        "4:cpuset:/", OTHERS + mount(1, "sys/fs/cgroup/cpuset", "/", "cpuset"), quota_1("sys/fs/cgroup/cpuset", 1),
        None, None,
    ),
    "both at once, the quota in v1": (
        "4:cpu,cpuacct:/job\n1:name=systemd:/x\n0::/x", f"{ONE}\n{mount(2, 'sys/fs/cgroup/unified')}",
        quota_1(f"{CPU}/job", 100000), 1, f"{CPU}/job",
    ),
    "both at once, the quota in v2": (
        "4:memory:/\n0::/x", f"{ONE}\n{mount(2, 'sys/fs/cgroup/unified')}",
        {"sys/fs/cgroup/unified/x/cpu.max": "100000 100000"}, 1, "sys/fs/cgroup/unified/x",
    ),
    "a folder with a blank in its name": (
        "0::/a", mount(2, "sys/fs/my\\040groups"), {"sys/fs/my groups/a/cpu.max": "100000 100000"}, 1,
        "sys/fs/my groups/a",
    ),
    "a colon in a group's name": ("0::/a:b", TWO, {f"{UNIFIED}/a:b/cpu.max": "100000 100000"}, 1, f"{UNIFIED}/a:b"),
    "damaged": ("0::/\nnonsense", f"nonsense\n - \n{TWO}", {f"{UNIFIED}/cpu.max": "what 7"}, None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", QUOTAS)
def test_the_smallest_quota_of_the_own_groups_counts(tree, name):
    groups, mounts, files, cores, folder = QUOTAS[name]
    quota = cpu_quota(tree(groups, mounts, files))
    assert (quota and quota.cores) == cores
    if quota is not None:
        assert quota.source.startswith(f"/{folder}/cpu.")


def memory_1(folder, limit, used=0, **statistics):
    table = "\n".join(f"{name} {size}" for name, size in statistics.items())
    return {
        f"{folder}/memory.limit_in_bytes": limit, f"{folder}/memory.usage_in_bytes": used,
        f"{folder}/memory.stat": table,
    }  # fmt: skip


def memory_2(folder, limit, used=0, **statistics):
    table = "\n".join(f"{name} {size}" for name, size in statistics.items())
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": used, f"{folder}/memory.stat": table}


def free_in(root):
    return min((limit.free for limit in memory_limits(root)), default=None)


def test_memory_that_the_kernel_would_free_counts_as_free(tree):
    statistics = {"total_inactive_file": 200 * MB, "total_active_file": 100 * MB, "inactive_file": 7, "total_rss": 9}
    root = tree("4:memory:/job", ONE, memory_1(f"{MEMORY}/job", 1000 * MB, 600 * MB, **statistics))
    assert memory_limits(root) == [MemoryLimit(1000 * MB, 300 * MB, f"/{MEMORY}/job/memory.limit_in_bytes")]
    statistics = {"inactive_file": 200 * MB, "active_file": 50 * MB, "slab_reclaimable": 50 * MB, "anon": 5}
    root = tree("0::/job", TWO, memory_2(f"{UNIFIED}/job", 1000 * MB, 600 * MB, **statistics))
    assert memory_limits(root) == [MemoryLimit(1000 * MB, 300 * MB, f"/{UNIFIED}/job/memory.max")]


def test_what_is_free_is_least_of_all_groups_up_to_the_mount(tree):
    files = memory_2(f"{UNIFIED}/a/b", 500 * MB, 100 * MB) | memory_2(f"{UNIFIED}/a", 1000 * MB, 900 * MB)
    assert free_in(tree("0::/a/b", TWO, files)) == 100 * MB  # of the group above, which others use too
    files = memory_1(f"{MEMORY}/a/b", NONE_1, 100 * MB) | memory_1(f"{MEMORY}/a", 1000 * MB, 300 * MB)
    root = tree("4:memory:/a/b", ONE, files | memory_1(MEMORY, NONE_1))
    assert free_in(root) == 700 * MB
    assert [limit.source for limit in memory_limits(root)] == [f"/{MEMORY}/a/memory.limit_in_bytes"]


def test_a_group_that_uses_more_than_its_limit_has_nothing_free(tree):
    assert free_in(tree("0::/a", TWO, memory_2(f"{UNIFIED}/a", 10 * MB, 20 * MB))) == 0


def test_a_limit_at_which_the_kernel_begins_to_take_back_counts(tree):
    files = memory_2(f"{UNIFIED}/a", "max", 100 * MB) | {f"{UNIFIED}/a/memory.high": 400 * MB}
    assert free_in(tree("0::/a", TWO, files)) == 300 * MB


@pytest.mark.parametrize("limit", ["max", NONE_1, "", "what"])
def test_no_memory_limit(tree, limit):
    assert memory_limits(tree("0::/a", TWO, memory_2(f"{UNIFIED}/a", limit))) == []
    assert memory_limits(tree("4:memory:/a", ONE, memory_1(f"{MEMORY}/a", limit))) == []


def test_without_control_groups_nothing_is_limited(tmp_path):
    assert cpu_quota(tmp_path) is None
    assert memory_limits(tmp_path) == []
    assert memory_kills(tmp_path) == Kills(None, None)


def test_kills_are_those_of_the_own_groups_if_these_tell(tree):
    vmstat = {"proc/vmstat": "nr_free_pages 5\noom_kill 9"}
    assert memory_kills(tree("0::/a", TWO, vmstat)) == Kills(None, 9)
    assert memory_kills(tree("0::/a", TWO, vmstat | {f"{UNIFIED}/a/memory.events": "oom 4\noom_kill 3"})) == Kills(3, 9)
    text = "oom_kill_disable 0\nunder_oom 0\noom_kill 2"
    assert memory_kills(tree("4:memory:/a", ONE, vmstat | {f"{MEMORY}/a/memory.oom_control": text})) == Kills(2, 9)


@pytest.mark.parametrize(
    ("before", "now", "answer"),
    [
        (Kills(3, 8), Kills(4, 9), True),
        (Kills(3, 8), Kills(3, 8), False),
        (Kills(3, 8), Kills(3, 9), None),
        (Kills(3, None), Kills(4, None), True),
        (Kills(3, None), Kills(3, None), False),
        (Kills(None, 8), Kills(None, 8), False),
        (Kills(None, 8), Kills(None, 9), None),
        (Kills(None, None), Kills(None, None), None),
    ],
)
def test_a_kill_is_the_kernels_if_the_own_groups_say_so(before, now, answer):
    assert killed_since(before, now) is answer


def test_the_machine_is_what_the_process_may_use(monkeypatch):
    have = len(machine.allowed_cores())
    for quota, cores in ((0.2, 1), (1.0, 1), (have + 7.0, have)):
        monkeypatch.setattr(control_groups, "cpu_quota", lambda quota=quota: Quota(quota, "here"))
        assert machine.usable_cores() == cores
    limit = MemoryLimit(30 * MB, 10 * MB, "here")
    monkeypatch.setattr(control_groups, "memory_limits", lambda: [dataclasses.replace(limit, used=0), limit])
    assert machine.free_memory() == 20 * MB
    assert machine.memory_limit() == limit
    monkeypatch.setattr(control_groups, "memory_limits", lambda: [MemoryLimit(1 << 59, 0, "here")])
    assert machine.memory_limit() is None  # more than the machine has
