from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.core import to_data
from edgeopt.errors import ConfigError, EdgeoptError, UsageError
from edgeopt.model.config import Settings, from_arguments, read
from edgeopt.model.options import DEFAULT_TIMEOUT_S

WHOLE = """
model = "net.py:build"
inputs = ["1x4:float32"]
targets = ["arm-xnnpack", "boards/mine.toml"]
calibration = "data.py:batches"
evaluate = "pack.data:evaluate"
max_drop = 0.01
max_slice_drop = 0.05
out = "build/net"
timeout = 60
jobs = 1
cache = false
io_float = true
strict_scheme = true
never_slower = true
quality = "best"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "edgeopt.toml"
    path.write_text(text)
    return path


def test_every_key_is_read_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = read(write(tmp_path, WHOLE))
    assert settings == Settings(
        model=f"{tmp_path}/net.py:build",
        inputs=("1x4:float32",),
        targets=("arm-xnnpack", f"{tmp_path}/boards/mine.toml"),
        calibration=f"{tmp_path}/data.py:batches",
        evaluate="pack.data:evaluate",
        max_drop=0.01,
        max_slice_drop=0.05,
        out=f"{tmp_path}/build/net",
        timeout=60.0,
        jobs=1,
        cache=False,
        io_float=True,
        strict_scheme=True,
        never_slower=True,
        quality="best",
    )
    options = settings.options("net")
    assert (options.timeout_s, options.jobs, options.use_cache, options.io_float) == (60.0, 1, False, True)
    assert (options.max_drop, options.max_slice_drop) == (0.01, 0.05)
    assert options.strict_scheme and options.never_slower and options.quality == "best"
    assert options.out == tmp_path / "build" / "net"


def test_an_absolute_path_stays_absolute(tmp_path: Path) -> None:
    assert read(write(tmp_path, 'model = "/a/net.pt2"')).model == "/a/net.pt2"


def test_what_is_not_said_has_the_defaults() -> None:
    options = Settings().options("net")
    assert (options.timeout_s, options.use_cache, options.io_float) == (DEFAULT_TIMEOUT_S, True, False)
    assert not options.strict_scheme and not options.never_slower and options.quality == "balanced"
    assert (options.targets, options.max_drop, options.out) == ((), None, Path("build/net"))


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    said = from_arguments({"jobs": 4, "cache": True, "targets": None, "debug": True, "max_drop": 0.0})
    settings = said.over(read(write(tmp_path, WHOLE)))
    assert (settings.jobs, settings.cache, settings.timeout, settings.max_drop) == (4, True, 60.0, 0.0)
    assert settings.targets[0] == "arm-xnnpack"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_dorp = 0.01", "unknown key 'max_dorp'\n  next step: did you mean 'max_drop'"),
        ("zzz = 1", "the keys are model, inputs"),
        ('jobs = "2"', "jobs does not fit"),
        ("jobs = 0", "jobs does not fit"),
        ("max_drop = nan", "max_drop does not fit"),
        ("max_drop = -1.0", "max_drop does not fit"),
        ("max_slice_drop = nan", "max_slice_drop does not fit"),
        ("max_slice_drop = -1.0", "max_slice_drop does not fit"),
        ("timeout = 0", "timeout does not fit"),
        ('targets = "arm-xnnpack"', "targets does not fit"),
        ('targets = ["arm-xnnpack", 3]', "entry 2"),
        ("cache = 1", "cache does not fit"),
        ('out = ""', "out does not fit"),
        ('targets = ["arm-xnnpack", ""]', "targets does not fit"),
        ("jobs = = 1", "line 1"),
    ],
)
def test_what_does_not_fit_names_the_file_and_the_key(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration file"):
        read(tmp_path / "edgeopt.toml")
    (tmp_path / "edgeopt.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "edgeopt.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path)


def test_an_option_that_does_not_fit_is_named() -> None:
    with pytest.raises(UsageError, match="--max-drop does not fit"):
        from_arguments({"max_drop": float("nan")})


@given(
    st.dictionaries(
        st.sampled_from(list(to_data(Settings()))) | st.text(max_size=5),
        st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.text(max_size=5), max_size=3),
        max_size=4,
    )
)
def test_any_arguments_are_settings_or_one_of_our_errors(arguments: dict[str, object]) -> None:
    try:
        settings = from_arguments(arguments)
    except EdgeoptError:
        return
    assert settings.over(Settings()) == settings


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("net", "net"),
        ("a/b", "a_b"),
        ("..", "model"),
        ("", "model"),
        ("/etc", "_etc"),
        ("v1.2-é", "v1.2-é"),
        ("a\n[b] c", "a_b_c"),
    ],
)
def test_a_model_s_name_is_the_name_of_one_folder(name: str, folder: str) -> None:
    assert Settings().options(name).out == Path("build") / folder
