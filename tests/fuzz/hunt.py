"""Runs until time is over: draws networks, exports them, and shows each new kind of failure as small as it gets."""

import re
import sys
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.draw import draw
from tests.fuzz.lab import Finding, Lab, Outcome
from tests.fuzz.network import Network
from tests.fuzz.shrink import shrink

KNOWN = Path(__file__).with_name("known.toml")
FORMATS = {
    "onnx": ("portable-fp32/onnx", "x86-fbgemm", "x86-fbgemm-avx2", "arm-ort"),
    "tflite": ("portable-fp32/tflite", "arm-xnnpack"),
    "coreml": ("apple-ane", "apple-ane-fp16"),
}
WORDS = ("internals", "unnamed")
DIFFERS = ("wrong", "silent", "constant", "integers differ", "not finite", "avoidable")


@dataclass(frozen=True)
class Kind:
    """Failures that are one: the same format, what was seen, and where."""

    format: str
    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.format}: {self.what}: {self.where}"


@dataclass
class Hunt:
    """What was found so far."""

    lab: Lab
    shrink_seconds: float = 120.0
    networks: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    kinds: dict[Kind, tuple[int, Finding, Network]] = field(default_factory=dict)
    _seen: dict[str, Kind] = field(default_factory=dict)
    _refused: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By target, the calls that it does not take: networks with one of them would only say so again."""

    def go(self, networks: Sequence[Network], target: str) -> None:
        """Exports networks together; those that something is wrong with once more, alone, and the rest without them."""
        taken = self._refused[target]
        networks = [each for each in networks if not any(step.call in taken for step in each.steps)]
        if not networks:
            return
        outcome = self.lab.try_out(networks, [target])
        told = f"{len(outcome.findings)} found, {len(outcome.refused)} refused"
        trace(f"{networks[0].seed} and {len(networks) - 1} more, {target}: {told}")
        if len(networks) == 1:
            self._alone(networks[0], target, outcome)
            return
        guilty = {each.network for each in outcome.findings if each.network is not None}
        whole = [each for each in (*outcome.findings, *outcome.refused) if each.network is None]
        named = {int(index) for each in whole for index in re.findall(r"\bn(\d+)\b", each.detail)} & set(range(len(networks)))
        if whole and not guilty | named:
            middle = len(networks) // 2
            self.go(networks[:middle], target)
            self.go(networks[middle:], target)
            return
        for index in sorted(guilty | named):
            self.go([networks[index]], target)
        rest = [each for index, each in enumerate(networks) if index not in guilty | named]
        if not whole:
            self.networks[target] += len(rest)
        elif rest:
            self.go(rest, target)

    def _alone(self, network: Network, target: str, outcome: Outcome) -> None:
        self.networks[target] += 1
        for finding in outcome.refused:
            self.refusals[f"{finding.format}: {shortened(finding.detail)}"] += 1
            self._refused[target] |= named_calls(network, finding.detail)
        for finding in outcome.findings:
            self._keep(network, finding, target)

    def _keep(self, network: Network, finding: Finding, target: str) -> None:
        before = f"{finding.format} {finding.kind} {shortened(finding.detail)}"
        kind = self._seen.get(before)
        if kind is None or finding.kind in (*DIFFERS, "failed"):
            small, last = self._shrunk(network, finding, target)
            kind = kind_of(small, last)
            self._seen[before] = kind
            if finding.kind in WORDS and len(small.steps) == 1:
                self._refused[target].add(small.steps[0].call)
            if kind not in self.kinds:
                show(kind, last, small)
                self.kinds[kind] = (0, last, small)
        count, first, smallest = self.kinds[kind]
        self.kinds[kind] = (count + 1, first, smallest)

    def _shrunk(self, network: Network, finding: Finding, target: str) -> tuple[Network, Finding]:
        last = [finding]

        def fails(candidate: Network) -> bool:
            again = same(self.lab.try_out([candidate], [target]), finding)
            last[0] = again or last[0]
            trace(
                f"  shrinking {finding.place} {finding.kind}: {len(candidate.steps)} steps {'still' if again else 'no longer'}"
            )
            return again is not None

        return shrink(network, fails, self.shrink_seconds), last[0]


def named_calls(network: Network, message: str) -> set[str]:
    """The calls of the one step that a refusal names; none where it names several or none."""
    what = message.partition("cause:")[0]
    named = {step.call for step in network.steps if step.name in what or len(network.steps) == 1}
    return named if len(named) == 1 else set()


def trace(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def same(outcome: Outcome, finding: Finding) -> Finding | None:
    """A finding of ``outcome`` of the same kind as ``finding``; where a message is at fault, with the same message."""
    for each in outcome.findings:
        alike = each.format == finding.format and each.kind == finding.kind
        if alike and (each.kind in (*DIFFERS, "failed") or shortened(each.detail) == shortened(finding.detail)):
            return each
    return None


def kind_of(network: Network, finding: Finding) -> Kind:
    """By its operators where numbers differ, by its message where that is at fault."""
    if finding.kind in (*DIFFERS, "failed") or len(network.operators) <= 2:
        return Kind(finding.format, finding.kind, ", ".join(network.operators))
    return Kind(finding.format, finding.kind, shortened(finding.detail))


def shortened(text: str) -> str:
    """A message without what changes from network to network."""
    text = re.sub(r"\b(layer|node|input|output) \S+", r"\1", text.split("next step:")[0])
    return re.sub(r"[\d.]+|\s+|\w+_\d+", " ", text)[:160].strip()


def show(kind: Kind, finding: Finding, network: Network) -> None:
    print(f"\n=== {kind} ({finding.place})\n{finding.detail}\n{network.to_json()}\n{network.source()}", flush=True)
    print(f"example: {[(each.name, each.shape, each.dtype) for each in network.inputs]}", flush=True)


def known() -> dict[str, str]:
    """Kinds that are known and not yet mended, with the reason."""
    return {each["kind"]: each["reason"] for each in tomllib.loads(KNOWN.read_text(encoding="utf-8"))["known"]}


def hunt(minutes: float, seed: int, targets: Sequence[str], together: int, steps: int) -> int:
    """Exports networks for ``minutes``; prints what is new and a summary. 1 where something was found that is not known."""
    started, drawn, turn = time.monotonic(), 0, 0
    with Lab() as lab:
        found = Hunt(lab)
        with suppress(KeyboardInterrupt):  # whoever stops it early wants to know what it found
            while time.monotonic() < started + 60 * minutes:
                found.go([draw(seed + drawn + index, steps) for index in range(together)], targets[turn % len(targets)])
                drawn, turn = drawn + together, turn + 1
    return summary(found, drawn, minutes)


def summary(found: Hunt, drawn: int, minutes: float) -> int:
    excused = known()
    print(f"\n{drawn} networks in {minutes:g} minutes: " + ", ".join(f"{t} {n}" for t, n in sorted(found.networks.items())))
    for kind, (count, finding, _) in sorted(found.kinds.items(), key=lambda item: -item[1][0]):
        print(
            f"{count:4} {kind}"
            + (f" [known: {excused[str(kind)]}]" if str(kind) in excused else f"   {finding.detail[:100]!r}")
        )
    print("\nrefused, cleanly:")
    for text, count in found.refusals.most_common():
        print(f"{count:4} {text}")
    return int(any(str(kind) not in excused for kind in found.kinds))
