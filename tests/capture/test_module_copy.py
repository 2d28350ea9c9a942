"""Models in wrappers, TorchScript, training tools, other precisions: exported right, or refused with a step that works."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.ao.quantization as ao
import torch.nn.utils.prune
from torch import Tensor, nn

from edgeopt.capture import capture
from edgeopt.errors import CaptureError, EdgeoptError, InputError, ModelError
from edgeopt.model.model import Model
from tests.captures import operators, run

aten = torch.ops.aten
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
torch.manual_seed(0)
X = torch.randn(1, 8)


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def refusal(module: Any, example: Any = X, error: type[EdgeoptError] = ModelError) -> str:
    with pytest.raises(error) as caught:
        capture(Model(module, example))
    return caught.value.message()


class Branches(nn.Module):
    def forward(self, image: Tensor, double: bool = True) -> dict[str, Tensor]:
        y = image * 2 if double else image
        for i in range(3):
            y = y + i
        return {"low": y, "high": y.relu()}


class Around(nn.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + 1


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "scripted": lambda: torch.jit.script(layers()),
    "traced": lambda: torch.jit.trace(layers(), X),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(layers())),
    "a scripted part": lambda: Around(torch.jit.script(layers())),
    "compiled": lambda: torch.compile(layers()),
    "a compiled part": lambda: Around(torch.compile(layers())),
    "data parallel": lambda: nn.DataParallel(layers()),
    "data parallel, compiled": lambda: torch.compile(nn.DataParallel(layers())),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_a_model_in_a_wrapper_or_as_torchscript_is_exported(case: str) -> None:
    torch.manual_seed(1)
    module = WRAPPED[case]()
    torch.manual_seed(1)
    plain = layers()
    with torch.no_grad():
        wanted = plain(X) + (1 if "part" in case else 0)
    captured = capture(Model(module, X))
    torch.testing.assert_close(run(captured)[0], wanted)
    torch.testing.assert_close(captured.witness(X)[0], wanted)


def test_a_model_compiled_in_place_is_exported() -> None:
    module = layers()
    module.compile()
    assert operators(capture(Model(module, X)))[0] is aten.linear.default


def test_a_scripted_model_keeps_the_names_of_inputs_and_outputs() -> None:
    captured = capture(Model(torch.jit.script(Branches()), X))
    assert [spec.name for spec in captured.signature.specs] == ["image"]
    assert [spec.name for spec in captured.outputs] == ["low", "high"]
    torch.testing.assert_close(run(captured)[1], (X * 2 + 3).relu())


@pytest.mark.parametrize("given", [layers().forward, lambda x: x, functools.partial(layers()), "model", None])
def test_what_is_no_module_is_refused_with_a_step_that_works(given: Any) -> None:
    assert "write class Net(torch.nn.Module) whose forward calls it" in refusal(given)
    if callable(given):
        torch.testing.assert_close(run(capture(Model(Around(given), X)))[0], given(X) + 1)


def trained_for_quantization() -> nn.Module:
    module = nn.Sequential(ao.QuantStub(), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), ao.DeQuantStub()).train()
    module.qconfig = ao.get_default_qat_qconfig("qnnpack")
    prepared = ao.prepare_qat(module)
    prepared(torch.randn(2, 3, 8, 8))
    return prepared.eval()


def test_fake_quantization_is_refused_and_the_next_step_works() -> None:
    module, image = trained_for_quantization(), torch.randn(1, 3, 8, 8)
    said = refusal(module, image)
    assert "fakes quantization" in said
    assert "model.apply(torch.ao.quantization.disable_fake_quant)" in said
    module.apply(ao.disable_fake_quant)
    captured = capture(Model(module, image))
    assert operators(captured) == [aten.conv2d.default, aten.relu.default]
    torch.testing.assert_close(run(captured)[0], module(image).detach())


def test_observers_are_left_out_and_a_quantized_model_is_refused_by_layer() -> None:
    module = nn.Sequential(ao.QuantStub(), nn.Linear(8, 4), ao.DeQuantStub()).eval()
    module.qconfig = ao.get_default_qconfig("x86")
    observed = ao.prepare(module)
    observed(X)
    captured = capture(Model(observed, X))
    assert [d.choice for d in captured.decisions] == ["2 observers left out"]
    torch.testing.assert_close(run(captured)[0], observed(X).detach())
    assert "layer 0 is quantized already" in refusal(ao.convert(observed))
    assert "no plain tensor" in refusal(ao.quantize_dynamic(layers(), {nn.Linear})) or "quantized already" in refusal(
        ao.quantize_dynamic(layers(), {nn.Linear})
    )


def test_lazy_and_meta_layers_are_refused_and_the_next_step_works() -> None:
    lazy = nn.Sequential(nn.LazyLinear(4))
    assert "run the model once" in refusal(lazy)
    lazy(X)
    capture(Model(lazy, X))
    assert "load the weights" in refusal(nn.Linear(8, 4, device="meta"))


def conv(weight_norm: Any) -> nn.Module:
    return nn.Sequential(weight_norm(nn.Conv1d(4, 8, 3)))


TRAINED: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "weight norm": (lambda: conv(nn.utils.weight_norm), torch.randn(1, 4, 16)),
    "weight norm, parametrized": (lambda: conv(nn.utils.parametrizations.weight_norm), torch.randn(1, 4, 16)),
    "spectral norm": (lambda: nn.utils.spectral_norm(nn.Linear(8, 4)), X),
    "spectral norm, parametrized": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 4)), X),
    "pruned": (lambda: nn.utils.prune.l1_unstructured(nn.Linear(8, 4), "weight", 0.5), X),
}


@pytest.mark.parametrize("case", TRAINED)
def test_a_model_whose_weights_are_computed_is_exported_after_training(case: str) -> None:
    make, x = TRAINED[case]
    module = make()
    module.train()(x).sum().backward()
    captured = capture(Model(module, x))
    torch.testing.assert_close(run(captured)[0], module.eval()(x).detach())
    assert len(operators(captured)) == 1


class Casts(nn.Module):
    """A module in half precision that takes and gives float32."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.to(self.linear.weight.dtype)).float()


