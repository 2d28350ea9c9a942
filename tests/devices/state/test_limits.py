"""What a run may have of a device's processor: quotas of control groups, and the CPUs that may be used."""

import os
import subprocess
from pathlib import Path

import pytest

from edgeopt.core import from_json, to_json
from edgeopt.devices.state.doubts import differences
from edgeopt.devices.state.environment import parse_environment
from edgeopt.devices.state.facts import DeviceFacts, parse_facts
from tests.devices.state.test_environment import SCRIPT, SHELLS, system

V2 = "0::/user.slice/session-3.scope\n"
V2_MOUNT = "25 30 0:24 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "9:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n"
V1_MOUNT = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
GROUPS = {
    "none": ("0::/\n", V2_MOUNT, {"cgroup/cpu.max": "max 100000"}, None),
    "own group": (V2, V2_MOUNT, {"cgroup/user.slice/session-3.scope/cpu.max": "20000 100000"}, "cpu.max 20000 100000"),
    "no limit": (V2, V2_MOUNT, {"cgroup/user.slice/session-3.scope/cpu.max": "max 100000"}, None),
    "a group above": (V2, V2_MOUNT, {"cgroup/user.slice/cpu.max": "150000 100000"}, "cpu.max 150000 100000"),
    "the smallest": (
        V2, V2_MOUNT,
        {"cgroup/user.slice/cpu.max": "50000 100000", "cgroup/user.slice/session-3.scope/cpu.max": "30000 50000"},
        "cpu.max 50000 100000",
    ),
    "a container's own view": ("0::/\n", V2_MOUNT, {"cgroup/cpu.max": "20000 100000"}, "cpu.max 20000 100000"),
    "a group outside the view": ("0::/../other\n", V2_MOUNT, {"cgroup/cpu.max": "20000 100000"}, "cpu.max 20000 100000"),
    "version 1": (
        V1, V1_MOUNT,
        {"cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "20000", "cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000",
         "cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1", "cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000"},
        "cpu.cfs_quota_us 20000 100000",
    ),
    "version 1 in a container": (
        V1, V1_MOUNT.replace("0:30 / ", "0:30 /docker/abc "),
        {"cgroup/cpu,cpuacct/cpu.cfs_quota_us": "25000", "cgroup/cpu,cpuacct/cpu.cfs_period_us": "50000"},
        "cpu.cfs_quota_us 25000 50000",
    ),
    "nonsense": (V2, V2_MOUNT, {"cgroup/user.slice/cpu.max": "many few"}, None),
}  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: Path(shell[0]).name)
@pytest.mark.parametrize("case", GROUPS)
def test_the_quota_that_counts_is_found(tmp_path: Path, shell: tuple[str, ...], case: str) -> None:
    group, mounts, files, said = GROUPS[case]
    status = {"proc/self/cgroup": group, "proc/self/mountinfo": f"22 27 0:21 / /proc rw - proc proc rw\n{mounts}"}
    root = system(tmp_path, status | {f"sys/fs/{name}": f"{text}\n" for name, text in files.items()})
    done = subprocess.run([*shell, str(SCRIPT), "environment", "/", str(root)], capture_output=True, timeout=20, check=True)
    quota = parse_environment(done.stdout).quota
    assert (quota.said if quota else None) == said
    assert quota is None or quota.cpus == int(quota.said.split()[1]) / int(quota.said.split()[2])


def test_fewer_cpus_than_there_are_and_a_quota_are_doubts_and_facts() -> None:
    now = parse_environment(b"edgeopt\t1\nonline\t0-3\nquota\tcpu.max 20000 100000\nallowed\t0-1\nend\t1\n")
    sentences = differences(now, now)
    assert "times are those of 0.2 CPUs: cpu.max 20000 100000" in sentences
    assert "times are those of CPUs 0-1 of 4" in sentences
    facts = parse_facts(b"edgeopt\t1\nonline\t0-3\nquota\tcpu.max 20000 100000\nallowed\t0-1\nend\t1\n")
    assert facts.limited == ("0.2 CPUs: cpu.max 20000 100000", "CPUs 0-1 of 4")
    assert from_json(DeviceFacts, to_json(facts)) == facts
    enough = parse_environment(b"edgeopt\t1\nonline\t0-3\nquota\tcpu.max 400000 100000\nallowed\t0-7\nend\t1\n")
    assert not [sentence for sentence in differences(enough, enough) if "times are those" in sentence]


def test_the_cpus_that_this_process_may_use_are_said(tmp_path: Path) -> None:
    one = str(min(os.sched_getaffinity(0)))
    done = subprocess.run(["taskset", "-c", one, "sh", str(SCRIPT), "facts", str(tmp_path)], capture_output=True, check=True)
    assert parse_facts(done.stdout).allowed == one


CPU_GROUPS = Path("/sys/fs/cgroup/cpu")


@pytest.mark.skipif(not os.access(CPU_GROUPS / "cpu.cfs_quota_us", os.W_OK), reason="no control group can be made here")
def test_a_real_group_s_quota_is_found(tmp_path: Path) -> None:
    group = CPU_GROUPS / f"edgeopt-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("20000")
        inside = f'echo $$ > {group}/cgroup.procs; exec sh "$@"'
        done = subprocess.run(["sh", "-c", inside, "sh", str(SCRIPT), "facts", str(tmp_path)], capture_output=True, check=True)
    finally:
        group.rmdir()
    quota = parse_facts(done.stdout).quota
    assert quota is not None and (quota.cpus, quota.said) == (0.2, "cpu.cfs_quota_us 20000 100000")
