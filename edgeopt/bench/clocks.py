"""``--lock-clocks``: the same clock for every run, where the device permits it; the session puts everything back."""

from edgeopt.devices.session.session import Session
from edgeopt.devices.state.environment import read_environment
from edgeopt.devices.state.facts import DeviceFacts

GOVERNOR = "/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"
FIXED_PERFORMANCE = "fixed-performance"


def lock_clocks(session: Session, facts: DeviceFacts) -> list[str]:
    """Asks for steady clocks; what was not permitted, as sentences.

    Android: ``cmd power set-fixed-performance-mode-enabled`` (needs no root from Android 11 on). Linux: the governor
    ``performance`` on every CPU, which needs root.
    """
    if facts.kind == "android" and session.set(FIXED_PERFORMANCE, "true"):
        return []
    states = read_environment(session.device.transport, session.device.root).cpus
    governed = [state for state in states if state.governor]
    if not governed:
        return [f"{session.device.name}: clocks cannot be locked: it shows no governors"]
    refused = [
        state.cpu
        for state in governed
        if state.governor != "performance" and not session.set(GOVERNOR.format(cpu=state.cpu), "performance")
    ]
    if not refused:
        return []
    return [f"{session.device.name}: clocks of CPU {', '.join(map(str, refused))} cannot be locked: that needs root there"]
