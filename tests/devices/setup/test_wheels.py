"""Wheels are chosen for the device's Python, not for this one; what a wheel holds stays in its folder."""

import os
import re
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import sys_tags

from edgeopt.devices.local import LocalTransport
from edgeopt.devices.setup import pythons, unpack, wheels
from edgeopt.devices.setup.pythons import Python
from edgeopt.devices.setup.wheels import Fetcher, Wheel, choose, choose_numpy, digest_of, pack, version_here
from edgeopt.errors import BadAnswer, DeviceError
from tests.devices.setup.wheels import make_wheel, only_index

PI = Python(
    executable="/usr/bin/python3.11", version=(3, 11, 2), implementation="cpython", system="Linux", machine="aarch64",
    bits=64, libc="glibc 2.36",
)  # fmt: skip


def python(**changes: Any) -> Python:
    return replace(PI, **changes)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    only_index(folder, monkeypatch)
    monkeypatch.setattr(wheels, "version_here", lambda distribution: None)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class TestTags:
    def test_a_python_of_this_computer_gets_the_platforms_that_packaging_gives_it(self) -> None:
        local = LocalTransport()
        found = {one.executable: one for one in pythons.find("local", local)}
        local.close()
        here = found[str(Path(sys.executable).resolve())]
        tags = list(dict.fromkeys(tag.platform for tag in sys_tags() if tag.platform != "any"))
        assert sorted(here.platforms) == sorted(tags)
        assert here.abi == next(iter(sys_tags())).abi
        assert here.version == sys.version_info[:3]

    @given(st.integers(17, 60), st.sampled_from(["aarch64", "armv7l", "x86_64", "riscv64"]))
    def test_wheels_for_a_newer_c_library_are_never_taken(self, minor: int, machine: str) -> None:
        platforms = python(libc=f"glibc 2.{minor}", machine=machine).platforms
        numbers = [int(number) for name in platforms if (number := "".join(re.findall(r"manylinux_2_(\d+)_", name)))]
        assert numbers == sorted(numbers, reverse=True)
        assert numbers[0] == minor
        assert all(name.endswith(machine) for name in platforms)

    def test_32_bit_programs_on_a_64_bit_kernel_count_as_32_bit(self) -> None:
        assert python(bits=32).architecture == "armv7l"
        assert python(bits=32, machine="x86_64").architecture == "i686"

    def test_without_the_lock_there_is_no_stable_abi(self) -> None:
        assert python(version=(3, 13, 0), free_threaded=True).abis == ("cp313t", "none")

    def test_a_mac_takes_wheels_for_its_release_and_older_ones(self) -> None:
        mac = python(system="Darwin", machine="arm64", libc="", macos="14.5")
        assert mac.platforms[:2] == ("macosx_14_0_arm64", "macosx_14_0_universal2")
        assert "macosx_11_0_arm64" in mac.platforms
        assert not any(platform.startswith("macosx_15_") for platform in mac.platforms)
        assert all(platform.endswith("universal2") for platform in mac.platforms if "10_" in platform)  # Intel's, of then
        assert "macosx_10_9_x86_64" in python(system="Darwin", machine="x86_64", libc="", macos="10.15").platforms

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"version": (3, 7, 3)}, "too old"),
            ({"implementation": "pypy"}, "CPython only"),
            ({"libc": "musl"}, "musl"),
            ({"libc": "bionic"}, "Android"),
            ({"system": "FreeBSD", "libc": ""}, "FreeBSD"),
            ({"libc": "glibc two"}, "nothing is known"),
        ],
    )
    def test_a_python_that_no_wheel_can_be_for_says_why(self, changes: dict[str, Any], reason: str) -> None:
        assert reason in python(**changes).unusable()
        assert PI.unusable() == ""


class TestFind:
    def fake(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prints: str) -> None:
        program = tmp_path / "python3"
        program.write_text(f"#!/bin/sh\ncat << 'END'\n{prints}\nEND\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    @pytest.mark.parametrize(
        "prints", ['{"executable": 3}', '{"executable": "relative"}', '{"executable": "/x", "bits": NaN}', '{"executable"']
    )
    def test_nonsense_about_a_python_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prints: str) -> None:
        self.fake(tmp_path, monkeypatch, prints)
        with pytest.raises(BadAnswer) as caught:
            pythons.find("pi", LocalTransport())
        assert "pi" in caught.value.what
        assert caught.value.fix

    def test_what_else_a_python_prints_is_passed_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake(tmp_path, monkeypatch, "Welcome to this device!")
        assert pythons.find("pi", LocalTransport())


