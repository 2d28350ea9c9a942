"""``edgeopt devices``: the devices that have a name, listed, added, set up and cleaned."""

from typing import TYPE_CHECKING, Annotated

import typer

from edgeopt.cli import completion
from edgeopt.cli.bench import Delegate, Targets
from edgeopt.cli.endings import Debug, for_devices

if TYPE_CHECKING:
    from edgeopt.devices.devices_toml import DeviceSpec
    from edgeopt.devices.session.device import Device

SETUP_WAIT_S = 60.0

app = typer.Typer(
    help="The devices that have a name: list, add, set up.", invoke_without_command=True, rich_markup_mode=None,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip

Runtimes = Annotated[
    list[str] | None, typer.Option("--runtime", metavar="NAME", help="onnx or tflite; repeatable.  [default: both]")
]


@app.callback()
def devices(context: typer.Context, debug: Debug = False) -> None:
    """List every known device: reachable, what it is, what is installed there."""
    if context.invoked_subcommand is not None:
        return
    with for_devices(debug):
        from edgeopt.bench.inventory import inventory
        from edgeopt.devices.devices_toml import known
        from edgeopt.report.devices_view import print_devices
        from edgeopt.report.prompt import ask

        print_devices(inventory(list(known().values()), ask))


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    url: Annotated[str, typer.Argument(metavar="URL", help="ssh://user@host:port, adb://SERIAL or adb://host:port.")],
    target: Targets = None,
    delegate: Delegate = None,
    debug: Debug = False,
) -> None:
    """Give a device a name in devices.toml."""
    with for_devices(debug):
        from edgeopt.devices import devices_toml
        from edgeopt.registry import check_url
        from edgeopt.targets import loader

        check_url(url)
        for one in target or ():
            loader.load(one)
        path = devices_toml.add(devices_toml.DeviceSpec(name=name, url=url, targets=tuple(target or ()), delegate=delegate))
        typer.echo(f"{name} is in {path}; edgeopt devices setup {name} puts the runtimes there")


@app.command()
def setup(
    device: Annotated[str, typer.Argument(metavar="NAME|URL", autocompletion=completion.devices)],
    runtime: Runtimes = None,
    debug: Debug = False,
) -> None:
    """Put the runtimes on a device; it needs no internet, this computer does."""
    with for_devices(debug):
        from edgeopt.devices.setup.install import setup as run
        from edgeopt.report.text import plain

        spec, found = _connect(device)
        with (
            found as connected,
            connected.session(wait_s=SETUP_WAIT_S) as session,
        ):
            wanted = tuple(runtime or ("onnx", "tflite"))
            tell = lambda step: typer.echo(plain(step), err=True)  # noqa: E731
            done = run(session, runtimes=wanted, python=spec.python, on_step=tell)
        versions = ", ".join(f"{name} {version}" for name, version in done.versions.items())
        typer.echo(plain(f"{spec.name}: {versions}, for Python {done.python_version}"))
        for note in done.notes:
            typer.echo(plain(f"  {note}"))


@app.command()
def clean(
    device: Annotated[str, typer.Argument(metavar="NAME|URL", autocompletion=completion.devices)], debug: Debug = False
) -> None:
    """Remove everything of edgeopt's from a device: stored artifacts and runtimes."""
    with for_devices(debug):
        spec, connected = _connect(device)
        with connected:
            connected.clean()
        typer.echo(f"{spec.name} is clean")


def _connect(name: str) -> "tuple[DeviceSpec, Device]":
    """The device of that name or URL, and the connection to it."""
    from edgeopt import registry
    from edgeopt.devices.devices_toml import resolve
    from edgeopt.devices.session.device import Device
    from edgeopt.devices.transport import asked_by
    from edgeopt.report.prompt import ask

    spec = resolve(name)
    return spec, Device.connect(spec.name, registry.transport(spec.url, asked_by(spec.name, ask)), spec.root)
