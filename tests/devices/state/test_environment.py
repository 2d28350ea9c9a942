"""What a device is and how it is: the script in every shell there is, the parsers on outputs and on garbage."""

import os
import platform
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeopt.core import from_json, to_json
from edgeopt.devices.state import probe
from edgeopt.devices.state.doubts import differences
from edgeopt.devices.state.environment import Battery, CpuState, Environment, parse_environment, read_environment
from edgeopt.devices.state.facts import Cluster, DeviceFacts, count, parse_facts, read_facts
from edgeopt.devices.state.processors import cores, part_name, summary
from edgeopt.devices.transport import Finished
from edgeopt.errors import BadAnswer
from tests.emulators.arm64 import switched_on

GOLDEN = Path(__file__).parents[1] / "golden"
SCRIPT = Path(probe.__file__).parent / "facts.sh"
SHELLS = [
    (path, *options)
    for name, *options in (("dash",), ("bash", "--posix"), ("busybox", "sh"), ("mksh",))
    if (path := shutil.which(name))
]
KEYS = st.sampled_from([
    *("end", "cpuinfo", "system", "kernel", "machine", "release", "online", "MemTotal", "MemAvailable", "features", "top"),
    *("python", "tool", "free", "getprop", "macos", "sysctl", "cpu", "throttled", "temperature", "raspberry", "no_turbo"),
    *("quota", "allowed", "boost", "load", "uptime", "battery_level", "battery_tenths", "thermalservice", "battery", "pmset"),
])  # fmt: skip
VALUES = st.one_of(
    st.text(max_size=60),
    st.from_regex(r"-?[0-9]{1,30}(\.[0-9]+)?( [a-z0-9-]{1,9}){0,5}", fullmatch=True),
    st.sampled_from(
        [
            "Temperature{mValue=1e999, mType=0, mName=CPU, mStatus=0}",
            "Current temperatures from HAL:",
            "[ro.product.model]: [\x1b[2J]",
            "processor: 99999999999999999999",
            "CPU part: 0xfffffffff",
            " -InternalBattery-0 (id=1)\t999%; charging; 1:00",
            "{ nan 1 1 }",
            "cpu.max 20000 100000",
            "cpu.max 1 0",
            "0-3,6",
        ]
    ),
)


class Here:
    """This computer as a device, with what a test puts in its way."""

    def __init__(self, *, first_on_path: Path | None = None, shell: tuple[str, ...] = ("sh",)) -> None:
        self.path = f"{first_on_path}:{os.defpath}" if first_on_path else os.defpath
        self.shell = shell

    def run(self, command: tuple[str, ...], *, timeout_s: float, limit: int) -> Finished:
        done = subprocess.run(
            [*self.shell, *command[1:]],
            capture_output=True,
            timeout=timeout_s,
            env={"PATH": self.path, "HOME": "/"},
            check=False,
        )
        return Finished(done.returncode, done.stdout[:limit], done.stderr)


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def system(root: Path, contents: dict[str, str]) -> Path:
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def programs(folder: Path, scripts: dict[str, str]) -> Path:
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text("#!/bin/sh\n" + script)
        (folder / name).chmod(0o755)
    return folder


# --- the script -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: Path(shell[0]).name)
def test_every_shell_says_the_same_of_this_computer(shell: tuple[str, ...], tmp_path: Path) -> None:
    facts = read_facts(Here(shell=shell), str(tmp_path / "not" / "there yet"))
    assert facts.unreadable == ()
    assert replace(facts, free_bytes=0) == replace(read_facts(Here(), str(tmp_path)), free_bytes=0)
    assert facts.free_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    now = read_environment(Here(shell=shell), str(tmp_path))
    assert now.unreadable == ()
    assert now.memory_bytes == facts.memory_bytes


@pytest.mark.skipif(platform.system() != "Linux", reason="compares with /proc and sysconf of Linux")
def test_what_it_says_of_this_computer_is_true(tmp_path: Path) -> None:
    facts = read_facts(Here(), str(tmp_path))
    assert (facts.kind, facts.machine, facts.kernel) == ("linux", platform.machine(), platform.release())
    assert facts.cores == os.cpu_count()
    assert facts.memory_bytes == pytest.approx(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01)
    assert facts.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert sorted(cpu for cluster in facts.clusters for cpu in cluster.cpus) == list(range(os.cpu_count() or 0))
    now = read_environment(Here(), str(tmp_path))
    assert now.load == pytest.approx(os.getloadavg()[0], abs=2)
    assert now.uptime_s is not None and now.uptime_s > 0


def test_the_script_fits_on_a_command_line_and_comments_stay_at_home() -> None:
    assert SCRIPT.stat().st_size < 8192
    assert len(probe.script()) < SCRIPT.stat().st_size
    assert all(not line.startswith(("#", " ")) for line in probe.script().splitlines())


