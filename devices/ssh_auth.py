"""Showing an SSH server who we are: keys of the agent, key files, then what the user is asked for, in OpenSSH's order."""

import base64
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from paramiko.agent import AgentKey, AgentSSH

from edgeopt.devices.base import Ask
from edgeopt.devices.ssh_config import DEFAULT_PORT, Settings
from edgeopt.devices.ssh_hosts import fingerprint
from edgeopt.errors import NotAuthorized

ANSWER_S = 30.0
"""For the server to judge a key or a password."""
TYPING_S = 300.0
"""For a user who looks for a code, or lets the agent use a key."""
PROMPTS = 3
"""How often a secret is asked for, as OpenSSH's NumberOfPasswordPrompts."""
_KEY_CLASSES = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)


def authenticate(transport: paramiko.Transport, settings: Settings, ask: Ask | None) -> None:
    """Raises NotAuthorized with what was tried, and with the command that gives the server a key."""
    attempt = _Attempt(transport, settings, ask)
    try:
        with _agent(settings.agent) as agent:
            done = attempt.nothing() or attempt.keys(agent) or attempt.prompts()
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise attempt.refused(f"the server ended the attempt: {error or 'it hung up'}") from error
    if not done:
        raise attempt.refused("")


@contextmanager
def _agent(path: str | None) -> Iterator[AgentSSH]:
    """The agent at ``path``: paramiko's own looks only at SSH_AUTH_SOCK. An agent that does not answer has no keys."""
    agent = AgentSSH()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        if path is not None:
            with suppress(OSError, paramiko.SSHException):
                connection.connect(path)
                agent._connect(connection)
        yield agent


