"""The folder ``tools`` in edgeopt's folder on a device: the user makes it, before or after edgeopt comes, and keeps it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt.bench.inventory import inventory
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.devices.session.own_folder import MARK, NAME
from edgeopt.errors import DeviceError
from tests.devices.session.test_own_folder import at, of_before, precious, shell, state
from tests.devices.session.test_session import refuse

__all__ = ["shell"]


def with_tools(folder: Path) -> Path:
    tools = folder / "tools"
    tools.mkdir(parents=True)
    (tools / "benchmark_model").write_text("mine")
    (tools / "benchmark_model").chmod(0o755)
    return tools


@pytest.mark.parametrize("unwritten", [False, True], ids=["no mark", "an empty mark, of a full disk"])
@pytest.mark.parametrize("before", [False, True], ids=["new", "of before"])
def test_a_folder_with_tools_is_taken(tmp_path: Path, before: bool, unwritten: bool) -> None:
    folder = of_before(tmp_path / NAME) if before else tmp_path / NAME
    tools = with_tools(folder)
    if unwritten:
        (folder / MARK).touch()
    there, kept = state(folder), state(tools)
    (row,) = inventory([DeviceSpec(name="here", url="local", root=str(tmp_path))], refuse)
    assert not row.error and row.facts is not None and row.facts.tools == {"benchmark_model": str(tools / "benchmark_model")}
    assert state(folder) == there
    for _ in range(2):
        with at(tmp_path) as device, device.session():
            assert (folder / MARK).read_bytes()
    assert state(tools) == kept


def _linked(folder: Path) -> None:
    (folder / "tools").symlink_to(precious(folder.parent / "precious"))


def _file(folder: Path) -> None:
    (folder / "tools").write_text("mine")


def _more(folder: Path) -> None:
    with_tools(folder)
    (folder / "thesis.txt").write_text("mine")


def _line_end(folder: Path) -> None:
    (folder / "tools\n").mkdir()


@pytest.mark.parametrize("fill", [_linked, _file, _more, _line_end])
@pytest.mark.parametrize("before", [False, True], ids=["new", "of before"])
def test_what_is_only_like_tools_is_refused(tmp_path: Path, before: bool, fill: Callable[[Path], None]) -> None:
    folder = of_before(tmp_path / NAME) if before else tmp_path / NAME
    folder.mkdir(exist_ok=True)
    fill(folder)
    there = state(folder)
    with pytest.raises(DeviceError, match="is not edgeopt's folder"):
        at(tmp_path)
    assert state(folder) == there


def test_clean_leaves_tools_and_the_mark_and_the_device_stays_usable(tmp_path: Path) -> None:
    with at(tmp_path) as device:
        tools = with_tools(Path(device.root))
        kept = state(tools)
        (tmp_path / "model.onnx").write_bytes(b"weights")
        for _ in range(2):
            with device.session() as session:
                session.push(tmp_path / "model.onnx")
            device.clean()
            assert sorted(os.listdir(device.root)) == [MARK, "tools"] and state(tools) == kept
    (tools / "benchmark_model").unlink()
    tools.rmdir()
    with at(tmp_path) as device:
        device.clean()
    assert not Path(device.root).exists()


def test_clean_leaves_a_link_named_tools_and_what_it_leads_to(tmp_path: Path) -> None:
    kept = precious(tmp_path / "precious")
    there = state(kept)
    with at(tmp_path) as device:
        Path(device.root, "tools").symlink_to(kept)
        device.clean()
    assert Path(device.root, "tools").is_symlink() and state(kept) == there
