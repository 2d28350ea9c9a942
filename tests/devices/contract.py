"""What every kind of device must do, as tests: a transport's own test module inherits them.

    class TestSsh(TransportContract):
        @pytest.fixture
        def transport(self) -> Iterator[Transport]: ...     # a fresh connection, closed afterwards

        @pytest.fixture
        def folder(self) -> str: ...                        # an empty, writable folder on the device

The device must have a POSIX shell with printf, cat, head, sleep, mkdir and kill.
"""

import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeopt.devices.transport import Transport
from edgeopt.errors import BadAnswer, DeviceError, DeviceTimeout, LinkLost

QUICK_S = 10.0
EVERY_BYTE = bytes(range(256))
EXOTIC_ARGUMENTS = (
    "two words", "it's", 'say "hi"', "a\nb", "\ttab", "ünïcödé 模型", "$HOME", "`id`", "$(id)", "a;b", "a&b", "a|b", ">x", "*",
    "~", "\\n", "!x", "#x", "-n", "--", "", "%s", "{a,b}",
)  # fmt: skip
EXOTIC_NAMES = (
    "two words",
    "it's",
    'a "quoted" one',
    "new\nline",
    "ünïcödé 模型",
    "-rf",
    "$HOME",
    "`id`",
    ".hidden",
    "a;b",
    "*",
    "back\\s",
)


def output_of(transport: Transport, *command: str) -> bytes:
    finished = transport.run(command, timeout_s=QUICK_S)
    assert finished.exit_code == 0, finished
    return finished.stdout


def fetched(transport: Transport, remote: str, limit: int = 10**8) -> bytes:
    sink = io.BytesIO()
    transport.fetch(remote, sink, limit=limit)
    return sink.getvalue()


class RunContract:
    """Commands: exit codes, streams, limits, time."""

    def test_a_command_gives_its_exit_code_and_output(self, transport: Transport) -> None:
        finished = transport.run(["sh", "-c", "echo out; exit 7"], timeout_s=QUICK_S)
        assert (finished.exit_code, finished.stdout) == (7, b"out\n")

    def test_standard_error_is_apart(self, transport: Transport) -> None:
        finished = transport.run(["sh", "-c", "echo out; echo err >&2"], timeout_s=QUICK_S)
        assert (finished.stdout, finished.stderr) == (b"out\n", b"err\n")

    def test_every_argument_is_taken_literally(self, transport: Transport) -> None:
        printed = output_of(transport, "printf", "%s\\0", *EXOTIC_ARGUMENTS)
        assert printed.decode().split("\0")[:-1] == list(EXOTIC_ARGUMENTS)

    def test_there_is_no_standard_input(self, transport: Transport) -> None:
        assert output_of(transport, "cat") == b""

    def test_output_is_kept_byte_by_byte(self, transport: Transport, folder: str) -> None:
        transport.send(io.BytesIO(EVERY_BYTE), f"{folder}/bytes")
        assert output_of(transport, "cat", f"{folder}/bytes") == EVERY_BYTE

    def test_a_command_killed_by_a_signal_ends_with_128_and_its_number(self, transport: Transport) -> None:
        assert transport.run(["sh", "-c", "kill -9 $$"], timeout_s=QUICK_S).exit_code == 137

    def test_a_command_that_is_not_there_ends_with_127(self, transport: Transport) -> None:
        assert transport.run(["no-such-command-here"], timeout_s=QUICK_S).exit_code == 127

    def test_five_megabytes_on_both_streams_do_not_block_each_other(self, transport: Transport) -> None:
        script = "head -c 5000000 /dev/zero >&2; head -c 5000000 /dev/zero; head -c 1000 /dev/zero >&2"
        finished = transport.run(["sh", "-c", script], timeout_s=60)
        assert (len(finished.stdout), len(finished.stderr)) == (5_000_000, 5_001_000)

    def test_output_comes_while_the_command_runs(self, transport: Transport) -> None:
        pieces: list[tuple[float, bytes]] = []
        script = "echo first; sleep 1; echo second"
        start = time.monotonic()
        finished = transport.run(
            ["sh", "-c", script], timeout_s=QUICK_S, on_output=lambda piece: pieces.append((time.monotonic() - start, piece))
        )
        assert b"".join(piece for _, piece in pieces) == finished.stdout == b"first\nsecond\n"
        assert pieces[-1][0] - pieces[0][0] > 0.5

    def test_too_much_output_is_refused_and_the_device_stays_usable(self, transport: Transport) -> None:
        with pytest.raises(BadAnswer):
            transport.run(["sh", "-c", "while :; do echo more and more; done"], timeout_s=60, limit=100_000)
        assert output_of(transport, "echo", "here") == b"here\n"

    def test_output_of_exactly_the_limit_is_accepted(self, transport: Transport) -> None:
        assert len(transport.run(["head", "-c", "1000", "/dev/zero"], timeout_s=QUICK_S, limit=1000).stdout) == 1000

    def test_a_command_that_does_not_end_times_out_and_the_device_stays_usable(self, transport: Transport) -> None:
        start = time.monotonic()
        with pytest.raises(DeviceTimeout):
            transport.run(["sleep", "8"], timeout_s=0.5)
        assert time.monotonic() - start < 5
        assert output_of(transport, "echo", "here") == b"here\n"

    def test_a_command_that_never_stops_printing_times_out(self, transport: Transport) -> None:
        with pytest.raises(DeviceTimeout):
            transport.run(["sh", "-c", "while :; do echo x; sleep 0.05; done"], timeout_s=0.5)


