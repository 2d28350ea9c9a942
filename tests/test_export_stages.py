"""The stopwatches of scripts/export_stages.py stand at functions that there are, and its lines become a table."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(SCRIPTS)
    return import_module


def there_is(where: str) -> bool:
    module, _, path = where.partition(":")
    found: object = import_module(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    return callable(found)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_every_stage_is_a_function_that_there_is(script: Callable[[str], ModuleType]) -> None:
    stages = script("export_stages")
    assert [where for where in (*stages.MAIN, *stages.CHILD) if not there_is(where)] == []


def test_stages_within_stages_become_rows_under_them(tmp_path: Path, script: Callable[[str], ModuleType]) -> None:
    lines, manifest = tmp_path / "stages.jsonl", tmp_path / "manifest.json"
    records = [
        {"stage": ["convert a/model.onnx", "load"], "wall": 1.0, "cpu": 0.5, "ended": 12.0},
        {"stage": ["convert a/model.onnx", "load"], "wall": 1.0, "cpu": 0.5, "ended": 13.0},
        {"stage": ["convert a/model.onnx"], "wall": 4.0, "cpu": 3.0, "ended": 14.0},
        {"stage": ["capture"], "wall": 2.0, "cpu": 2.0, "ended": 5.0},
        {"stage": ["nothing"], "wall": 0.0, "cpu": 0.0, "ended": 6.0},
    ]
    lines.write_text("\n".join(map(json.dumps, records)))
    shared = {"target": "b", "format": "onnx", "plan": {"decisions": [{"choice": "shared with a"}]}}
    manifest.write_text(json.dumps({"results": [shared, {"target": "c", "format": "onnx", "plan": None}]}))
    rows = [" ".join(row.split()) for row in script("stage_table").table(lines, manifest, 10.0)]
    assert rows == [
        "stage times wall s CPU s share",
        "capture 1 2.0 2.0 20.0%",
        "convert a/model.onnx 1 4.0 3.0 30.0%",
        "load 2 2.0 1.0 10.0%",
        "forks, ends, logs, and the artifacts' own sessions 1 5.0 50.0%",
        "all 1 10.0 100.0%",
        "b/onnx: made once, shared with a",
    ]
