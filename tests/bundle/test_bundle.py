"""A bundle is written whole or not at all, never over somebody's files, and can be checked by anyone."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt.bundle.bundle import Bundle, BundleWriter
from edgeopt.core import MANIFEST_SCHEMA_VERSION, Artifact, Manifest, ModelFacts, Structure, TargetResult, to_json
from edgeopt.errors import ConfigError, OutputError
from edgeopt.support.files import sha256_of, size_of

ROOT = Path(__file__).parents[2]


def result(path: str, sha256: str = "0" * 64, size: int = 1) -> TargetResult:
    artifact = Artifact(
        path=path, format="onnx", sha256=sha256, bytes=size, inputs=(), outputs=(), structure=Structure(operators={}),
        tool_versions={},
    )  # fmt: skip
    return TargetResult(target="arm-ort", format="onnx", status="ok", artifact=artifact)


def manifest(*results: TargetResult) -> Manifest:
    model = ModelFacts(name="m", sha256="0" * 64, parameters=1, macs=1, inputs=(), outputs=())
    return Manifest(edgeopt_version="0.1.0", model=model, calibration="none", results=results)


def export(out: Path, content: str = "new", names: tuple[str, ...] = ("arm-ort/model.onnx",)) -> Bundle:
    with BundleWriter(out) as writer:
        for name in names:
            (writer.folder(str(Path(name).parent)) / Path(name).name).write_text(content)
        (writer.log_folder / "arm-ort-onnx.log").write_text("chatter")
        artifact = writer.folder("arm-ort") / "model.onnx"
        return writer.commit(manifest(result("arm-ort/model.onnx", sha256_of(artifact), size_of(artifact))))


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_bundle_round_trips_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    written = export(tmp_path / "deep" / "er" / "bundle")
    assert Bundle.load(written.path) == written
    assert written.verify() == ()
    assert written.artifact_path(written.manifest.results[0]).read_text() == "new"
    assert os.listdir(tmp_path / "deep" / "er") == ["bundle"]
    assert tree(written.path) == ["SHA256SUMS", "arm-ort/model.onnx", "logs/arm-ort-onnx.log", "manifest.json"]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_accepts_the_list_and_notices_a_change(tmp_path: Path) -> None:
    bundle = export(tmp_path / "b", names=("arm-ort/model.onnx", "apple-ane/m.mlpackage/Data/w é.bin", "z/ leading"))
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(check, cwd=bundle.path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
    (bundle.path / "arm-ort" / "model.onnx").write_text("changed")
    assert subprocess.run(check, cwd=bundle.path, capture_output=True).returncode == 1


def test_the_same_content_gives_the_same_bytes_but_for_logs(tmp_path: Path) -> None:
    one, other = export(tmp_path / "one"), export(tmp_path / "other")
    (other.path / "logs" / "arm-ort-onnx.log").write_text("at another time")
    assert (one.path / "SHA256SUMS").read_bytes() == (other.path / "SHA256SUMS").read_bytes()
    assert other.verify() == ()


def test_a_new_export_replaces_the_old_bundle_wholly(tmp_path: Path) -> None:
    export(tmp_path / "b", "old", names=("arm-ort/model.onnx", "gone/file"))
    bundle = export(tmp_path / "b", "new")
    assert "gone/file" not in tree(bundle.path)
    assert (bundle.path / "arm-ort" / "model.onnx").read_text() == "new"
    assert os.listdir(tmp_path) == ["b"]


def test_leaving_without_a_commit_keeps_the_old_bundle_and_removes_the_rest(tmp_path: Path) -> None:
    export(tmp_path / "b", "old")
    with pytest.raises(KeyboardInterrupt), BundleWriter(tmp_path / "b") as writer:
        (writer.folder("arm-ort") / "model.onnx").write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "b" / "arm-ort" / "model.onnx").read_text() == "old"
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize(
    ("fault", "seen"), [(OSError(errno.EIO, "i/o error"), OutputError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_swap_that_fails_half_way_puts_the_old_bundle_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, seen: type[BaseException]
) -> None:
    export(tmp_path / "b", "old")
    rename = Path.rename

    def fail_once(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise fault
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(seen):
        export(tmp_path / "b")
    assert (tmp_path / "b" / "arm-ort" / "model.onnx").read_text() == "old"
    assert os.listdir(tmp_path) == ["b"]


def test_a_folder_that_is_not_a_bundle_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("mine")
    with pytest.raises(OutputError, match="edgeopt did not write it"), BundleWriter(tmp_path / "thesis"):
        pass
    assert (tmp_path / "thesis" / "chapter").read_text() == "mine"
    assert os.listdir(tmp_path) == ["thesis"]


@pytest.mark.parametrize("content", ['{"name": "my PWA", "icons": []}', "[]", "not JSON", '{"schema_version": 3}'])
def test_a_manifest_of_something_else_is_no_bundle(content: str, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text(content)
    (tmp_path / "app" / "index.html").write_text("mine")
    with pytest.raises(OutputError, match="edgeopt did not write it"), BundleWriter(tmp_path / "app"):
        pass
    assert sorted(os.listdir(tmp_path / "app")) == ["index.html", "manifest.json"]


@pytest.mark.parametrize("name", ["notes.txt", ".git/HEAD", "arm-ort/mine.txt", "logs/thesis.txt", "logs/training.log"])
def test_somebody_s_file_in_a_bundle_keeps_it_from_being_replaced(name: str, tmp_path: Path) -> None:
    bundle = export(tmp_path / "b", "old")
    (bundle.path / name).parent.mkdir(exist_ok=True)
    (bundle.path / name).write_text("mine")
    with pytest.raises(OutputError, match=f"did not write '{name}'"):
        export(tmp_path / "b")
    assert (bundle.path / name).read_text() == "mine" and (bundle.path / "arm-ort" / "model.onnx").read_text() == "old"


@pytest.mark.parametrize("name", ["mine", "logs/tensorboard", "arm-ort/empty"])
def test_somebody_s_empty_folder_in_a_bundle_keeps_it_too(name: str, tmp_path: Path) -> None:
    bundle = export(tmp_path / "b", "old")
    (bundle.path / name).mkdir()
    with pytest.raises(OutputError, match=f"did not write '{name}/'"):
        export(tmp_path / "b")
    assert (bundle.path / name).is_dir()


def test_the_logs_of_the_last_export_may_be_gone_or_altered(tmp_path: Path) -> None:
    bundle = export(tmp_path / "b", "old")
    (bundle.path / "logs" / "edgeopt.log").write_text("x")
    (bundle.path / "logs" / "arm-ort-onnx.log").unlink()
    assert export(tmp_path / "b").verify() == ()


def test_a_target_without_an_artifact_has_no_folder(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as writer:
        writer.folder("arm-ort")
        writer.commit(manifest())
    assert tree(tmp_path / "b") == ["SHA256SUMS", "manifest.json"] and not (tmp_path / "b" / "arm-ort").exists()


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    assert export(tmp_path / "b").verify() == ()


def test_a_file_in_its_place_or_on_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(OutputError), BundleWriter(out):
            pass
    assert (tmp_path / "file").read_text() == "mine"


def test_a_mount_point_is_refused_before_any_work() -> None:
    with pytest.raises(OutputError, match="mount point") as caught:
        BundleWriter(Path("/"))
    assert "/bundle" in caught.value.fix


def test_a_link_is_followed_so_that_the_bundle_lies_on_the_disk_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "b")
    export(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert Bundle.load(tmp_path / "disk" / "b").verify() == ()


def test_a_loop_of_links_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OutputError), BundleWriter(tmp_path / "a"):
        pass


def test_two_exports_to_one_folder_at_once_are_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as first:
        with pytest.raises(OutputError, match="another export"), BundleWriter(tmp_path / "b"):
            pass
        with BundleWriter(tmp_path / "c"):
            pass
        (first.folder("arm-ort") / "model.onnx").write_text("x")
        first.commit(manifest())
    with BundleWriter(tmp_path / "b"):
        pass


def test_an_export_that_was_killed_is_tidied_up_by_the_next(tmp_path: Path) -> None:
    export(tmp_path / "b", "old")
    code = """
        import os, signal, sys
        from pathlib import Path
        from edgeopt.bundle.bundle import BundleWriter
        with BundleWriter(Path(sys.argv[1])) as writer:
            (writer.folder("arm-ort") / "model.onnx").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "b")], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert len(os.listdir(tmp_path)) == 3
    (tmp_path / ".b.tmp-mine").mkdir()
    (tmp_path / ".b.tmp-mine" / "thesis.txt").write_text("mine")
    assert Bundle.load(tmp_path / "b").verify() == ()
    export(tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == [".b.tmp-mine", "b"]
    assert (tmp_path / ".b.tmp-mine" / "thesis.txt").read_text() == "mine"


KILLED_IN_A_SWAP = """
    import os, signal, sys
    from pathlib import Path
    from tests.bundle.test_bundle import export
    rename = Path.rename
    def killed(self, target):
        if self.name == "new":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)
    Path.rename = killed
    export(Path(sys.argv[1]))
"""


def killed_in_a_swap(out: Path) -> None:
    code = textwrap.dedent(KILLED_IN_A_SWAP)
    subprocess.run([sys.executable, "-c", code, str(out)], env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("name", ["b", "b[1]"])
def test_an_export_killed_between_its_two_renames_is_undone_by_the_next(name: str, tmp_path: Path) -> None:
    export(tmp_path / name, "old")
    killed_in_a_swap(tmp_path / name)
    assert not (tmp_path / name).exists()
    with BundleWriter(tmp_path / name):
        pass
    assert (tmp_path / name / "arm-ort" / "model.onnx").read_text() == "old"
    assert os.listdir(tmp_path) == [name]


def test_an_export_to_another_folder_clears_what_is_not_somebody_s_only_bundle(tmp_path: Path) -> None:
    export(tmp_path / "b", "old")
    killed_in_a_swap(tmp_path / "b")
    export(tmp_path / "c")
    export(tmp_path / "b", "new")
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


def test_somebody_else_s_hidden_folder_beside_it_stays(tmp_path: Path) -> None:
    for name in (".b.tmp-mine", ".b.old-mine", ".bb.tmp-1"):
        (tmp_path / name).mkdir()
    export(tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == [".b.old-mine", ".b.tmp-mine", ".bb.tmp-1", "b"]


def test_verify_names_missing_changed_and_extra_files(tmp_path: Path) -> None:
    bundle = export(tmp_path / "b", names=("arm-ort/model.onnx", "a/one", "a/two"))
    (bundle.path / "a" / "one").unlink()
    (bundle.path / "a" / "two").write_text("changed")
    (bundle.path / "a" / "three").write_text("extra")
    (bundle.path / "a" / "link").symlink_to("/etc/passwd")
    (bundle.path / "arm-ort" / "model.onnx").write_text("changed")
    problems = "\n".join(bundle.verify())
    for expected in (
        "a/one is missing", "a/two has changed", "a/three is not listed", "a/link is a link",
        "arm-ort/model.onnx is not what manifest.json describes",
    ):  # fmt: skip
        assert expected in problems


def test_verify_names_a_missing_or_broken_list(tmp_path: Path) -> None:
    bundle = export(tmp_path / "b")
    (bundle.path / "SHA256SUMS").write_text("0" * 64 + "  ../../etc/passwd\n")
    assert "SHA256SUMS cannot be read" in bundle.verify()[0]
    (bundle.path / "SHA256SUMS").unlink()
    assert "SHA256SUMS cannot be read" in bundle.verify()[0]


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "", "a/../../secret"])
def test_a_manifest_that_points_outside_is_refused(tmp_path: Path, path: str) -> None:
    bundle = export(tmp_path / "b")
    evil = replace(bundle, manifest=manifest(result(path)))
    with pytest.raises(ConfigError, match="outside the bundle"):
        evil.artifact_path(evil.manifest.results[0])
    assert any("outside the bundle" in problem for problem in evil.verify())


def test_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    bundle = export(tmp_path / "b")
    (bundle.path / "way").symlink_to("/etc")
    with pytest.raises(ConfigError, match="outside the bundle"):
        bundle.artifact_path(result("way/passwd"))


def test_a_result_without_an_artifact_says_why(tmp_path: Path) -> None:
    failed = TargetResult(target="arm-ort", format="onnx", status="failed", reason="no such operator")
    with pytest.raises(ConfigError, match="no such operator"):
        export(tmp_path / "b").artifact_path(failed)


def test_a_newer_schema_is_refused_with_the_next_step(tmp_path: Path) -> None:
    bundle = export(tmp_path / "b")
    newer = replace(bundle.manifest, schema_version=MANIFEST_SCHEMA_VERSION + 1)
    (bundle.path / "manifest.json").write_text(to_json(newer).replace('"calibration"', '"new_key": 1, "calibration"'))
    with pytest.raises(ConfigError, match="newer edgeopt") as caught:
        Bundle.load(bundle.path)
    assert "upgrade" in caught.value.fix


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 1}', '{"schema_version": "x"}', "[" * 100_000, "\x00"])
def test_a_damaged_manifest_is_a_config_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ConfigError):
        Bundle.load(tmp_path)


def test_a_folder_without_a_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a bundle"):
        Bundle.load(tmp_path / "nothing")
