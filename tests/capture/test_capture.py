import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeopt.capture import Captured, capture
from edgeopt.errors import CaptureError, EdgeoptError, ForwardError, InputError, ModelError, NotFiniteError
from edgeopt.model.model import Model
from tests.captures import Calls, Normed, run

aten = torch.ops.aten
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
torch.manual_seed(0)


def refused(module: nn.Module, example: Any, error: type[EdgeoptError]) -> str:
    with pytest.raises(error) as caught:
        capture(Model(module, example))
    return caught.value.message()


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


@dataclass
class Unregistered:
    logits: Tensor


pytree.register_dataclass(Output)


class Sums(nn.Module):
    def forward(self, image: Tensor, ids: Tensor, mask: Tensor | None = None) -> Any:
        total = image.sum(-1) + ids
        return {"logits": total if mask is None else total * mask, "more": (image, [ids])}


def test_positional_inputs_are_named_after_forward_s_parameters_and_dicts_of_outputs_after_their_keys() -> None:
    captured = capture(Model(Sums(), (torch.rand(2, 3), torch.tensor([4, 5]))))
    assert [(s.name, s.shape, s.dtype) for s in captured.signature.specs] == [
        ("image", (2, 3), "float32"),
        ("ids", (2,), "int64"),
    ]
    assert [s.name for s in captured.outputs] == ["logits", "more_0", "more_1_0"]
    assert [n.name for n in captured.program.graph.nodes if n.op == "placeholder"] == ["image", "ids"]


def test_inputs_by_name_keep_their_names_and_nest() -> None:
    class Nested(nn.Module):
        def forward(self, batch: dict[str, Tensor], scale: Tensor) -> Tensor:
            return batch["x"] * batch["y"] * scale

    example = {"batch": {"x": torch.rand(3), "y": torch.rand(3)}, "scale": torch.rand(3)}
    captured = capture(Model(Nested(), example))
    assert [s.name for s in captured.signature.specs] == ["batch_x", "batch_y", "scale"]
    assert [s.name for s in captured.outputs] == ["output"]
    torch.testing.assert_close(run(captured)[0], example["batch"]["x"] * example["batch"]["y"] * example["scale"])


def test_a_dataclass_of_outputs_is_named_by_its_fields() -> None:
    captured = capture(Model(Calls(lambda x: Output(x + 1, x * 2)), torch.rand(3)))
    assert [s.name for s in captured.outputs] == ["logits", "hidden"]


def test_a_tuple_of_outputs_is_numbered_and_what_is_no_tensor_is_left_out() -> None:
    captured = capture(Model(Calls(lambda x: (x + 1, None, 3, [x * 2])), torch.rand(3)))
    assert [s.name for s in captured.outputs] == ["output_0", "output_3_0"]


@pytest.mark.parametrize("returned", [None, 3, {}, Unregistered(torch.ones(2))])
def test_a_module_that_returns_no_tensor_is_refused(returned: Any) -> None:
    assert "returns no tensor" in refused(Calls(lambda x: returned), torch.rand(2), ModelError)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool])
