"""devices.toml: what is in it, what is wrong with it, and what is added to it."""

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeopt.devices import devices_toml
from edgeopt.devices.devices_toml import DeviceSpec, add, resolve, resolve_all
from edgeopt.errors import ConfigError, EdgeoptError, UnknownName, UsageError, redacted


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, and an empty configuration folder of the user's."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def written(text: str, path: Path | None = None) -> Path:
    path = path or Path("devices.toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


PI = '[pi5]\nurl = "ssh://pi@192.168.1.20"\ntargets = ["arm-xnnpack", "arm-ort"]\n'


def test_without_a_file_there_is_this_computer() -> None:
    assert devices_toml.known() == {"local": DeviceSpec(name="local", url="local")}
    assert resolve("local").url == "local"


def test_a_device_has_all_that_its_table_says(folders: Path) -> None:
    more = 'python = "/opt/python"\nroot = "/data/edgeopt"\ntools = { benchmark_model = "/opt/benchmark_model" }\n'
    written(PI + more)
    assert resolve("pi5") == DeviceSpec(
        name="pi5", url="ssh://pi@192.168.1.20", targets=("arm-xnnpack", "arm-ort"), python="/opt/python",
        root="/data/edgeopt", tools={"benchmark_model": "/opt/benchmark_model"},
    )  # fmt: skip


def test_tools_are_found_from_the_folder_of_the_file_that_names_them(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("tools/benchmark_model", "~/benchmark_model", "/opt/benchmark_model")
    monkeypatch.setenv("HOME", "/home/somebody")
    user = written("".join(f"[d{i}]\nurl = 'local'\ntools.benchmark_model = '{path}'\n" for i, path in enumerate(names)),
                   devices_toml.user_file())  # fmt: skip
    written("[own]\nurl = 'local'\ntools.benchmark_model = 'benchmark_model'\n")
    found = [resolve(name).tools["benchmark_model"] for name in ("d0", "d1", "d2", "own")]
    project = folders / "project" / "benchmark_model"
    assert found == [f"{user.parent}/{names[0]}", "/home/somebody/benchmark_model", names[2], str(project)]


def test_the_projects_file_goes_before_the_users() -> None:
    written('[pi5]\nurl = "ssh://user"\n[phone]\nurl = "adb://R58"\n', devices_toml.user_file())
    written('[pi5]\nurl = "ssh://project"\n')
    assert {name: spec.url for name, spec in devices_toml.known().items()} == {
        "local": "local", "pi5": "ssh://project", "phone": "adb://R58",
    }  # fmt: skip


def test_a_relative_configuration_folder_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert devices_toml.user_file() == Path.home() / ".config" / "edgeopt" / "devices.toml"


@pytest.mark.parametrize(
    ("text", "said", "fix"),
    [
        ('[pi5]\nurll = "ssh://pi5"\n', "unknown key 'urll'", "did you mean 'url'?"),
        ('[pi5]\nurl = "ssh://pi5"\nzzz = 1\n', "unknown key 'zzz'", "the keys are url, targets"),
        ("[pi5]\n", "url does not fit", "correct url"),
        ("[pi5]\nurl = 5\n", "url does not fit", "correct url"),
        ('[pi5]\nurl = "ssh://a"\ntargets = "arm-ort"\n', "targets does not fit", "correct targets"),
        ('[pi5]\nurl = "ssh://a"\ntargets = ["../x"]\n', "targets.0 does not fit", "correct targets.0"),
        ('[pi5]\nurl = "ssh://a"\ntools = { benchmark_mode = "x" }\n', "unknown tool", "did you mean 'benchmark_model'?"),
        ('[pi5]\nurl = "ssh://a"\ntools = { zzz = "x" }\n', "unknown tool", "the tools are"),
        ('url = "ssh://pi5"\n', "'url' is no device", "url = "),
        ('["../evil"]\nurl = "ssh://pi5"\n', "is no device's name", "[evil]"),
        ('[""]\nurl = "ssh://pi5"\n', "is no device's name", "letters"),
        ('["gerät"]\nurl = "ssh://pi5"\n', "is no device's name", "letters"),
        ('["a b"]\nurl = "ssh://pi5"\n', "is no device", "["),
        ("[pi5\n", "is not TOML", "correct that line"),
        ('[pi5]\nurl = "a"\n[pi5]\nurl = "b"\n', "is not TOML", "correct that line"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(text: str, said: str, fix: str) -> None:
    written(text)
    with pytest.raises(ConfigError, match=re.escape(said)) as refused:
        devices_toml.known()
    assert "devices.toml" in refused.value.what
    assert fix in refused.value.fix


def test_a_file_that_is_no_text_is_told() -> None:
    Path("devices.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        devices_toml.known()


@given(
    st.text(max_size=80)
    | st.sampled_from([PI]).flatmap(lambda text: st.integers(0, len(text)).map(lambda at: text[:at] + "[" + text[at:]))
)
def test_any_file_is_devices_or_an_error(text: str) -> None:
    try:
        devices_toml._read(written(text))
    except EdgeoptError as error:
        assert error.fix
    except UnicodeEncodeError:
        return


def test_an_unknown_name_has_the_nearest_one() -> None:
    written(PI)
    with pytest.raises(UnknownName) as unknown:
        resolve("pi4")
    assert unknown.value.fix == "did you mean 'pi5'?"
    assert unknown.value.why == "known devices: local, pi5"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("ssh://pi@192.168.1.20", "192.168.1.20"), ("ssh://pi@host:2222", "host-2222"), ("adb://R58M123ABC", "R58M123ABC"),
        ("adb://127.0.0.1:5555", "127.0.0.1-5555"),
        ("adb://adb-XX%20(2)._tcp", "adb-XX-2-._tcp"), ("ssh://[::1]:22", "1-22"), ("ssh://", "device"),
        ("ssh://us@er@h", "h"), ("ssh://../../etc", "etc"), ("ssh://a/../b\x1b[2J", "a-..-b-2J"),
    ],
)  # fmt: skip
def test_a_url_without_a_name_gets_one_that_a_folder_can_have(url: str, name: str) -> None:
    assert (resolve(url).name, resolve(url).url) == (name, url)


def test_two_urls_of_one_host_have_names_of_their_own() -> None:
    urls = ["ssh://a@h:22", "ssh://b@h:22", "ssh://h:22", "ssh://b@h:22", "adb://h:22", "usb://h:22"]
    assert [(one.name, one.url) for one in resolve_all(urls)] == [
        ("h-22", urls[0]), ("b-h-22", urls[1]), ("h-22-2", urls[2]), ("h-22-3", urls[4]), ("h-22-4", urls[5]),
    ]  # fmt: skip


@given(st.text(max_size=40))
def test_any_urls_name_is_a_plain_one(rest: str) -> None:
    url = f"ssh://{rest}"
    assume(redacted(url) == url)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", resolve(url).name)


def test_adding_keeps_the_rest_of_the_file() -> None:
    before = "# our devices\n[old]   # in the attic\nurl = 'ssh://attic'\n\n# the end\n"
    path = written(before)
    assert add(DeviceSpec(name="pi5", url="ssh://pi", targets=("arm-ort",))) == path
    text = path.read_text()
    assert text.startswith(before)
    assert tomllib.loads(text)["pi5"] == {"url": "ssh://pi", "targets": ["arm-ort"]}
    assert resolve("pi5").targets == ("arm-ort",)


def test_without_a_projects_file_the_users_gets_it() -> None:
    path = add(DeviceSpec(name="pi5", url="ssh://pi"))
    assert path == devices_toml.user_file()
    assert resolve("pi5").url == "ssh://pi"
    assert not Path("devices.toml").exists()


@pytest.mark.parametrize("name", ["local", "", "../x", "a b", "-x", ".x", "a\nb", "x" * 65, "a/b", "é", "a]\n[b"])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a device's name"):
        add(DeviceSpec(name=name, url="ssh://pi"))
    assert not devices_toml.user_file().exists()


def test_a_taken_name_is_refused() -> None:
    path = written(PI)
    with pytest.raises(UsageError, match="already has a device pi5"):
        add(DeviceSpec(name="pi5", url="ssh://other"))
    assert path.read_text() == PI


TARGET_FILES = (
    "boards/x.toml", "./x.toml", "../outside/x.toml", "my boards/ein Brett ü 模.toml", "C:\\boards\\x.toml", "it's.toml",
    'say "x".toml', "~x.toml", "boards/../x.toml", "#x.toml", "[x].toml",
)  # fmt: skip


@pytest.mark.parametrize("name", TARGET_FILES)
@pytest.mark.parametrize("whose", ["project", "user"])
def test_a_targets_file_is_found_from_anywhere(folders: Path, monkeypatch: pytest.MonkeyPatch, name: str, whose: str) -> None:
    if whose == "project":
        written("")
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("name = 'x'")
    path = add(DeviceSpec(name="pi5", url="ssh://pi", targets=(name, "arm-ort")))
    kept = tomllib.loads(path.read_text())["pi5"]["targets"][0]
    assert Path(kept).is_absolute() == (whose == "user")
    read = devices_toml._read(path.absolute())["pi5"].targets
    monkeypatch.chdir("/")
    assert read[1] == "arm-ort" and Path(read[0]).is_absolute() and Path(read[0]).read_text() == "name = 'x'"


def test_a_file_s_name_that_no_file_can_hold_is_refused() -> None:
    with pytest.raises(UsageError, match=r"cannot be named in devices\.toml"):
        add(DeviceSpec(name="pi5", url="ssh://pi", targets=("a\nb.toml",)))
    assert not devices_toml.user_file().exists()


@pytest.mark.parametrize("url", ["ssh://pi@board", "adb://R58", "ssh://pi:secret@board"])
def test_local_is_never_another_computer(url: str) -> None:
    written(f'[local]\nurl = "{url}"\n')
    with pytest.raises((ConfigError, UsageError)) as refused:
        resolve("local")
    assert "secret" not in refused.value.message()
    if "secret" not in url:
        assert "[local] is another device" in refused.value.what and "[board]" in refused.value.fix


def test_what_a_file_changes_of_this_computer_is_said(folders: Path) -> None:
    written('[local]\nurl = "local"\nroot = "/data"\npython = "/opt/python"\n')
    assert resolve("local").changed == f"{folders}/project/devices.toml sets python, root of local"
    written('[local]\nurl = "local"\n')
    assert resolve("local").changed == ""
    written('[here]\nurl = "local"\nroot = "/data"\nchanged = "x"\n')
    with pytest.raises(ConfigError, match="unknown key 'changed'"):
        resolve("here")


@pytest.mark.parametrize(
    ("root", "why", "fix"),
    [
        ("$HOME/x", "variables are not replaced", "~/FOLDER"),
        ("${HOME}", "variables are not replaced", "whole path"),
        ("~pi/x", "somebody else's home", "./~FOLDER"),
        ("~pi", "somebody else's home", "whole path"),
        ("a\\nb", "control characters", "without them"),
        ("a\\u001b[2J", "control characters", "without them"),
    ],
)
def test_a_root_that_nobody_means_is_refused(root: str, why: str, fix: str) -> None:
    written(f'[here]\nurl = "local"\nroot = "{root}"\n')
    with pytest.raises(ConfigError, match="device here: root = ") as refused:
        resolve("here")
    assert why in refused.value.why and fix in refused.value.fix
    assert all(line.isprintable() for line in refused.value.message().splitlines())


@pytest.mark.parametrize("root", ["~", "~/x", "-rf", "/mnt/a $b", "x/~y", "./~y", "disk é"])
def test_a_root_is_any_other_name(root: str) -> None:
    written(f'[here]\nurl = "local"\nroot = "{root}"\n')
    assert resolve("here").root == root


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_url_comes_back(url: str) -> None:
    Path("devices.toml").unlink(missing_ok=True)
    written("")
    add(DeviceSpec(name="pi5", url=url))
    assert devices_toml.known()["pi5"].url == url
