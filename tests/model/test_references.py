import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgeopt.errors import (
    CalibrationError,
    EdgeoptError,
    EvaluationError,
    InputError,
    ModelError,
    ReferenceNotFound,
    UsageError,
)
from edgeopt.model.input_text import DTYPES, InputSpec, generate, parse_input
from edgeopt.model.references import load_model, resolve, stem

NET = """
from torch import nn
import edgeopt
from sibling import SIZE

class Net(nn.Linear):
    def __init__(self):
        super().__init__(SIZE, 2)

net = Net()
def build():
    return Net()
def lazy():
    from late import SIZE
    return nn.Linear(SIZE, 2)
def broken():
    raise ValueError("no weights here")
def leaves():
    raise SystemExit("install the weights first")
def whole():
    return edgeopt.Model(Net(), (sample(),), calibration=batches)
def named():
    return edgeopt.Model(Net(), (sample(),), name="mine")
def sample():
    import torch
    return torch.ones(1, SIZE)
def batches():
    yield (sample(),)
def needs(size):
    return nn.Linear(size, 2)
SIZES = 3
"""


@pytest.fixture(autouse=True)
def _clean_imports() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("_edgeopt_user_", "sibling", "late", "pack")):
            del sys.modules[name]


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "sibling.py").write_text("SIZE = 4")
    (tmp_path / "late.py").write_text("SIZE = 5")
    return str(tmp_path / "net.py")


def test_a_file_s_object_is_found_and_its_siblings_are_importable(net: str) -> None:
    assert isinstance(resolve(f"{net}:net"), nn.Linear)


def test_two_references_into_one_file_share_the_module(net: str) -> None:
    assert resolve(f"{net}:net") is resolve(f"{net}:net")


def test_a_method_of_a_class_can_be_named(net: str) -> None:
    assert callable(resolve(f"{net}:Net.forward"))


def test_the_current_folder_is_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "models.py").write_text("value = 7")
    monkeypatch.chdir(tmp_path)
    assert resolve("pack.models:value") == 7
    with pytest.raises(ReferenceNotFound, match=r"did you mean 'pack\.models'"):
        resolve("pack.model:value")


def test_a_user_s_file_does_not_hide_an_installed_package_afterwards(tmp_path: Path, net: str) -> None:
    resolve(f"{net}:net")
    assert sys.path[-1] == str(tmp_path)
    assert sys.path[0] != str(tmp_path)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("net.py", "names no object"),
        ("nett.py:net", "did you mean 'net.py'"),
        ("net.py:nett", "did you mean 'net'"),
        ("net.py:Net.forwards", "did you mean 'forward'"),
        ("nett.pt2", "there is no file"),
        ("no_such_module_here:x", "there is no module"),
        ("a..b:x", "neither a .py file nor a module"),
        ("", "names no object"),
        (":", "names no object"),
    ],
)
def test_what_leads_nowhere_is_named_with_the_nearest(
    net: str, reference: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(net).parent)
    with pytest.raises(ReferenceNotFound) as caught:
        resolve(reference)
    assert said in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_an_object_or_one_of_our_errors(text: str) -> None:
    with pytest.raises(EdgeoptError):
        resolve(f"{text}:no_such_name")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import torch\nx = 1 / 0\n", r"ZeroDivisionError: division by zero \(.*bad\.py, line 2: x = 1 / 0\)"),
        ("def f(:\n", r"SyntaxError: .*bad\.py, line 1"),
        ("import no_such_module_here\n", "No module named 'no_such_module_here'"),
        ("raise SystemExit('stop')\n", "SystemExit: stop"),
    ],
)
def test_a_module_that_raises_on_import_shows_the_user_s_line(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "bad.py").write_text(source)
    before = set(sys.modules)
    with pytest.raises(ModelError, match=said):
        resolve(f"{tmp_path}/bad.py:x")
    assert not any(name.startswith("_edgeopt_user_") for name in set(sys.modules) - before)


@pytest.mark.parametrize("name", ["net", "build", "Net"])
def test_a_module_a_function_and_a_class_all_make_a_model(net: str, name: str) -> None:
    model = load_model(f"{net}:{name}", inputs=(parse_input("2x4"),))
    assert isinstance(model.module, nn.Linear)
    assert model.name == "net"
    assert model.example_inputs[0].shape == (2, 4)


def test_imports_inside_a_function_work_too(net: str) -> None:
    assert load_model(f"{net}:lazy", inputs=(parse_input("1x5"),)).module.in_features == 5  # type: ignore[union-attr]


