"""A failure that a benchmark recorded is an error again, of its own class and with its own cause."""

from edgeopt.bench.failed import device_error
from edgeopt.bench.types import BenchResult, BenchSettings, DeviceRun, Subject
from edgeopt.errors import DeviceFull, LinkLost, RunFailed


def run(error: str = "", reason: str = "") -> DeviceRun:
    return DeviceRun(
        device="pi5", url="ssh://pi5", started="", settings=BenchSettings(), edgeopt_version="", error=error, reason=reason
    )


def test_the_device_comes_before_the_result_and_the_cause_stays() -> None:
    lost = LinkLost("the link ended", why="no answer", fix="look at the cable")
    full = BenchResult(
        subject=Subject(path="", target="t", format="onnx", sha256="", bytes=0), threads=1, accelerator="cpu", status="failed",
        error="DeviceFull", reason=DeviceFull("no room").message(),
    )  # fmt: skip
    told = device_error("no time", run("LinkLost", lost.message()), full, "try again")
    assert type(told) is LinkLost
    assert told.message() == LinkLost("no time", why="the link ended: no answer", fix="try again").message()
    assert type(device_error("no time", run(), full, "try again")) is DeviceFull
    assert type(device_error("no time", run(), None, "try again")) is RunFailed
