import io
import re

import pytest
from rich.console import Console

from edgeopt.bench.inventory import DeviceRow
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.devices.state.environment import Environment
from edgeopt.devices.state.facts import Cluster
from edgeopt.report.devices_view import print_devices
from tests.report.bench_samples import HOSTILE, facts

LITTLE = Cluster(cpus=(0, 1, 2, 3), core="Cortex-A510", max_khz=1_704_000)
BIG = Cluster(cpus=(4,), core="Cortex-X3")


def shown(*rows: DeviceRow, width: int = 120, terminal: bool = False) -> str:
    options = {"force_terminal": True, "color_system": "truecolor"} if terminal else {}
    target = Console(file=io.StringIO(), width=width, highlight=False, **options)  # type: ignore[arg-type]
    print_devices(rows, target)
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def pi(**more: object) -> DeviceRow:
    fields = {
        "spec": DeviceSpec(name="pi5", url="ssh://pi@192.168.1.20", targets=("arm-xnnpack", "arm-ort")),
        "facts": facts(),
        "environment": Environment(temperatures={"cpu-thermal": 51.3, "nvme": 40.0}),
        "installed": {"onnxruntime": "1.23.2", "ai-edge-litert": "2.0.3", "numpy": "2.3.1"},
    }
    return DeviceRow(**(fields | more))  # type: ignore[arg-type]


def away() -> DeviceRow:
    error = "there is no connection to ssh://pi@attic\n  cause: timed out\n  next step: switch it on"
    return DeviceRow(spec=DeviceSpec(name="attic", url="ssh://pi@attic"), error=error)


def test_a_device_is_shown_with_all_that_is_known_of_it() -> None:
    text = shown(pi())
    for part in (
        "pi5", "ssh://pi@192.168.1.20", "yes", "Raspberry Pi 5 Model B", "Debian GNU/Linux 12", "8.1 GB",
        "4x Cortex-A76 2.40 GHz", "onnxruntime 1.23.2", "ai-edge-litert 2.0.3", " 51 ", "arm-xnnpack", "arm-ort",
    ):  # fmt: skip
        assert part in text, part
    assert "numpy" not in text
    assert "1 device, all reachable" in text


def test_clusters_stand_below_each_other() -> None:
    text = shown(pi(facts=facts(clusters=(LITTLE, BIG))), width=200)
    assert "4x Cortex-A510 1.70 GHz" in text
    assert "1x Cortex-X3" in text


def test_a_device_of_many_kinds_of_cores_stays_short() -> None:
    many = tuple(Cluster(cpus=(number,), core=f"core {number}") for number in range(100))
    assert "and 96 kinds more" in shown(pi(facts=facts(clusters=many)), width=200)


def test_a_device_away_has_its_reason_and_the_next_step_below() -> None:
    text = shown(pi(), away())
    assert re.search(r"attic +NO +- +- +- +- +all", text)
    assert "Failed\n  attic\n    there is no connection" in re.sub(" +\n", "\n", text)
    assert "next step: switch it on" in text
    assert "2 devices, 1 not reachable" in text


def test_a_reason_shared_by_devices_is_told_once() -> None:
    other = DeviceRow(spec=DeviceSpec(name="cellar", url="ssh://pi@attic"), error=away().error)
    text = shown(away(), other)
    assert text.count("timed out") == 1
    assert "attic, cellar" in text


def test_a_device_without_runtimes_names_the_command_that_installs_them() -> None:
    assert "none: edgeopt devices setup pi5" in shown(pi(installed={}), width=200)


def test_a_device_that_did_not_say_everything_is_still_shown() -> None:
    text = shown(pi(installed={}, error="pi5 has no Python"))
    assert "Raspberry Pi" in text
    assert "edgeopt devices setup" not in text
    assert "pi5 has no Python" in text


def test_a_hot_device_is_shown_loudly() -> None:
    hot = pi(environment=Environment(temperatures={"cpu-thermal": 84.0}))
    assert re.search(r"\x1b\[1;33m84 *\x1b\[0m", shown(hot, terminal=True))


@pytest.mark.parametrize("width", [70, 80, 100, 200])
def test_hostile_text_in_every_place_is_only_text(width: int) -> None:
    row = pi(
        spec=DeviceSpec(name=HOSTILE, url=HOSTILE, targets=("a",)),
        facts=facts(model=HOSTILE, system=HOSTILE, machine=HOSTILE, cpu=HOSTILE, clusters=(Cluster(cpus=(0,), core=HOSTILE),)),
        environment=Environment(temperatures={HOSTILE: 50.0}),
        installed={HOSTILE: HOSTILE},
        error=HOSTILE,
    )
    text = shown(row, terminal=True, width=width)
    assert "\x1b[31m" not in text
    assert "\u202e" not in text
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in text.splitlines()) <= width
    assert "[bold]" in text


def test_no_device_at_all_is_no_failure() -> None:
    assert "0 devices" in shown()