class TestChoice:
    def test_the_wheel_for_the_devices_python_is_fetched(self, index: Path, cache: Path) -> None:
        for tag in (
            "cp311-cp311-manylinux_2_28_x86_64",
            "cp312-cp312-manylinux_2_28_aarch64",
            "cp311-cp311-manylinux_2_28_aarch64",
        ):
            make_wheel(index, "onnxruntime", "1.31.1", tag)
        wheel = Fetcher("pi", PI, cache).fetch("onnxruntime")
        assert wheel is not None
        assert wheel.path.name == "onnxruntime-1.31.1-cp311-cp311-manylinux_2_28_aarch64.whl"

    @pytest.mark.parametrize(
        "changes",
        [{"libc": "glibc 2.27"}, {"bits": 32}, {"version": (3, 12, 0)}, {"free_threaded": True, "version": (3, 13, 1)}],
    )
    def test_a_wheel_that_the_device_could_not_load_is_none(self, index: Path, cache: Path, changes: dict[str, Any]) -> None:
        make_wheel(index, "onnxruntime", "1.31.1", "cp311-cp311-manylinux_2_28_aarch64")
        make_wheel(index, "onnxruntime", "1.31.1", "cp313-cp313-manylinux_2_28_aarch64")
        assert Fetcher("pi", python(**changes), cache).fetch("onnxruntime") is None

    def test_the_version_that_is_installed_here_comes_first(
        self, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for version in ("1.30.0", "1.31.1", "1.32.0"):
            make_wheel(index, "onnxruntime", version)
        monkeypatch.setattr(wheels, "version_here", {"onnxruntime": "1.31.1", "flatbuffers": "99"}.get)
        chosen = choose(Fetcher("pi", PI, cache), "onnxruntime")
        assert chosen is not None
        assert chosen.version == "1.31.1"

    def test_where_that_version_has_no_wheel_the_newest_that_has_one_is_taken(
        self, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_wheel(index, "onnxruntime", "1.19.2", "cp38-cp38-manylinux_2_28_aarch64")
        make_wheel(index, "onnxruntime", "1.31.1", "cp311-cp311-manylinux_2_28_aarch64")
        monkeypatch.setattr(wheels, "version_here", {"onnxruntime": "1.31.1"}.get)
        chosen = choose(Fetcher("pi", python(version=(3, 8, 10)), cache), "onnxruntime")
        assert chosen is not None
        assert chosen.version == "1.19.2"

    def test_numpy_is_one_that_every_runtime_works_with(self, index: Path, cache: Path) -> None:
        for version in ("1.26.4", "2.2.0", "2.4.6"):
            make_wheel(index, "numpy", version)
        onnx = Wheel(make_wheel(index, "onnxruntime", "1", requires=["numpy>=1.21.6", 'numpy<2.3; python_version < "3.12"']))
        plain = Wheel(make_wheel(index, "ai-edge-litert", "2", requires=['numpy<1; extra == "old"', "tqdm"]))
        old = Wheel(make_wheel(index, "tflite-runtime", "2.14.0", requires=["numpy>=1.23.2"]))
        fetcher = Fetcher("pi", PI, cache)
        versions = [
            numpy.version for chosen in ([plain], [onnx, plain], [onnx, old]) if (numpy := choose_numpy(fetcher, chosen))
        ]
        assert versions == ["2.4.6", "2.2.0", "1.26.4"]

    def test_what_was_fetched_once_needs_no_index_again(
        self, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_wheel(index, "onnxruntime", "1.31.1")
        fetcher = Fetcher("pi", PI, cache)
        first = fetcher.fetch("onnxruntime==1.31.1")
        monkeypatch.setenv("PIP_FIND_LINKS", "/nonexistent")
        assert fetcher.fetch("onnxruntime==1.31.1") == first is not None

    def test_wheels_that_nobody_has_used_for_long_are_dropped_beyond_the_limit(
        self, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        size = 0
        for number in range(4):
            size = make_wheel(index, "onnxruntime", f"1.{number}").stat().st_size
        monkeypatch.setattr(wheels, "_MAX_CACHE_BYTES", int(2.5 * size))
        fetcher = Fetcher("pi", PI, cache)
        for number in range(3):
            kept = fetcher.fetch(f"onnxruntime==1.{number}")
            assert kept is not None
            os.utime(kept.path.parent, (number, number))
        assert fetcher.fetch("onnxruntime==1.0") is not None  # used again
        fetcher.fetch("onnxruntime==1.3")
        assert sorted(path.name.split("-")[1] for path in cache.glob("*/*.whl")) == ["1.0", "1.3"]

    def test_no_connection_is_said_with_what_can_be_done(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        only_index(cache, monkeypatch)
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with pytest.raises(DeviceError) as caught:
            Fetcher("pi", PI, cache).fetch("onnxruntime==1.31.1")
        assert "no connection" in caught.value.why
        assert "PIP_FIND_LINKS" in caught.value.fix

    def test_a_package_that_is_not_installed_here_has_no_version(self) -> None:
        assert version_here("no-such-package-here") is None
        assert version_here("pytest") == pytest.__version__


class TestArchive:
    def test_the_same_wheels_give_the_same_archive_and_digest(self, tmp_path: Path) -> None:
        both = [Wheel(make_wheel(tmp_path, name, "1", code=name)) for name in ("a", "b")]
        pack(both, tmp_path / "one.zip")
        pack(both[::-1], tmp_path / "two.zip")
        assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
        assert digest_of(both) == digest_of(both[::-1]) != digest_of(both[:1])

    def test_wheels_are_unpacked_as_an_installer_would(self, tmp_path: Path) -> None:
        extra = [
            ("a-1.data/platlib/in_platlib.py", b"1"),
            ("a-1.data/purelib/deep/x.py", b"2"),
            ("a-1.data/scripts/tool", b"3"),
        ]
        both = [Wheel(make_wheel(tmp_path, "a", "1", extra=extra)), Wheel(make_wheel(tmp_path, "b", "1", code="x = 1\n"))]
        pack(both, tmp_path / "archive.zip")
        command = (sys.executable, "-I", unpack.__file__, str(tmp_path / "archive.zip"), str(tmp_path / "out"))
        subprocess.run(command, check=True)
        found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.py")}
        assert found == {"a.py", "b.py", "in_platlib.py", "deep/x.py"}
        assert (tmp_path / "out" / "b.py").read_text() == "x = 1\n"
        assert not list((tmp_path / "out").rglob("tool"))

    @pytest.mark.parametrize(
        "name", ["../out.py", "/etc/out.py", "a/../../out.py", "a-1.data/purelib/../../../out.py", "..\\out.py"]
    )
    def test_a_wheel_whose_paths_climb_out_is_refused(self, tmp_path: Path, name: str) -> None:
        with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(name, "x")
        pack([Wheel(tmp_path / "a-1-py3-none-any.whl")], tmp_path / "archive.zip")
        with pytest.raises(ValueError, match="climbs out"):
            unpack.main(str(tmp_path / "archive.zip"), str(tmp_path / "deep" / "er" / "out"))
        assert not list(tmp_path.rglob("out.py"))

    @given(st.text("ab./\\\0-data purelib", min_size=1, max_size=30))
    def test_no_name_leads_out_of_the_folder(self, name: str) -> None:
        try:
            place = unpack.place_of(name)
        except ValueError:
            return
        assert place is None or not (place.is_absolute() or ".." in place.parts or place == PurePosixPath())

    def test_a_full_disk_has_an_exit_code_of_its_own(self, tmp_path: Path) -> None:
        pack([Wheel(make_wheel(tmp_path, "a", "1"))], tmp_path / "archive.zip")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a.py").symlink_to("/dev/full")
        with zipfile.ZipFile(make_wheel(tmp_path, "a", "1", code="x = 1\n" * 10_000)) as _:
            pack([Wheel(tmp_path / "a-1-py3-none-any.whl")], tmp_path / "archive.zip")
        with pytest.raises(SystemExit) as caught:
            unpack.main(str(tmp_path / "archive.zip"), str(tmp_path / "out"))
        assert caught.value.code == unpack.NO_ROOM