class FileContract:
    """Files: content, names, resuming, refusals."""

    @pytest.mark.parametrize("size", [0, 1, 65_537, 3_000_000])
    def test_a_file_arrives_and_comes_back_unchanged(self, transport: Transport, folder: str, size: int) -> None:
        content = (EVERY_BYTE * (size // 256 + 1))[:size]
        sent: list[int] = []
        transport.send(io.BytesIO(content), f"{folder}/file", on_bytes=sent.append)
        assert fetched(transport, f"{folder}/file") == content
        assert sum(sent) == size

    @pytest.mark.parametrize("name", EXOTIC_NAMES)
    def test_a_name_is_taken_literally(self, transport: Transport, folder: str, name: str) -> None:
        transport.send(io.BytesIO(name.encode()), f"{folder}/{name}")
        assert fetched(transport, f"{folder}/{name}") == name.encode()
        assert output_of(transport, "cat", f"{folder}/{name}") == name.encode()

    def test_sending_again_replaces_a_longer_file(self, transport: Transport, folder: str) -> None:
        transport.send(io.BytesIO(b"a long content"), f"{folder}/file")
        transport.send(io.BytesIO(b"short"), f"{folder}/file")
        assert fetched(transport, f"{folder}/file") == b"short"

    def test_what_is_left_of_the_source_is_sent(self, transport: Transport, folder: str) -> None:
        source = io.BytesIO(b"skipped and sent")
        source.seek(len(b"skipped and "))
        transport.send(source, f"{folder}/file")
        assert fetched(transport, f"{folder}/file") == b"sent"

    def test_sending_goes_on_behind_what_is_there(self, transport: Transport, folder: str) -> None:
        if not transport.can_resume:
            pytest.skip("this kind of device cannot resume")
        transport.send(io.BytesIO(b"0123456789"), f"{folder}/file")
        transport.send(io.BytesIO(b"abc"), f"{folder}/file", offset=4)
        assert fetched(transport, f"{folder}/file") == b"0123abc"

    def test_resuming_a_file_that_has_fewer_bytes_is_refused(self, transport: Transport, folder: str) -> None:
        if not transport.can_resume:
            pytest.skip("this kind of device cannot resume")
        transport.send(io.BytesIO(b"01"), f"{folder}/file")
        with pytest.raises(DeviceError):
            transport.send(io.BytesIO(b"abc"), f"{folder}/file", offset=4)
        assert fetched(transport, f"{folder}/file") == b"01"

    def test_a_folder_that_is_not_there_is_an_error(self, transport: Transport, folder: str) -> None:
        with pytest.raises(DeviceError) as caught:
            transport.send(io.BytesIO(b"x" * 1_000_000), f"{folder}/none/file")
        assert "none/file" in caught.value.what
        assert caught.value.fix

    def test_a_folder_is_no_file(self, transport: Transport, folder: str) -> None:
        output_of(transport, "mkdir", f"{folder}/inner")
        with pytest.raises(DeviceError):
            transport.send(io.BytesIO(b"x"), f"{folder}/inner")
        with pytest.raises(DeviceError):
            fetched(transport, f"{folder}/inner")
        assert output_of(transport, "echo", "here") == b"here\n"

    def test_fetching_what_is_not_there_is_an_error(self, transport: Transport, folder: str) -> None:
        with pytest.raises(DeviceError) as caught:
            fetched(transport, f"{folder}/none")
        assert f"{folder}/none" in caught.value.what
        assert caught.value.fix

    def test_fetching_is_bounded(self, transport: Transport, folder: str) -> None:
        transport.send(io.BytesIO(b"x" * 100_000), f"{folder}/file")
        sink = io.BytesIO()
        with pytest.raises(BadAnswer):
            transport.fetch(f"{folder}/file", sink, limit=99_999)
        assert len(sink.getvalue()) <= 99_999
        assert len(fetched(transport, f"{folder}/file", limit=100_000)) == 100_000

    def test_a_file_without_end_is_bounded_too(self, transport: Transport) -> None:
        with pytest.raises(BadAnswer):
            fetched(transport, "/dev/zero", limit=1_000_000)

    def test_a_file_whose_size_is_said_to_be_zero_is_read_to_its_end(self, transport: Transport) -> None:
        assert fetched(transport, "/proc/version") == output_of(transport, "cat", "/proc/version") != b""


class ThreadsContract:
    """Several threads use one connection; closing ends what they wait for."""

    def test_files_and_quick_commands_go_while_a_command_runs(self, transport: Transport, folder: str) -> None:
        def transfer(number: int) -> bool:
            content = bytes([number]) * 500_000
            transport.send(io.BytesIO(content), f"{folder}/{number}")
            quick = output_of(transport, "echo", str(number)) == f"{number}\n".encode()
            return quick and fetched(transport, f"{folder}/{number}") == content

        with ThreadPoolExecutor(5) as pool:
            long = pool.submit(transport.run, ["sh", "-c", "sleep 1.5; echo done"], timeout_s=QUICK_S)
            assert all(pool.map(transfer, range(4)))
            assert long.result().stdout == b"done\n"

    def test_closing_ends_a_command_that_another_thread_waits_for(self, transport: Transport) -> None:
        threading.Timer(0.5, transport.close).start()
        start = time.monotonic()
        with pytest.raises(LinkLost):
            transport.run(["sleep", "8"], timeout_s=60)
        assert time.monotonic() - start < 5

    def test_closing_ends_a_transfer_of_another_thread(self, transport: Transport) -> None:
        threading.Timer(0.3, transport.close).start()
        with Path(os.devnull).open("wb") as sink, pytest.raises(LinkLost):
            transport.fetch("/dev/zero", sink, limit=10**12)

    def test_nothing_goes_over_a_closed_connection_and_closing_twice_is_once(self, transport: Transport, folder: str) -> None:
        transport.close()
        transport.close()
        with pytest.raises(LinkLost):
            transport.run(["true"], timeout_s=QUICK_S)
        with pytest.raises(LinkLost):
            transport.send(io.BytesIO(b"x"), f"{folder}/file")
        with pytest.raises(LinkLost):
            fetched(transport, f"{folder}/file")


class TransportContract(RunContract, FileContract, ThreadsContract):
    """All of it."""
