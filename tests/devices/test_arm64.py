"""The emulated ARM64 computer is what tests of devices take it for."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulators.arm64 import SCRIPT, Board, arm64, emulated_root, switched_on

__all__ = ["arm64"]

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def inside(board: Board, command: str) -> str:
    done = subprocess.run((*board.prefix, "sh", "-c", command), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done
    return done.stdout.strip()


def over_ssh(board: Board, command: str) -> str:
    config = str(board.ssh_config)
    done = subprocess.run(("ssh", "-F", config, "127.0.0.1", command), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done
    return done.stdout.strip()


def processes_that_mention(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found.append(command)
    return found


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Board]:
    with switched_on(tmp_path / "board") as board:
        yield board


def test_an_ssh_session_is_on_an_arm64_computer(arm64: Board) -> None:
    assert over_ssh(arm64, "uname -m; id -un; pwd; echo $HOME") == "aarch64\npi\n/home/pi\n/home/pi"


def test_a_command_without_ssh_runs_on_the_same_computer(arm64: Board) -> None:
    assert inside(arm64, f"uname -m; id -un; {BOOT_ID}") == f"aarch64\npi\n{over_ssh(arm64, BOOT_ID)}"


def test_it_has_a_standard_python_that_is_an_arm64_program(arm64: Board) -> None:
    script = "import ctypes, ssl, platform; print(platform.machine(), platform.libc_ver()[0])"
    assert over_ssh(arm64, f"python3 -c '{script}'") == "aarch64 glibc"
    assert (arm64.files / "usr/bin/python3").resolve().name.startswith("python3")


def test_files_go_there_over_sftp_and_are_seen_from_outside(arm64: Board, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(b"content")
    config = str(arm64.ssh_config)
    subprocess.run(("scp", "-q", "-F", config, str(tmp_path / "sent"), "127.0.0.1:sent"), check=True, timeout=30)
    try:
        assert (arm64.files / "home/pi/sent").read_bytes() == b"content"
    finally:
        (arm64.files / "home/pi/sent").unlink()


def test_its_user_cannot_change_settings_that_need_root(arm64: Board) -> None:
    governor = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    assert inside(arm64, f"cat {governor}; test -w {governor} || echo no") == "ondemand\nno"


def test_two_computers_see_neither_each_others_files_nor_processes(arm64: Board, private: Board) -> None:
    inside(private, "echo mine > ~/file; (sleep 60 &) > /dev/null 2>&1")
    assert inside(private, "ls ~") == "file"
    assert "file" not in inside(arm64, "ls -a ~").split()
    assert "sleep 60" in inside(private, "ps -eo args")
    assert "sleep 60" not in inside(arm64, "ps -eo args")
    assert inside(private, BOOT_ID) != inside(arm64, BOOT_ID)


def test_a_reboot_ends_what_ran_and_keeps_files_and_the_port(private: Board) -> None:
    before = over_ssh(private, f"echo kept > ~/file; setsid sleep 61 < /dev/null > /dev/null 2>&1 & {BOOT_ID}")
    private.reboot()
    assert over_ssh(private, "cat ~/file; ps -eo args | grep -c '[s]leep 61' || true") == "kept\n0"
    assert over_ssh(private, BOOT_ID) != before


def test_switching_off_leaves_no_process_no_mount_and_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "board"
    before = mounts()
    with switched_on(folder) as board:
        over_ssh(board, "setsid sleep 62.5 < /dev/null > /dev/null 2>&1 &")
        assert processes_that_mention("sleep 62.5")
        assert mounts() == before
    assert processes_that_mention("sleep 62.5") == processes_that_mention(str(folder)) == []
    assert not folder.exists()


def test_the_death_of_whoever_started_it_ends_it(tmp_path: Path) -> None:
    emulated_root()
    view = (str(SCRIPT), "view", str(tmp_path / "board"), "sleep", "63.5")
    starter = subprocess.Popen(("sh", "-c", '"$@" & wait', "sh", *view))
    until = time.monotonic() + 20
    while not any(command.startswith("sleep 63.5") for command in processes_that_mention("sleep 63.5")):
        assert time.monotonic() < until
        time.sleep(0.05)
    starter.kill()
    starter.wait()
    while processes_that_mention("sleep 63.5"):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_qemu_is_made_known_to_a_kernel_that_does_not_know_it() -> None:
    root = emulated_root()
    # Linux 6.7 and newer: a user namespace has formats of its own.
    mount = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 75"
    script = f'{mount}; "$0" path --no-install && exit 1; "$0" path && chroot "$1" /bin/uname -m'
    command = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(SCRIPT), str(root))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode == 75 or "unshare" in done.stderr:
        pytest.skip(f"no formats of one's own: {done.stderr}")
    assert "next step: scripts/emulated-arm64 path" in done.stderr
    assert done.stdout == f"{root}\naarch64\n"


def test_a_home_with_a_small_disk_runs_full(tmp_path: Path) -> None:
    with switched_on(tmp_path / "board", home_bytes=1_000_000) as board:
        assert "No space left" in inside(
            board, "cd; head -c 2000000 /dev/zero 2>&1 > file || true; cat /dev/zero 2>&1 >> file || true"
        )


def test_building_again_is_immediate() -> None:
    root = emulated_root()
    start = time.monotonic()
    assert emulated_root() == root
    assert time.monotonic() - start < 2
    assert os.listdir(root)
