"""Distillation's losses: zero for a student that does the same, the published formulas, masks and misfits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from edgeopt.compress.distill.losses import (
    answers,
    attention,
    embeddings,
    hint,
    masked_mean,
    refuse_probabilities,
    soft_targets,
)
from edgeopt.errors import CompressionError

seeds = st.integers(0, 1000)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(seeds, st.floats(0.5, 20))
@settings(max_examples=15)
def test_soft_targets_are_hintons_cross_entropy_less_the_teachers_entropy(seed: int, temperature: float) -> None:
    student, teacher = noise(2, 5, 7, seed=seed)
    wanted, said = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    expected = (wanted * (wanted.log() - said.log())).sum(-1).mean() * temperature**2
    torch.testing.assert_close(soft_targets(student, teacher, temperature), expected, rtol=1e-3, atol=1e-4)


@given(seeds)
@settings(max_examples=15)
def test_the_gradient_keeps_its_size_at_high_temperatures(seed: int) -> None:
    student, teacher = noise(2, 8, 10, seed=seed)
    sizes = []
    for temperature in (20.0, 200.0):
        scores = student.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(soft_targets(scores, teacher, temperature), scores)
        sizes.append(float(gradient.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)  # without T^2 it would be a hundredth


@pytest.mark.parametrize(
    ("task", "shape"),
    [
        ("classification", (4, 6)),
        ("classification", (4, 6, 3, 3)),
        ("sequence", (4, 9, 6)),
        ("regression", (4, 1)),
        ("embedding", (4, 8)),
    ],
)
def test_only_a_student_with_other_answers_has_anything_to_learn(task: str, shape: tuple[int, ...]) -> None:
    teacher, other = noise(*shape), noise(*shape, seed=1)
    assert float(answers(task, teacher.clone(), teacher, 4.0)) == pytest.approx(0, abs=1e-5)  # type: ignore[arg-type]
    assert float(answers(task, other, teacher, 4.0)) > 0.01  # type: ignore[arg-type]


def test_scores_that_differ_by_a_constant_are_the_same_answer() -> None:
    teacher = noise(4, 6)
    assert float(answers("classification", teacher + 3, teacher, 2.0)) == pytest.approx(0, abs=1e-5)
    assert float(answers("regression", teacher + 3, teacher, 2.0)) == pytest.approx(9, rel=1e-4)


@given(seeds)
@settings(max_examples=15)
def test_steps_behind_the_mask_change_nothing(seed: int) -> None:
    student, teacher = noise(2, 3, 5, 4, seed=seed)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    before = answers("sequence", student, teacher, 4.0, mask)
    filled = torch.where(mask[..., None] == 0, 100.0, student)
    torch.testing.assert_close(answers("sequence", filled, teacher, 4.0, mask), before)
    counted = torch.cat([student[row, : int(mask[row].sum())] for row in range(3)])
    wanted = torch.cat([teacher[row, : int(mask[row].sum())] for row in range(3)])
    torch.testing.assert_close(before, soft_targets(counted, wanted, 4.0))


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(CompressionError, match="mask does not fit"):
        masked_mean(noise(2, 3, 4), torch.ones(2, 4))


def test_an_embedding_of_another_width_learns_the_similarities() -> None:
    teacher = noise(6, 8)
    rotated = torch.cat((teacher @ torch.linalg.qr(noise(8, 8, seed=1)).Q, torch.zeros(6, 3)), 1)
    assert float(embeddings(rotated, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(embeddings(noise(6, 11), teacher)) > 0.01
    with pytest.raises(CompressionError, match="batch of one"):
        embeddings(noise(1, 11), noise(1, 8))


def test_attention_of_a_cnn_is_where_it_looks_not_how_strongly_nor_in_which_channel() -> None:
    teacher = noise(2, 8, 6, 6)
    assert float(attention(3 * teacher.flip(1), teacher)) == pytest.approx(0, abs=1e-6)
    assert float(attention(noise(2, 4, 6, 6, seed=1), teacher)) > 0.01
    assert float(attention(noise(2, 4, 3, 3, seed=1), teacher)) > 0.001  # the finer map is averaged to the other's size


def test_attention_of_hidden_states_is_their_direction() -> None:
    states = noise(2, 5, 8)
    assert float(attention(7 * states, states)) == pytest.approx(0, abs=1e-6)
    assert float(attention(-states, states)) == pytest.approx(2, rel=1e-4)


def test_a_hint_is_relative_to_the_teachers_size() -> None:
    teacher, student = noise(2, 2, 8, 3, 3)
    torch.testing.assert_close(hint(100 * student, 100 * teacher), hint(student, teacher))
    torch.testing.assert_close(hint(torch.zeros_like(teacher), teacher), torch.tensor(1.0))


def test_misfits_are_named() -> None:
    with pytest.raises(CompressionError, match=r"shape \(2, 10\), the student's \(2, 5\)"):
        answers("classification", noise(2, 5), noise(2, 10), 4.0)
    with pytest.raises(CompressionError, match='task = "regression"'):
        answers("classification", noise(2, 1), noise(2, 1), 4.0)
    with pytest.raises(CompressionError, match="no class scores for sequence"):
        answers("sequence", noise(2, 10), noise(2, 10), 4.0)
    with pytest.raises(CompressionError, match="probabilities"):
        refuse_probabilities(functional.softmax(noise(2, 5), -1))
    refuse_probabilities(noise(2, 5))
