"""recipe.toml: what it may say, and what is said where it cannot be read."""

from pathlib import Path

import pytest

from edgeopt.errors import ConfigError
from edgeopt.recipe.schema import read

WHOLE = """
model = "net.py:model"
target = "arm-xnnpack"
max_drop = 0.02
[training]
train_step = "net.py:train_step"
batches = "net.py:batches"
[[step]]
technique = "channels"
amount = 0.5
epochs = 2
[[step]]
technique = "distill"
student = "net.py:student"
epochs = 3
[export]
targets = ["arm-xnnpack"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_a_steps_own_keys_are_told_from_its_techniques_settings(tmp_path: Path) -> None:
    first, second = read(written(tmp_path, WHOLE)).steps
    assert (first.technique, first.epochs, first.settings) == ("channels", 2, {"amount": 0.5})
    assert (second.epochs, second.settings) == (3, {"student": f"{tmp_path}/net.py:student"})


def test_files_are_looked_for_beside_the_recipe(tmp_path: Path) -> None:
    recipe = read(written(tmp_path, WHOLE))
    assert recipe.model == f"{tmp_path}/net.py:model"
    assert recipe.training.batches == f"{tmp_path}/net.py:batches"
    assert recipe.target == "arm-xnnpack"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no steps"),
        ('model = "a.py:m"', "no steps"),
        ('model = "a.py:m"\nstep = 3', "no steps"),
        ('[[step]]\ntechnique = "channels"', "model"),
        ('modell = "a.py:m"\n[[step]]\ntechnique = "channels"', "did you mean 'model'"),
        ('model = "a.py:m"\n[[step]]\namount = 0.5', "step 1 technique"),
        ('model = "a.py:m"\n[[step]]\ntechnique = "channels"\nepochs = -1', "step 1 epochs"),
        ('model = "a.py:m"\nmax_drop = nan\n[[step]]\ntechnique = "channels"', "max_drop"),
        ('model = "a.py:m"\n[training]\ntrain_step = "a.py:t"\n[[step]]\ntechnique = "channels"', "batches"),
        ('model = "a.py:m"\n[training]\nfit = "a:f"\ntrain_step = "a.py:t"\n[[step]]\ntechnique = "channels"', "give one"),
        ("model = ", "not TOML"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(written(tmp_path, text))
    assert said in str(caught.value)


def test_a_missing_recipe_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="edgeopt advise"):
        read(tmp_path / "none.toml")
