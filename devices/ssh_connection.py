"""One authenticated SSH connection to a server that is known, reached directly or through others."""

import logging
import threading
from collections.abc import Sequence

import paramiko

from edgeopt.devices.base import Ask
from edgeopt.devices.ssh_auth import authenticate
from edgeopt.devices.ssh_config import Address, Settings, resolve
from edgeopt.devices.ssh_hosts import check, known_keys, known_name, wanted_types
from edgeopt.devices.ssh_link import CONNECT_S, DEAD_S, Link, Watchdog, command_link, tcp_link
from edgeopt.errors import ConfigError, DeviceError, LinkLost, Unreachable

MAX_HOPS = 8
WINDOW_BYTES = 8 * 1024**2
"""How much a device may send before it hears from us: bandwidth times round trip of any local network."""
_LOG = "edgeopt.devices.ssh"


class Connection:
    """``transport`` is paramiko's; ``lost()`` says how it ended."""

    def __init__(self, settings: Settings, transport: paramiko.Transport, link: Link) -> None:
        self.settings, self.transport, self._link = settings, transport, link
        self._lock = threading.Lock()
        self._why = ""
        self._watchdog = Watchdog(transport, link, lambda: self.close(f"nothing was heard from it for {DEAD_S:g} s"))

    def close(self, why: str = "it was closed here") -> None:
        """Ends what waits on the connection; only the first reason counts."""
        with self._lock:
            self._why = self._why or why
        self._watchdog.stop()
        self.transport.close()

    @property
    def ended(self) -> bool:
        """Whether nothing more goes over it."""
        return self._link.ended or not self.transport.is_active()

    def lost(self) -> LinkLost:
        """What to raise for an operation that failed since the connection has ended."""
        why = self._why or str(self.transport.saved_exception or "") or "the other end closed it"
        fix = "connect again; where it happens often, look at the network and at the device's power supply"
        return LinkLost(f"the connection to {self.settings} ended", why=why, fix=fix)


def connect(address: Address, ask: Ask | None) -> list[Connection]:
    """Every connection on the way, the device's own last. Raises what :func:`open_one` does; then nothing stays open."""
    opened: list[Connection] = []
    try:
        for settings in route(address):
            opened.append(_open(settings, opened[-1] if opened else None, ask))
    except BaseException:
        close_all(opened)
        raise
    return opened


def close_all(connections: Sequence[Connection]) -> None:
    """The device's own first, so that its goodbye still goes through the others."""
    for connection in reversed(connections):
        connection.close()


def route(address: Address) -> list[Settings]:
    """The servers on the way to ``address``, it included. Of the jump hosts, only the first one's own ProxyJump counts."""
    hops = [resolve(address)]
    while jumps := hops[0].jumps:
        hops[:0] = [resolve(jump) for jump in jumps]
        if len(hops) > MAX_HOPS:
            way = " -> ".join(str(hop) for hop in hops[-3:])
            raise ConfigError(f"more than {MAX_HOPS} jump hosts", why=f"ProxyJump goes on before {way}", fix="break the circle")
    return hops


def _open(settings: Settings, before: Connection | None, ask: Ask | None) -> Connection:
    """Raises Unreachable, HostKeyRefused, NotAuthorized."""
    link = _link(settings, before)
    transport = None
    try:
        transport = _handshake(settings, link)
        authenticate(transport, settings, ask)
        return Connection(settings, transport, link)
    except BaseException:
        if transport is not None:
            transport.close()
        link.close()
        raise


def _link(settings: Settings, before: Connection | None) -> Link:
    if before is None:
        return command_link(settings.proxy_command) if settings.proxy_command else tcp_link(settings)
    target = (settings.host, settings.port)
    try:
        return Link(before.transport.open_channel("direct-tcpip", target, ("127.0.0.1", 0), timeout=CONNECT_S))
    except (paramiko.SSHException, EOFError, OSError) as error:
        what = f"{settings} cannot be reached through {before.settings}"
        fix = "check the address as the jump host sees it, and that its sshd has AllowTcpForwarding yes"
        raise Unreachable(what, why=str(error) or "the jump host hung up", fix=fix) from error


def _handshake(settings: Settings, link: Link) -> paramiko.Transport:
    """Ciphers and keys agreed, and the server's own key checked."""
    logging.getLogger(_LOG).addHandler(logging.NullHandler())
    transport = paramiko.Transport(link, default_window_size=WINDOW_BYTES)
    transport.set_log_channel(_LOG)
    transport.daemon = True
    transport.banner_timeout = CONNECT_S
    keys = known_keys(known_name(settings), settings.known_hosts)
    options = transport.get_security_options()
    # GCM needs no digest of its own, which paramiko would make in Python: three times the speed.
    options.ciphers = sorted(options.ciphers, key=lambda cipher: "gcm" not in cipher)
    options.key_types = wanted_types(keys, options.key_types)
    try:
        transport.start_client(timeout=CONNECT_S)
        key = transport.get_remote_server_key()  # start_client gives up without a word when its time is over, this does not
    except (paramiko.SSHException, EOFError, OSError) as error:
        transport.close()
        link.close()
        why = link.explain() or str(error) or "it hung up"
        fix = "check that the port is that of an SSH server, and its log"
        raise Unreachable(f"{settings} does not answer as an SSH server does", why=why, fix=fix) from error
    try:
        check(settings, keys, key.get_name(), key.asbytes())
    except DeviceError:
        transport.close()
        raise
    return transport