class HalfCasts(Casts):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.half()).float()


class Autocast(Casts):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.linear(x).float()


class Doubled(nn.Module):
    """A float32 module with statistics in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(8, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.mean


HALF = torch.finfo(torch.float16).eps
PRECISIONS: dict[str, tuple[nn.Module, Any, str, float]] = {
    "float64": (layers().double(), X.double(), "torch.float64 computed as float32", 1e-5),
    "float64, float32 input": (layers().double(), X, "torch.float64 computed as float32", 1e-5),
    "float64 input": (layers(), X.double(), "torch.float64 computed as float32", 1e-5),
    "float64 from numpy": (layers(), X.double().numpy(), "torch.float64 computed as float32", 1e-5),
    "float64 buffer": (Doubled(), X, "torch.float64 computed as float32", 1e-5),
    "half": (layers().half(), X.half(), "torch.float16 computed as float32", 10 * HALF),
    "half, float32 input": (layers().half(), X, "torch.float16 computed as float32", 10 * HALF),
    "half that casts its input": (Casts().half(), X, "torch.float16 computed as float32", 10 * HALF),
    "half by name": (HalfCasts().half(), X, "torch.float16 computed as float32", 10 * HALF),
    "bfloat16": (layers().bfloat16(), X.bfloat16(), "torch.bfloat16 computed as float32", 80 * HALF),
    "autocast": (Autocast(), X, "torch.bfloat16 inside forward computed as float32", 80 * HALF),
}


@pytest.mark.parametrize("case", PRECISIONS)
def test_every_precision_is_exported_in_float32_with_the_reason(case: str) -> None:
    module, x, choice, tolerance = PRECISIONS[case]
    captured = capture(Model(module, x))
    assert [d.choice for d in captured.decisions] == [choice]
    assert captured.signature.specs[0].dtype == captured.outputs[0].dtype == "float32"
    dtypes = {node.meta["val"].dtype for node in captured.program.graph.nodes if isinstance(node.meta.get("val"), Tensor)}
    assert dtypes == {torch.float32}
    torch.testing.assert_close(run(captured)[0], captured.witness(X)[0], rtol=tolerance, atol=tolerance)
    ran_as_given = case != "half, float32 input"
    assert captured.in_low_precision is ("16" in choice and ran_as_given)


def test_complex_and_sparse_inputs_are_refused_and_the_next_step_works() -> None:
    class Magnitude(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (torch.view_as_complex(x) if not x.is_complex() else x).abs()

    wave = torch.randn(1, 4, dtype=torch.complex64)
    assert "torch.view_as_real(x)" in refusal(Magnitude(), wave, InputError)
    capture(Model(Magnitude(), torch.view_as_real(wave)))
    assert "give a dense tensor" in refusal(layers(), X.to_sparse(), InputError)


@pytest.mark.parametrize("name", ["input", "args", "lambda", "relu", "torch", "x", "device", "add", "type"])
def test_inputs_of_any_name_keep_it_in_manifest_and_program(name: str) -> None:
    class Named(nn.Module):
        def forward(module, *args: Tensor, **kwargs: Tensor) -> Tensor:  # noqa: N805
            return torch.relu(kwargs[name]) + kwargs["other"]

    captured = capture(Model(Named(), {name: X, "other": X * 2}))
    wanted = f"{name}_" if name in ("lambda", "torch", "device") else name
    assert [spec.name for spec in captured.signature.specs] == [wanted, "other"]
    assert list(captured.program.graph_signature.user_inputs) == [wanted, "other"]
    torch.testing.assert_close(run(captured, X, -X)[0], X.relu() - X)


def test_hooks_run_and_gradients_are_not_needed() -> None:
    module = layers()
    module[0].register_forward_hook(lambda layer, inputs, output: output * 2)
    module.register_forward_pre_hook(lambda layer, inputs: (inputs[0] + 1,))
    x = torch.randn(1, 8, requires_grad=True) * 2
    torch.testing.assert_close(run(capture(Model(module, x)), x.detach())[0], module(x).detach())


@pytest.mark.parametrize(
    ("forward", "step"),
    [(lambda x: torch.from_numpy(x.numpy() * 2), "torch's operators"), (lambda x: x * float(x.sum()), "torch.where")],
    ids=["numpy", "float"],
)
def test_what_export_cannot_take_is_told_with_the_line_and_a_step_that_fits(forward: Any, step: str) -> None:
    said = refusal(Around(forward), X, CaptureError)
    assert "test_module_copy.py, line" in said
    assert step in said


def test_an_encoder_with_masked_padding_is_exported_and_what_its_fused_operator_does_there_is_said() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            return self.layers(x, src_key_padding_mask=padding)

    module, x = Encoder().eval(), torch.randn(2, 5, 8)
    padding = torch.arange(5) >= torch.tensor([[5], [3]])
    captured = capture(Model(module, (x, padding)))
    assert [d.choice for d in captured.decisions] == ["computed without PyTorch's fused encoder layer"]
    with torch.no_grad():
        wanted = module(x, padding)
    torch.testing.assert_close(run(captured)[0][~padding], wanted[~padding])
