"""The cache gives back what was put in or nothing, shared by several processes, and never fails an export."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import ConversionError, OutputError
from edgeopt.support.cache import Cache, default_root
from edgeopt.support.files import copy_file, write_atomic

ROOT = Path(__file__).parents[2]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def put(cache: Cache, name: str, content: str = "content") -> None:
    with cache.building(name) as folder:
        (folder / "file").write_text(content)


def entry(tmp_path: Path, name: str) -> Path:
    return tmp_path / "cache" / "v1" / name


def test_an_entry_comes_back_with_files_and_folders(cache: Cache, tmp_path: Path) -> None:
    with cache.building("k") as folder:
        assert cache.get("k") is None, "not before it is whole"
        (folder / "m.mlpackage" / "Data").mkdir(parents=True)
        (folder / "m.mlpackage" / "Data" / "w.bin").write_bytes(b"\x00" * 3_000_000)
        (folder / "empty").write_bytes(b"")
    found = cache.get("k")
    assert found is not None
    assert sorted(os.listdir(found)) == ["empty", "m.mlpackage"]
    assert cache.link("k", "m.mlpackage", tmp_path / "out" / "m.mlpackage")
    assert (tmp_path / "out" / "m.mlpackage" / "Data" / "w.bin").read_bytes() == b"\x00" * 3_000_000
    assert cache.warning is None


def test_a_copy_can_be_edited_without_changing_the_cache(cache: Cache, tmp_path: Path) -> None:
    put(cache, "k")
    assert cache.link("k", "file", tmp_path / "copy")
    with (tmp_path / "copy").open("a") as file:
        file.write("edited")
    assert cache.link("k", "file", tmp_path / "again")
    assert (tmp_path / "again").read_text() == "content"


def test_what_is_not_there_is_none(cache: Cache, tmp_path: Path) -> None:
    put(cache, "k")
    assert cache.get("other") is None
    assert not cache.link("k", "other", tmp_path / "x")
    assert not cache.link("other", "file", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_name_that_climbs_out_is_refused(cache: Cache, tmp_path: Path) -> None:
    put(cache, "k")
    with pytest.raises(ValueError, match="not a path below"):
        cache.link("k", "../digests.json", tmp_path / "x")


def test_a_destination_that_cannot_be_written_is_an_output_error(cache: Cache, tmp_path: Path) -> None:
    put(cache, "k")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        cache.link("k", "file", tmp_path / "file" / "x")
    with pytest.raises(OutputError):
        cache.link("k", "file", tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "change", "extra", "missing", "digests", "no digests", "no files"])
def test_a_damaged_entry_counts_as_missing_and_is_removed(cache: Cache, tmp_path: Path, damage: str) -> None:
    put(cache, "k")
    files, digests = entry(tmp_path, "k") / "files", entry(tmp_path, "k") / "digests.json"
    match damage:
        case "truncate":
            (files / "file").write_bytes(b"")
        case "change":
            (files / "file").write_text("CONTENT")
        case "extra":
            (files / "more").write_text("")
        case "missing":
            (files / "file").unlink()
        case "digests":
            digests.write_text("{")
        case "no digests":
            digests.unlink()
        case "no files":
            shutil.rmtree(files)
    assert cache.get("k") is None
    assert os.listdir(tmp_path / "cache" / "v1") == []
    put(cache, "k", "anew")
    assert cache.link("k", "file", tmp_path / "x")


def test_a_damaged_entry_is_replaced_by_a_new_one(cache: Cache, tmp_path: Path) -> None:
    put(cache, "k")
    (entry(tmp_path, "k") / "files" / "file").write_text("damaged")
    put(cache, "k", "anew")
    assert cache.link("k", "file", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "anew"


def test_an_exception_in_the_block_passes_through_and_leaves_nothing(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(ConversionError), cache.building("k") as folder:
        (folder / "file").write_text("half")
        raise ConversionError("no")
    assert cache.get("k") is None
    assert os.listdir(tmp_path / "cache" / "v1") == []


def test_a_disk_that_is_full_costs_the_entry_only_and_is_told_once(cache: Cache, tmp_path: Path) -> None:
    for _ in range(2):
        with cache.building("k") as folder:
            write_atomic(folder / "missing" / "file", "x")
    with cache.building("k"):
        raise OSError(28, "No space left on device")
    assert cache.get("k") is None
    assert cache.warning is not None
    assert "missing" in cache.warning
    assert os.listdir(tmp_path / "cache" / "v1") == []


def test_a_cache_that_cannot_be_written_is_turned_off_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache")
    put(cache, "k")
    cache.put_json("j", 1)
    cache.prune()
    assert (cache.get("k"), cache.get_json("j"), cache.enabled) == (None, None, False)
    assert cache.warning is not None
    assert "no cache is used" in cache.warning


def test_a_disabled_cache_reads_and_writes_nothing(cache: Cache, tmp_path: Path) -> None:
    put(cache, "k")
    off = Cache(tmp_path / "cache", enabled=False)
    put(off, "other")
    off.put_json("j", 1)
    assert (off.get("k"), off.get_json("j"), off.link("k", "file", tmp_path / "x"), off.warning) == (None, None, False, None)
    assert os.listdir(tmp_path / "cache" / "v1") == ["k"]
    Cache(tmp_path / "never", enabled=False)
    assert not (tmp_path / "never").exists()


@given(value=JSON)
def test_json_values_come_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    cache = Cache(tmp_path_factory.getbasetemp() / "json")
    name = Cache.key({"value": value})
    cache.put_json(name, value)
    assert cache.get_json(name) == value


@given(st.lists(st.text() | st.binary() | st.dictionaries(st.text(), JSON), max_size=4))
def test_equal_parts_give_equal_keys_in_any_order_of_a_mapping(parts: list[object]) -> None:
    turned = [dict(reversed(part.items())) if isinstance(part, dict) else part for part in parts]
    assert Cache.key(*parts) == Cache.key(*turned)  # type: ignore[arg-type]
    assert len(Cache.key(*parts)) == 64  # type: ignore[arg-type]


def test_parts_of_another_kind_or_cut_give_another_key() -> None:
    keys = [
        Cache.key("ab"),
        Cache.key("a", "b"),
        Cache.key(b"ab"),
        Cache.key({"ab": None}),
        Cache.key("b", "a"),
        Cache.key(),
        Cache.key(""),
        Cache.key("", ""),
        Cache.key('{"ab":null}'),
    ]
    assert len(set(keys)) == len(keys)


def test_a_key_is_the_same_in_every_process() -> None:
    code = "from edgeopt.support.cache import Cache; print(Cache.key('x', b'y', {'b': [1.5, None], 'a': 'é'}))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    assert printed == Cache.key("x", b"y", {"a": "é", "b": [1.5, None]})


def age(tmp_path: Path, name: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(entry(tmp_path, name), (then, then))


def test_prune_removes_the_least_recently_used_and_what_was_abandoned(cache: Cache, tmp_path: Path) -> None:
    for number in range(4):
        put(cache, f"k{number}", "x" * 10_000)
        age(tmp_path, f"k{number}", 100_000 - number)
    (entry(tmp_path, ".building-1-x") / "files").mkdir(parents=True)
    age(tmp_path, ".building-1-x", 100_000)
    (entry(tmp_path, ".building-2-x") / "files").mkdir(parents=True)
    assert cache.get("k0") is not None
    cache.prune(25_000)
    assert sorted(os.listdir(tmp_path / "cache" / "v1")) == [".building-2-x", "k0", "k3"]


def test_prune_leaves_what_was_used_lately_even_above_the_limit(cache: Cache) -> None:
    put(cache, "k")
    cache.prune(0)
    assert cache.get("k") is not None
    cache.prune(0, in_use_s=-1)
    assert cache.get("k") is None


def test_many_processes_and_threads_share_one_cache(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from edgeopt.support.cache import Cache
        cache = Cache(Path(sys.argv[1]))
        for number in range(60):
            name = f"k{number % 5}"
            with cache.building(name) as folder:
                (folder / "file").write_text(name * 10_000)
            found = cache.get(name)
            if found is not None and number % 7:
                assert (found / "file").read_text() == name * 10_000
            if number % 10 == 9:
                cache.prune(0, in_use_s=0.5)
        assert cache.warning is None, cache.warning
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "cache")]
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True, cwd=ROOT), range(3)))
    assert [(done.returncode, done.stderr) for done in runs] == [(0, "")] * 3


def test_the_root_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("EDGEOPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "edgeopt"


def test_an_entry_is_laid_out_as_documented(cache: Cache, tmp_path: Path) -> None:
    put(cache, "k")
    digests = json.loads((entry(tmp_path, "k") / "digests.json").read_text())
    assert list(digests) == ["file"]


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_copies_are_whole_and_replace_longer_files(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    (tmp_path / "copy").write_bytes(b"x" * 6_000_000)
    copy_file(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
