"""torch's 2:4 kernels on an NVIDIA GPU: they take what edgeopt prunes and compute what dense kernels do.

Speed is no matter of tests: ``scripts/bench_sparse.py`` measures it.
"""

import pytest
import torch
from torch import nn

from edgeopt.compress.technique import Context
from edgeopt.compress.zeros.nm import NM
from scripts import bench_sparse

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(bench_sparse.unusable()), reason=bench_sparse.unusable()),
    pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor is in prototype stage"),
]


@pytest.mark.parametrize("shape", [(64, 128), (960, 160), (256, 2304)])
@pytest.mark.parametrize("kind", bench_sparse.KINDS)
def test_a_sparse_layer_computes_what_the_dense_one_does(kind: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pair = bench_sparse.KINDS[kind](*shape, 128)
    dense, sparse = pair.dense(), pair.sparse()
    if kind == "int8":
        assert torch.equal(sparse.int(), dense.int())
    else:
        assert (sparse.float() - dense.float()).norm() < 1e-2 * dense.float().norm()


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt"])
def test_a_pruned_module_runs_in_sparse_kernels(method: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 128))
    x = torch.randn(64, 256)
    given = Context(example_inputs=(x,), batches=[(x,)])
    pruned = NM(method=method).apply(module, given).module.half().cuda()
    dense = pruned(x.half().cuda())
    for layer in (pruned[0], pruned[2]):
        layer.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(layer.weight.detach()), requires_grad=False)
    assert (pruned(x.half().cuda()) - dense).norm() < 1e-2 * dense.norm()