PHONE = {
    "proc/cpuinfo": "".join(
        f"processor\t: {n}\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
        for n, part in enumerate(["0xd05", "0xd05", "0xd0b"])
    ),
    "proc/meminfo": "MemTotal:        3884084 kB\nMemFree:          100000 kB\nMemAvailable:     990000 kB\nBuffers:  1 kB\n",
    "proc/loadavg": "0.50 0.40 0.30 1/99 1234\n",
    "sys/devices/system/cpu/online": "0-2\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1800000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "<unknown>\n",
    "sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq": "1800000\n",
    "sys/devices/system/cpu/cpu2/cpufreq/cpuinfo_max_freq": "2400000\n",
    "sys/devices/system/cpu/cpu2/thermal_throttle/core_throttle_count": "7\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-0-0\n",
    "sys/class/thermal/thermal_zone0/temp": "41500\n",
    "sys/class/thermal/thermal_zone1/type": "battery\n",
    "sys/class/thermal/thermal_zone1/temp": "29",
    "sys/class/thermal/thermal_zone2/type": "cpu-0-0\n",
    "sys/class/thermal/thermal_zone2/temp": "42000\n",
    "sys/class/thermal/thermal_zone3/temp": "-274000\n",
    "sys/class/power_supply/usb/type": "USB\n",
    "sys/class/power_supply/bms/type": "Battery\n",
    "sys/class/power_supply/bms/capacity": "55\n",
    "sys/class/power_supply/bms/status": "Discharging\n",
    "sys/class/power_supply/bms/temp": "301\n",
    "data/local/tmp/linux_aarch64_benchmark_model": "",
}


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: Path(shell[0]).name)
def test_a_phone_is_read_from_its_files_and_programs(shell: tuple[str, ...], tmp_path: Path) -> None:
    base = system(tmp_path / "system", PHONE)
    tool = base / "data/local/tmp/linux_aarch64_benchmark_model"
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    thermal = "\n".join(line.partition("\t")[2] for line in golden("pixel6-android14.environment.txt").decode().splitlines())
    (tmp_path / "thermal").write_text(thermal)
    path = programs(
        tmp_path / "bin",
        {
            "getprop": "echo '[ro.build.version.release]: [13]'; echo '[ro.product.model]: [Nine]'; echo '[secret]: [no]'",
            "dumpsys": f'case "$3" in thermalservice) cat {tmp_path}/thermal ;; esac',
            "vcgencmd": "echo throttled=0x50005",
        },
    )
    here = Here(first_on_path=path, shell=shell)
    outputs = {}
    for part in ("facts", "environment"):
        command = (*probe.command("facts" if part == "facts" else "environment", str(tmp_path)), str(base))
        outputs[part] = here.run(command, timeout_s=20, limit=probe.MAX_BYTES).stdout
    facts = parse_facts(outputs["facts"])
    assert (facts.kind, facts.model, facts.system) == ("android", "Nine", "Android 13")
    assert facts.clusters == (
        Cluster(cpus=(0, 1), core="Cortex-A55", max_khz=1800000),
        Cluster(cpus=(2,), core="Cortex-A76", max_khz=2400000),
    )
    assert facts.features == ("asimd", "asimddp")
    assert facts.tools == {"benchmark_model": str(tool)}
    assert b"secret" not in outputs["facts"]
    now = parse_environment(outputs["environment"])
    assert now.temperatures == {"cpu-0-0": 41.5, "battery": 29, "cpu-0-0 (zone2)": 42, "CPU": 44.181, "BAT": 23.8, "LRB": 41.25}
    assert now.thermal_status == 2
    assert now.raspberry_throttled == 0x50005
    assert now.throttle_counts == {"cpu2/core": 7}
    assert now.battery == Battery(level=55, status="discharging", celsius=30.1)
    assert now.cpus[0] == CpuState(cpu=0, governor="schedutil", top_khz=1800000)
    assert sorted(now.unreadable) == ["TPU: NaN", "zone3: -274000"]


