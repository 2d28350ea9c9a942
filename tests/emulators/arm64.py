"""An ARM64 Linux computer with no hardware: real sshd, real aarch64 programs under qemu, made by ``scripts/emulated-arm64``.

    board.url         "ssh://pi@127.0.0.1:PORT"; board.ssh_config knows the host and has the key (see reached_over_ssh)
    board.prefix      what to put before a command so that it runs there without ssh (for the adbd emulator)
    board.files       the device's files, seen from outside
    board.reboot()    ends all that runs there, and comes back with another boot_id

Every board has its own changes, processes and mounts; the kernel removes these when its process ends, however it ends.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "emulated-arm64"
REQUIRED = "EDGEOPT_REQUIRE_ARM64"
"""With this variable set (as CI does) a machine that cannot emulate fails the tests instead of skipping them."""
CPU = "cortex-a76"
"""Of a Raspberry Pi 5. With the processor that qemu 7.2 emulates by default, XNNPACK takes its kernels for SVE and computes
nonsense."""
_START_S = 30.0
# sshd reads an authorized_keys file as the session's user, who may not enter the tests' folders; a command may run as root.
_SSHD_CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile none
AuthorizedKeysCommand /bin/cat {folder}/authorized_keys
AuthorizedKeysCommandUser root
ChrootDirectory {root}
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
MaxStartups 100
MaxSessions 100
UseDNS no
Subsystem sftp internal-sftp
SetEnv QEMU_CPU={cpu}
"""
_CLIENT_CONFIG = """
Host 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/client_key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
"""


@dataclass(slots=True)
class Board:
    """One emulated computer. ``folder`` keeps its changes, keys and log; ``home_bytes`` gives its home a disk of that size."""

    folder: Path
    root: Path
    user: str = "pi"
    uid: int = 1000
    home_bytes: int | None = None
    cpu: str = CPU
    """As ``qemu-aarch64 -cpu help`` lists them."""
    port: int = 0
    _view: "subprocess.Popen[bytes] | None" = None
    _inner: int = 0

    @property
    def url(self) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}"

    @property
    def home(self) -> str:
        """The user's home folder, as the device says it."""
        return f"/home/{self.user}"

    @property
    def files(self) -> Path:
        """The device's root folder, seen from outside while it is on."""
        return Path(f"/proc/{self._inner}/root{self.root}")

    @property
    def prefix(self) -> tuple[str, ...]:
        """Put before a command, it runs as the device's user in ``/``. Killing the process group ends it and its children."""
        return self._prefix(self.uid, self.home)

    @property
    def prefix_as_root(self) -> tuple[str, ...]:
        """The same as root, for who writes the device's files from outside: they are root's then."""
        return self._prefix(0, "/root")

    def _prefix(self, uid: int, home: str) -> tuple[str, ...]:
        enter = ("nsenter", f"--target={self._inner}", "--mount", "--pid", "--")
        # What leads elsewhere on the computer that tests is nothing to the device.
        forget = (
            f"--unset={name}" for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "XDG_CACHE_HOME", "LD_LIBRARY_PATH")
        )
        path = "PATH=/usr/local/bin:/usr/bin:/bin"
        environment = ("env", *forget, f"HOME={home}", path, "TMPDIR=/tmp", f"QEMU_CPU={self.cpu}")
        chroot = shutil.which("chroot", path="/usr/sbin:/sbin:/usr/bin:/bin") or "chroot"
        return (*enter, chroot, f"--userspec={uid}:{uid}", "--groups=", str(self.root), *environment)

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F`` and EDGEOPT_SSH_CONFIG: names the port, the user, the key and the file with the known host."""
        return self.folder / "ssh_config"

    @property
    def host_key(self) -> str:
        """Its public host key, as known_hosts spells it: type and base64."""
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    def start(self) -> None:
        """Switches it on, and waits until it takes connections."""
        if not self.port:
            self._make_keys()
        with (self.folder / "log").open("ab") as log:
            self._view = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + _START_S
        while not self._greets():
            if self._view.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"the emulated computer did not start:\n{(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        self._inner = int(Path(f"/proc/{self._view.pid}/task/{self._view.pid}/children").read_text().split()[0])

    def stop(self) -> None:
        """Switches it off: nothing of it runs or is mounted afterwards; its files stay."""
        if self._view is not None:
            self._view.kill()
            self._view.wait()
            self._wait_for_end()
        self._view = None

    def reboot(self) -> None:
        """Off and on again: same files (but those of a home with a disk of its own), same port, another boot_id."""
        self.stop()
        self.start()

    def _wait_for_end(self) -> None:
        # The kernel kills the view's first process once its parent is gone, and that one ends when all others have.
        until = time.monotonic() + _START_S
        while self._inner and not _is_over(self._inner) and time.monotonic() < until:
            time.sleep(0.01)

    def _command(self) -> tuple[str, ...]:
        disk = ("--home-bytes", str(self.home_bytes)) if self.home_bytes else ()
        sshd = ("/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config"))
        return (str(SCRIPT), "view", *disk, "--user", f"{self.user}:{self.uid}", str(self.folder / "changes"), *sshd)

    def _make_keys(self) -> None:
        for name in ("host_key", "client_key"):
            command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))
            subprocess.run(command, check=True, capture_output=True)
        shutil.copy(self.folder / "client_key.pub", self.folder / "authorized_keys")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        values = {"cpu": self.cpu, "port": self.port, "folder": self.folder, "root": self.root, "user": self.user}
        (self.folder / "sshd_config").write_text(_SSHD_CONFIG.format(**values))
        self.ssh_config.write_text(_CLIENT_CONFIG.format(**values))
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {self.host_key}\n")

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False


def _is_over(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def emulated_root() -> Path:
    """The ARM64 root, built where missing; skips the test, with the reason, on a machine that cannot have one."""
    built = subprocess.run((str(SCRIPT), "path", "--no-install"), capture_output=True, text=True)
    if built.returncode == 0:
        return Path(built.stdout.strip())
    reason = f"no emulated ARM64 computer: {' '.join(built.stderr.split())[-500:]}"
    if os.environ.get(REQUIRED):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def switched_on(
    folder: Path, *, user: str = "pi", uid: int = 1000, home_bytes: int | None = None, cpu: str = CPU
) -> Iterator[Board]:
    """A new board whose changes live in ``folder`` (which is removed afterwards)."""
    board = Board(folder, emulated_root(), user, uid, home_bytes, cpu)
    folder.mkdir(exist_ok=True)
    try:
        board.start()
        yield board
    finally:
        board.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """One board for all tests of this process: leave it as it was found."""
    with switched_on(tmp_path_factory.mktemp("arm64")) as board:
        yield board


@pytest.fixture
def reached_over_ssh(arm64: Board, monkeypatch: pytest.MonkeyPatch) -> Board:
    """The same board, with the environment in which ``board.url`` can be connected to."""
    monkeypatch.setenv("EDGEOPT_SSH_CONFIG", str(arm64.ssh_config))
    return arm64
