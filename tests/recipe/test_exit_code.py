"""``edgeopt compress`` ends as ``edgeopt export`` does where a target of its bundle fails."""

from pathlib import Path

import pytest

from edgeopt.bundle.bundle import Bundle
from edgeopt.cli.app import app
from edgeopt.errors import VerificationFailed
from tests.cli.test_app import RUN
from tests.recipe.test_run import HALF, HEAD, NET, recipe

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of torch and torchao
ROOT = Path(__file__).parents[2]


def test_a_recipe_whose_bundle_has_a_failure_does_not_end_with_0(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    text = (ROOT / "targets" / "x86-fbgemm.toml").read_text().replace('"x86-fbgemm"', '"strict"')
    limit = "[checks]\nfloat_sqnr_db = 500.0\n\n[sources]"  # which no rounding meets
    (tmp_path / "strict.toml").write_text(text.replace("[sources]", limit))
    path = recipe(tmp_path, HEAD + HALF + f'[export]\ntargets = ["{tmp_path}/strict.toml"]\n')
    done = RUN.invoke(app, ["compress", "--recipe", str(path), "--out", str(tmp_path / "out")])
    results = Bundle.load(tmp_path / "out" / "bundle").manifest.results
    assert {result.target: result.error for result in results} == {"portable-fp32": "", "strict": "VerificationFailed"}
    assert done.exit_code == VerificationFailed.exit_code, done.output