def test_integer_and_boolean_inputs_keep_their_dtype(dtype: torch.dtype) -> None:
    captured = capture(Model(Calls(lambda x: x * 1.5), torch.ones(3).to(dtype)))
    assert captured.signature.specs[0].dtype == str(dtype).removeprefix("torch.")
    assert torch.equal(run(captured)[0], torch.full((3,), 1.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_low_precision_model_is_computed_as_float32_and_says_so(dtype: torch.dtype) -> None:
    module = nn.Linear(4, 2).to(dtype)
    captured = capture(Model(module, torch.rand(1, 4, dtype=dtype)))
    assert captured.signature.specs[0].dtype == captured.outputs[0].dtype == "float32"
    assert [d.choice for d in captured.decisions] == [f"{dtype} computed as float32"]
    assert module.weight.dtype == dtype


def test_numpy_inputs_are_taken() -> None:
    captured = capture(Model(nn.Linear(4, 2), torch.rand(1, 4).numpy()))
    assert captured.signature.specs[0].shape == (1, 4)


@pytest.mark.parametrize(
    ("example", "said"), [(None, "no example inputs"), ((), "no tensor"), ((1.5,), "a float, not a dense tensor")]
)
def test_an_example_that_is_no_tensor_is_refused(example: Any, said: str) -> None:
    assert said in refused(nn.Identity(), example, InputError)


def test_the_user_s_module_is_left_as_it_was() -> None:
    module = Normed().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    capture(Model(module, torch.randn(1, 3, 9, 9)))
    assert module.training
    assert all(layer.training for layer in module.modules())
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_broken_weight_is_named(value: float) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        module[1].weight[0, 1] = value
    assert "parameter 1.weight holds 1 NaN or infinite value" in refused(module, torch.rand(1, 4), NotFiniteError)


def test_a_broken_batch_norm_statistic_is_named() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    module[1].running_var[2] = math.nan
    assert "buffer 1.running_var holds 1 NaN" in refused(module, torch.rand(1, 3, 4, 4), NotFiniteError)


def test_a_broken_example_is_named() -> None:
    assert "example input input" in refused(nn.Linear(2, 2), torch.tensor([[1.0, math.nan]]), NotFiniteError)


def test_the_layer_that_makes_the_first_nan_is_named() -> None:
    class Logs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.log()

    module = nn.Sequential(nn.Identity(), Logs(), nn.ReLU())
    said = refused(module, -torch.ones(1, 2), NotFiniteError)
    assert "the first NaN comes from layer 1" in said


def test_a_forward_that_raises_is_told_with_the_user_s_line(tmp_path: Path) -> None:
    said = refused(users(tmp_path, "raise KeyError('no such key')"), torch.rand(2), ForwardError)
    assert f"{tmp_path}/net.py, line 4: raise KeyError('no such key')" in said
    assert "KeyError: 'no such key'" in said
    assert "x=2:float32" in said


@pytest.mark.parametrize(
    "code", ["if x.sum() > 0: x = x + 1", "x = x[: int(x.sum())]", "x = x * x.sum().item() if x.max() > 0 else x"]
)
def test_control_flow_that_depends_on_values_is_told_with_the_user_s_line(tmp_path: Path, code: str) -> None:
    said = refused(users(tmp_path, code), torch.ones(2), CaptureError)
    assert f"{tmp_path}/net.py, line 4" in said
    assert "torch.where" in said


def users(folder: Path, code: str) -> nn.Module:
    """A module from a file as a user has it; ``code`` is its line 4."""
    path = folder / "net.py"
    path.write_text(
        f"from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        {code}\n        return x\n"
    )
    names: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    module: nn.Module = names["Net"]()
    return module


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ModelError, match="is a int, not"):
        capture(Model(3, torch.ones(1)))  # type: ignore[arg-type]


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    module = nn.Linear(2, 2)
    module.lines = (line for line in "ab")  # type: ignore[assignment]
    assert "copied" in refused(module, torch.rand(1, 2), ModelError)


def two_layers(bias: float = 0.0, activation: type[nn.Module] = nn.ReLU) -> Captured:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 4), activation(), nn.Linear(4, 2))
    with torch.no_grad():
        module[2].bias[0] += bias
    return capture(Model(module, torch.ones(1, 4)))


def test_the_digest_is_that_of_graph_constants_and_interface() -> None:
    plain = two_layers().sha256()
    assert plain == two_layers().sha256()
    assert plain != two_layers(bias=1e-6).sha256()
    assert plain != two_layers(activation=nn.Tanh).sha256()


def test_the_digest_depends_on_names_and_shapes_of_the_interface() -> None:
    module = nn.ReLU()
    digests = {
        capture(Model(module, torch.ones(1, 4))).sha256(),
        capture(Model(module, torch.ones(1, 5))).sha256(),
        capture(Model(Calls(module), torch.ones(1, 4))).sha256(),
    }
    assert len(digests) == 3


