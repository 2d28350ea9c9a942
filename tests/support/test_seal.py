"""A seal is this user's own, on these parts alone."""

from pathlib import Path

import pytest

from edgeopt.support.cache import Cache
from edgeopt.support.seal import VARIABLE, holds, seal


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "edgeopt"


def test_a_seal_holds_for_the_parts_that_it_is_on_and_no_others() -> None:
    sealed = seal("key", "a b")
    assert holds(sealed, "key", "a b")
    assert not any(holds(sealed, *other) for other in (("key a", "b"), ("a b", "key"), ("key", "a b", ""), ()))
    assert not holds("ü" + sealed[1:], "key", "a b")


def test_the_secret_is_made_once_and_nobody_else_s_to_read(config: Path) -> None:
    assert seal("x") == seal("x")
    assert (config / "cache.key").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in config.iterdir()] == ["cache.key"]


def test_another_user_has_another_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = seal("x")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))
    assert not holds(mine, "x")


def test_machines_that_share_a_key_share_their_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "of the pipeline")
    Cache(tmp_path / "cache").put_json("k", 1)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))
    assert Cache(tmp_path / "cache").get_json("k") == 1
    monkeypatch.delenv(VARIABLE)
    assert Cache(tmp_path / "cache").get_json("k") is None


def test_without_a_place_for_the_secret_no_cache_is_used_and_that_is_said(config: Path, tmp_path: Path) -> None:
    config.parent.write_text("a file")
    cache = Cache(tmp_path / "cache")
    assert (cache.enabled, "could not be told from somebody else's" in (cache.warning or "")) == (False, True)


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_a_key_that_is_none_is_named(content: bytes, config: Path, tmp_path: Path) -> None:
    config.mkdir(parents=True)
    (config / "cache.key").write_bytes(content)
    assert "cache.key" in (Cache(tmp_path / "cache").warning or "")


def test_an_entry_under_another_key_is_missing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put_json("one", 1)
    (tmp_path / "v1" / "one").rename(tmp_path / "v1" / "two")
    assert cache.get_json("two") is None