@pytest.mark.device
def test_an_emulated_computer_says_what_it_is(tmp_path: Path) -> None:
    with switched_on(tmp_path / "board") as board:
        there = Here(first_on_path=Path("/usr/sbin"), shell=(*board.prefix, "sh"))
        facts = read_facts(there, f"{board.home}/.cache/edgeopt-device")
        assert (facts.kind, facts.machine, facts.cpu) == ("linux", "aarch64", f"{facts.cores}x Cortex-A76")
        assert facts.python == "/usr/bin/python3"
        assert facts.boot not in ("", Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        assert [state.governor for state in read_environment(there, "/").cpus] == ["ondemand"] * (facts.cores or 0)


def test_a_device_without_a_shell_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(BadAnswer, match="does not say what it is"):
        read_facts(Here(shell=("false",)), str(tmp_path))


# --- the parsers ------------------------------------------------------------------------------------------------------------


def test_a_recorded_virtual_machine() -> None:
    facts = parse_facts(golden("xeon-debian12.facts.txt"))
    assert facts.cpu == "2x Intel(R) Xeon(R) Processor"
    assert (facts.libc, facts.python_version) == ("glibc 2.36", "3.11.2")
    assert {"avx512_vnni", "hypervisor"} <= set(facts.features)
    now = parse_environment(golden("xeon-debian12.environment.txt"))
    assert (now.load, now.cores, now.cpus, now.temperatures) == (2.44, 2, (), {})
    assert facts.unreadable == now.unreadable == ()


def test_a_recorded_emulated_computer() -> None:
    facts = parse_facts(golden("emulated-arm64.facts.txt"))
    assert (facts.machine, facts.cpu, facts.features) == ("aarch64", "2x Cortex-A76", ("asimd", "fphp", "asimdhp", "asimddp"))
    now = parse_environment(golden("emulated-arm64.environment.txt"))
    assert now.temperatures == {"cpu-thermal": 48.312}
    assert (now.cpus[0].governor, now.cpus[0].top_khz) == ("ondemand", 1500000)
    assert facts.unreadable == now.unreadable == ()


def test_a_phone() -> None:
    facts = parse_facts(golden("pixel6-android14.facts.txt"))
    assert (facts.kind, facts.system, facts.model) == ("android", "Android 14 (API 34)", "Google Pixel 6")
    assert facts.cpu == "4x Cortex-A55 + 2x Cortex-A78 + 2x Cortex-X1"
    assert [cluster.max_khz for cluster in facts.clusters] == [1803000, 2253000, 2802000]
    assert (facts.libc, facts.chip, facts.battery) == ("bionic", "Google GS101", None)
    now = parse_environment(golden("pixel6-android14.environment.txt"))
    assert now.temperatures == {"CPU": 44.181, "BAT": 23.8, "LRB": 41.25}, (
        "not cached ones, missing sensors, or battery currents"
    )
    assert now.thermal_status == 2
    assert now.battery == Battery(level=87, status="charging", celsius=28.7)
    assert now.unreadable == ("TPU: NaN",)


def test_a_raspberry_pi() -> None:
    facts = parse_facts(golden("raspberry-pi5.facts.txt"))
    assert (facts.model, facts.cpu) == ("Raspberry Pi 5 Model B Rev 1.0", "4x Cortex-A76")
    now = parse_environment(golden("raspberry-pi5.environment.txt"))
    assert now.temperatures == {"cpu-thermal": 84.25}
    assert now.raspberry_throttled == 0xE0008


def test_a_mac() -> None:
    facts = parse_facts(golden("macbook-macos15.facts.txt"))
    assert (facts.kind, facts.system, facts.model, facts.cpu, facts.cores) == ("macos", "macOS 15.1", "Mac16,1", "Apple M4", 10)
    assert facts.memory_bytes == 16 * 1024**3
    now = parse_environment(golden("macbook-macos15.environment.txt"))
    assert (now.load, now.cores, now.speed_limit_percent) == (1.52, 10, 80)
    assert now.battery == Battery(level=14, status="discharging")


@given(st.binary(max_size=4000))
@example(b"edgeopt\t1\ncpu\t" + b"9" * 5000 + b"\nend\t1\n")
@example(b"cpuinfo\tprocessor: 1\n" * 10000)
def test_any_bytes_give_facts_and_an_environment(output: bytes) -> None:
    check(output)


@given(st.lists(st.tuples(KEYS, VALUES), max_size=40))
def test_any_values_under_known_keys_give_facts_and_an_environment(rows: list[tuple[str, str]]) -> None:
    check("\n".join(f"{key}\t{value}" for key, value in rows).encode("utf-8", "surrogatepass"))


def check(output: bytes) -> None:
    facts, now = parse_facts(output), parse_environment(output)
    assert from_json(DeviceFacts, to_json(facts)) == facts
    assert from_json(Environment, to_json(now)) == now
    assert all(-40 <= celsius <= 150 for celsius in now.temperatures.values())
    assert max(len(to_json(facts)), len(to_json(now))) < 2 * probe.MAX_BYTES + 100_000
    assert all(text.isprintable() for text in (facts.model, facts.cpu, *facts.unreadable, *now.temperatures, *now.unreadable))
    differences(now, now)


def test_a_hundred_megabytes_are_cut_off() -> None:
    facts = parse_facts(b"top\t1 1800000\n" * 8_000_000)
    assert facts.unreadable == ("the end: the device's answer was cut off",)


@pytest.mark.parametrize(
    ("online", "wanted"), [("0-7", 8), ("0", 1), ("0-3,6", 5), ("", None), ("0-", None), ("7-0", None), ("0-99999", None)]
)
def test_lists_of_cpus_are_counted(online: str, wanted: int | None) -> None:
    assert count(online) == wanted


def test_cores_have_names_or_numbers() -> None:
    assert part_name(0x41, 0xD0B) == "Cortex-A76"
    assert part_name(0x41, 0xFFF) == "ARM part 0xfff"
    assert part_name(0x99, 0x1) == "implementer 0x99 part 0x1"
    lines = [
        "processor : 0",
        "model name : ARMv8 Processor rev 1",
        "CPU implementer : 0x41",
        "CPU part : 0xd08",
        "processor : 1",
    ]
    assert cores(lines) == {0: "Cortex-A72", 1: ""}
    assert summary(cores(lines)) == "1x Cortex-A72"