def test_a_model_keeps_its_own_data_unless_given_other(net: str) -> None:
    model = load_model(f"{net}:whole")
    assert callable(model.calibration)
    assert model.evaluate is None
    other = load_model(f"{net}:whole", calibration=f"{net}:lazy", evaluate=f"{net}:build", inputs=(parse_input("3x4"),))
    assert other.calibration is resolve(f"{net}:lazy")
    assert other.evaluate is resolve(f"{net}:build")
    assert other.example_inputs[0].shape == (3, 4)


def test_a_model_keeps_the_name_its_author_gave(net: str) -> None:
    assert (load_model(f"{net}:named").name, load_model(f"{net}:whole").name) == ("mine", "net")


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("build", InputError, "pass --input"),
        ("SIZES", ModelError, "is a int, not a model"),
        ("broken", ModelError, r"no weights here \(.*net\.py, line 17: raise ValueError"),
        ("leaves", ModelError, "install the weights first"),
        ("needs", ModelError, "called without arguments"),
    ],
)
def test_what_is_no_model_says_why(net: str, name: str, error: type[EdgeoptError], said: str) -> None:
    with pytest.raises(error, match=said):
        load_model(f"{net}:{name}")


def test_data_and_evaluation_must_be_usable(net: str) -> None:
    with pytest.raises(CalibrationError, match="is a int"):
        load_model(f"{net}:whole", calibration=f"{net}:SIZES")
    with pytest.raises(EvaluationError, match="is a int"):
        load_model(f"{net}:whole", evaluate=f"{net}:SIZES")


def test_a_saved_program_brings_its_own_inputs(tmp_path: Path) -> None:
    path = tmp_path / "small.pt2"
    torch.export.save(torch.export.export(nn.Linear(4, 2), (torch.ones(1, 4),)), path)
    model = load_model(str(path))
    assert model.name == "small"
    assert model.example_inputs[0].shape == (1, 4)


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt2").write_text("not an archive")
    with pytest.raises(ModelError, match=r"no \.pt2 archive"):
        load_model(str(tmp_path / "text.pt2"))


def test_a_program_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "evil.pt2", "w") as archive:
        archive.writestr("evil/data/constants/opaque_obj_0", b"anything")
    with pytest.raises(ModelError, match="does not read"):
        load_model(str(tmp_path / "evil.pt2"))


@pytest.mark.parametrize(
    ("reference", "name"), [("a/b/net.py:f", "net"), ("pack.models:f", "models"), ("a/b.pt2", "b"), ("m:f", "m")]
)
def test_the_name_is_the_readable_part(reference: str, name: str) -> None:
    assert stem(reference) == name


specs = st.builds(
    InputSpec,
    name=st.none() | st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True),
    shape=st.lists(st.integers(1, 10**9 - 1), max_size=5).map(tuple),
    dtype=st.sampled_from(DTYPES),
)


@given(specs)
def test_an_input_s_text_reads_back_as_itself(spec: InputSpec) -> None:
    assert parse_input(str(spec)) == spec


@given(st.text(max_size=30))
def test_any_text_is_an_input_or_a_usage_error_with_an_example(text: str) -> None:
    try:
        parse_input(text)
    except UsageError as error:
        assert "1x3x224x224:float32" in error.fix


def test_an_unknown_dtype_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'float32'"):
        parse_input("1x3:flaot32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_generated_inputs_have_the_shape_and_dtype_and_repeat(dtype: str) -> None:
    (first,), (second,) = (generate((InputSpec(shape=(3, 5), dtype=dtype),)) for _ in range(2))
    assert first.shape == (3, 5)  # type: ignore[union-attr]
    assert first.dtype == getattr(torch, dtype)  # type: ignore[union-attr]
    assert torch.equal(first, second)  # type: ignore[arg-type]


def test_named_inputs_become_a_dict_and_mixing_is_refused() -> None:
    ids, mask = parse_input("ids=1x8:int64"), parse_input("mask=1x8:int64")
    assert set(generate((ids, mask))) == {"ids", "mask"}
    with pytest.raises(UsageError, match="some have none"):
        generate((ids, parse_input("1x8")))
    with pytest.raises(UsageError, match="same name"):
        generate((ids, ids))


def test_an_input_that_does_not_fit_in_memory_is_an_error() -> None:
    with pytest.raises(InputError, match="cannot be made"):
        generate((parse_input("999999999x999999999"),))
