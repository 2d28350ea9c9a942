"""What ``adb devices -l`` says, and what each state means."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.devices.adb.states import Listed, parse_devices, state_error
from edgeopt.errors import NotAuthorized, Unreachable

STATES = (
    "device",
    "offline",
    "unauthorized",
    "authorizing",
    "connecting",
    "recovery",
    "sideload",
    "bootloader",
    "host",
    "rescue",
)
NO_PERMISSIONS = (
    "no permissions",
    "no permissions (user in plugdev group; are your udev rules wrong?)",
    "no permissions (missing udev rules? user is in the plugdev group); see [http://developer.android.com/tools/device.html]",
)
SAMPLE = (
    "* daemon not running; starting now at tcp:5037\r\n* daemon started successfully\r\nList of devices attached\r\n"
    "R58M123ABC             device usb:1-1 product:x model:SM_G973F device:y transport_id:1\r\n"
    "emulator-5554\toffline\r\n192.168.1.20:5555      unauthorized transport_id:3\n"
    "adb-R58-x._adb-tls-connect._tcp device product:p model:m device:d transport_id:4\n"
    "0123456789ABCDEF       no permissions (user in plugdev group; are your udev rules wrong?); "
    "see [http://developer.android.com/tools/device.html] usb:1-2 transport_id:5\n"
    "(no serial number)     unauthorized usb:2-1 transport_id:6\r\n\r\n"
)


def test_every_line_of_a_real_list_is_read() -> None:
    found = parse_devices(SAMPLE)
    assert [(one.serial, one.state) for one in found] == [
        ("R58M123ABC", "device"),
        ("emulator-5554", "offline"),
        ("192.168.1.20:5555", "unauthorized"),
        ("adb-R58-x._adb-tls-connect._tcp", "device"),
        ("0123456789ABCDEF", "no permissions"),
        ("(no serial number)", "unauthorized"),
    ]
    assert found[0].properties == {"usb": "1-1", "product": "x", "model": "SM_G973F", "device": "y", "transport_id": "1"}
    assert found[4].properties == {"usb": "1-2", "transport_id": "5"}


@pytest.mark.parametrize(
    "line",
    [
        "adb server version (41) doesn't match this client (39); killing...",
        "adb server is out of date.  killing...",
        "* daemon not running; starting now at tcp:5037",
        "error: cannot connect to daemon",
        "List of devices attached ",
        "",
    ],
)
def test_other_lines_are_passed_over(line: str) -> None:
    assert parse_devices(line) == []


words = st.text(string.ascii_letters + string.digits + "_-.", min_size=1, max_size=20)
serials = st.one_of(
    st.builds("adb-{} ({})._adb-tls-connect._tcp".format, words, st.integers(2, 9)),
    st.lists(words, min_size=2, max_size=3).map(" ".join),
    words.filter(lambda word: word != "adb"),
    st.just("(no serial number)"),
    st.builds("{}:{}".format, words, st.integers(1, 65535)),
)
rows = st.tuples(
    serials,
    st.sampled_from(STATES + NO_PERMISSIONS),
    st.dictionaries(st.sampled_from(["usb", "product", "model", "device", "transport_id"]), words),
    st.sampled_from([" ", "\t", "   \t"]),
    st.sampled_from(["\n", "\r\n"]),
)


@given(st.lists(rows, max_size=5), st.booleans())
def test_what_is_written_is_read(written: "list[tuple[str, str, dict[str, str], str, str]]", daemon: bool) -> None:
    text = "* daemon started successfully *\r\n" * daemon + "List of devices attached\n"
    for serial, state, properties, blank, end in written:
        text += blank.join([serial, state, *(f"{key}:{value}" for key, value in properties.items())]) + end
    expected = [
        Listed(serial, "no permissions" if state in NO_PERMISSIONS else state, properties)
        for serial, state, properties, _, _ in written
    ]
    assert parse_devices(text) == expected


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    for found in parse_devices(text):
        assert found.serial and found.state


@pytest.mark.parametrize("state", [*STATES[1:], "no permissions", "detached", "never heard of"])
def test_every_state_has_a_cause_and_a_next_step(state: str) -> None:
    error = state_error("adb://R58", "R58", state)
    assert state in error.what
    assert error.why and error.fix
    assert "SERIAL" not in error.fix
    assert "kill-server" not in error.message()
    assert isinstance(error, NotAuthorized if state in ("unauthorized", "authorizing") else Unreachable)


def test_a_next_step_can_be_pasted_whatever_the_serial_holds() -> None:
    assert "-s 'adb-XX (2); reboot' reboot" in state_error("adb://x", "adb-XX (2); reboot", "recovery").fix


def test_messages_differ_between_states() -> None:
    assert (
        len({state_error("adb://x", "x", state).fix for state in ("offline", "unauthorized", "authorizing", "no permissions")})
        == 4
    )