def test_an_exported_program_brings_its_own_example_inputs() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    program = torch.export.export(module, (torch.rand(1, 4),))
    captured = capture(Model(program))
    assert captured.signature.specs[0].shape == (1, 4)
    torch.testing.assert_close(run(captured)[0], module(captured.example[0]).detach())


def test_a_program_exported_with_names_keeps_them() -> None:
    program = torch.export.export(Sums().eval(), (), {"image": torch.rand(2, 3), "ids": torch.tensor([1, 2])})
    captured = capture(Model(program))
    assert [s.name for s in captured.signature.specs] == ["image", "ids"]
    assert captured.outputs[0].name == "logits"


def test_a_program_without_example_inputs_says_what_to_pass() -> None:
    program = torch.export.export(nn.ReLU(), (torch.rand(1, 4),))
    program._example_inputs = None
    with pytest.raises(InputError, match="--input"):
        capture(Model(program))


def test_what_float32_loses_of_an_input_is_a_refusal_that_names_it() -> None:
    class Minutes(nn.Module):
        def forward(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 2, (t - 1.7e9) / 60

    since = torch.tensor([[1.7e9 + 63.7]], dtype=torch.float64)
    with pytest.raises(InputError, match="more digits of its input t than float32 has"):
        capture(Model(Minutes(), (since, torch.rand(1, 3))))
    capture(Model(Minutes(), (torch.rand(1, 1, dtype=torch.float64) * 1e9, torch.rand(1, 3))))


def test_an_output_whose_size_the_data_decides_is_refused_by_name() -> None:
    with pytest.raises(CaptureError, match=r"the size of output output depends on the input's values: see .*captures"):
        capture(Model(Calls(lambda x: (x * 2)[x[:, 0] > 0]), (torch.randn(5, 3),)))


def test_what_is_returned_beside_tensors_is_said() -> None:
    captured = capture(Model(Calls(lambda x: {"y": x * 2, "count": 3, "note": "text", "none": None}), torch.ones(1, 3)))
    (decision,) = (decision for decision in captured.decisions if decision.subject == "outputs")
    assert decision.choice == "left out: count, note" and [spec.name for spec in captured.outputs] == ["y"]


def test_float64_inside_a_model_that_float32_cannot_hold_is_refused_as_that() -> None:
    said = refused(Calls(lambda x: ((x.double() + 1e8) - 1e8).float()), torch.randn(1, 4), CaptureError)
    assert said.startswith("the model computes in float64 and needs its digits") and "fault of edgeopt" not in said


def test_an_exit_while_the_model_is_captured_is_told_as_that() -> None:
    def leaves(x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            raise SystemExit(0)
        return x

    assert "take sys.exit() out of forward" in refused(Calls(leaves), torch.ones(1, 3), CaptureError)


def test_a_result_as_long_as_values_decide_is_told_as_that() -> None:
    said = refused(Calls(lambda x: torch.combinations(x[0])), torch.ones(1, 3), CaptureError)
    assert "give it a fixed size" in said


def test_an_embedding_that_shortens_its_rows_computes_what_it_did_and_stays_as_it_was() -> None:
    table = nn.Embedding(7, 4, max_norm=0.8)
    before, ids = table.weight.detach().clone(), torch.tensor([[0, 3, 6]])
    captured = capture(Model(table, ids))
    assert torch.equal(table.weight, before)
    for each in (ids, torch.tensor([[1, 2, 5]])):
        torch.testing.assert_close(run(captured, each)[0], nn.Embedding.from_pretrained(before, max_norm=0.8)(each))


def test_complex_outputs_are_refused_by_name() -> None:
    said = refused(Calls(lambda x: {"spectrum": torch.fft.rfft(x), "y": x}), torch.ones(1, 8), ModelError)
    assert "output spectrum is complex" in said and "view_as_real" in said


def test_an_object_that_holds_the_tensors_is_named() -> None:
    class Found:
        def __init__(self, y: Tensor) -> None:
            self.y = y

    assert "it returns Found" in refused(Calls(Found), torch.ones(1, 3), ModelError)