@dataclass(slots=True)
class _Attempt:
    transport: paramiko.Transport
    settings: Settings
    ask: Ask | None
    methods: set[str] = field(default_factory=lambda: {"publickey", "keyboard-interactive", "password"})
    """Those that the server still accepts."""
    tried: list[str] = field(default_factory=list)
    asked: bool = False
    """Whether the server's own questions went to the user: a password is then not asked for as well."""

    def nothing(self) -> bool:
        """Asks which methods there are; a server may let in everybody."""
        try:
            self.transport.auth_none(self.settings.user)
        except paramiko.BadAuthenticationType as error:
            self.methods = set(error.allowed_types)
            return False
        except paramiko.AuthenticationException:
            return False
        return True

    def keys(self, agent: AgentSSH) -> bool:
        return any(self._key(name, key) for name, key in self._candidates(agent))

    def prompts(self) -> bool:
        if self.ask is None:
            return False
        return self._interactive(self.ask) or self._password(self.ask)

    def refused(self, why: str) -> NotAuthorized:
        tried = f"tried: {', '.join(self.tried) or 'nothing, since there is no key here'}"
        accepted = f"the server accepts: {', '.join(sorted(self.methods)) or 'nothing'}"
        port = "" if self.settings.port == DEFAULT_PORT else f"-p {self.settings.port} "
        copy = f"ssh-copy-id {port}{self.settings.user}@{self.settings.host}"
        fix = (
            f"add a public key to ~/.ssh/authorized_keys there ({copy}), or name the right key in ~/.ssh/config (IdentityFile)"
        )
        if len(self.tried) > PROMPTS and "ended" in why:
            fix = "the server counts every key as an attempt: name the right one with IdentityFile and set IdentitiesOnly yes"
        why = "; ".join(part for part in (why, tried, accepted) if part)
        return NotAuthorized(f"{self.settings} lets nobody in with what there is here", why=why, fix=fix)

    def _key(self, name: str, key: paramiko.PKey) -> bool:
        if "publickey" not in self.methods:
            return False
        self.tried.append(f"{name} ({fingerprint(key.asbytes())})")
        self.transport.auth_timeout = TYPING_S if isinstance(key, AgentKey) else ANSWER_S
        try:
            return self._passed(self.transport.auth_publickey(self.settings.user, key))
        except paramiko.BadAuthenticationType as error:
            self.methods = set(error.allowed_types)
        except paramiko.AuthenticationException:
            pass
        return False

    def _passed(self, further: list[str]) -> bool:
        """A server may want a second factor: then the first was right and these methods are left."""
        if further:
            self.methods = set(further)
        return not further

    def _candidates(self, agent: AgentSSH) -> Iterator[tuple[str, paramiko.PKey]]:
        """The agent's keys that files here name, its other ones, files without a passphrase, and those that need one."""
        files = [path for path in self.settings.identities if _is_file(path)]
        named = {blob for path in self.settings.identities if (blob := _public_blob(path))}
        held = agent.get_keys()
        yield from (("a key of the agent", key) for key in held if key.asbytes() in named)
        if not self.settings.identities_only:
            yield from (("a key of the agent", key) for key in held if key.asbytes() not in named)
        blobs = {key.asbytes() for key in held}
        locked = []
        for path in files:
            if _public_blob(path) in blobs:
                continue
            try:
                if key := self._load(path, None):
                    yield from _with_certificate(path, key)
            except paramiko.PasswordRequiredException:
                locked.append(path)
        for path in locked:
            if key := self._unlock(path):
                yield from _with_certificate(path, key)

    def _unlock(self, path: Path) -> paramiko.PKey | None:
        for _ in range(PROMPTS if self.ask and "publickey" in self.methods else 0):
            assert self.ask is not None
            passphrase = self.ask(f"passphrase of the key {path}")
            if passphrase and (key := self._load(path, passphrase)):
                return key
        self.tried.append(f"{path} (locked: no passphrase, or a wrong one)")
        return None

    def _load(self, path: Path, passphrase: str | None) -> paramiko.PKey | None:
        """None where no kind of key fits. Raises PasswordRequiredException without a passphrase that it needs."""
        for key_class in _KEY_CLASSES:
            try:
                key = key_class.from_private_key_file(str(path), passphrase)
            except paramiko.PasswordRequiredException:
                raise
            except (paramiko.SSHException, ValueError, TypeError, OSError):
                continue
            return key
        if passphrase is None:
            self.tried.append(f"{path} (unreadable, or of a kind that paramiko does not know)")
        return None

    def _interactive(self, ask: Ask) -> bool:
        def answer(title: str, instructions: str, fields: list[tuple[str, bool]]) -> list[str]:
            if fields:
                self.asked = True
                self.tried.append("answers to the server's questions")
            return [ask(f"{self.settings}: {prompt.strip()}") for prompt, _ in fields]

        for _ in range(PROMPTS):
            if "keyboard-interactive" not in self.methods:
                break
            self.transport.auth_timeout = TYPING_S
            try:
                if self._passed(self.transport.auth_interactive(self.settings.user, answer)):
                    return True
            except paramiko.BadAuthenticationType as error:
                self.methods = set(error.allowed_types)
            except paramiko.AuthenticationException:
                if not self.asked:
                    break
        return False

    def _password(self, ask: Ask) -> bool:
        for _ in range(0 if self.asked else PROMPTS):
            if "password" not in self.methods:
                break
            self.tried.append("a password")
            self.transport.auth_timeout = ANSWER_S
            try:
                password = ask(f"password of {self.settings}")
                if self._passed(self.transport.auth_password(self.settings.user, password, fallback=False)):
                    return True
            except paramiko.BadAuthenticationType as error:
                self.methods = set(error.allowed_types)
            except paramiko.AuthenticationException:
                continue
        return False


def _with_certificate(path: Path, key: paramiko.PKey) -> Iterator[tuple[str, paramiko.PKey]]:
    """The key as its certificate, where an authority has signed one, then the key alone."""
    certificate = path.with_name(f"{path.name}-cert.pub")
    if _is_file(certificate):
        with suppress(ValueError, OSError, paramiko.SSHException):
            key.load_certificate(str(certificate))
            yield str(certificate), key
            key.public_blob = None
    yield str(path), key


def _is_file(path: Path) -> bool:
    """Also of a folder that this user may not look into."""
    try:
        return path.is_file()
    except OSError:
        return False


def _public_blob(path: Path) -> bytes | None:
    """The public key beside a private one (or itself, where IdentityFile names it), to find it in the agent."""
    for file in (path.with_name(f"{path.name}.pub"), path):
        try:
            fields = file.read_text(encoding="ascii").split()
            if len(fields) >= 2 and not fields[0].startswith("-"):
                return base64.b64decode(fields[1], validate=True)
        except (OSError, ValueError):
            continue
    return None
