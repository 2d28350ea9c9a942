"""Distillation: what the student learns, from whom and with what; stages; resume; what is refused."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress.distill.distill import Distill
from edgeopt.compress.distill.lessons import Lesson, Pair
from edgeopt.compress.distill.losses import embeddings
from edgeopt.compress.technique import Context
from edgeopt.core import from_data
from edgeopt.errors import CompressionError, ModelError, TrainingFailed

EXAMPLE = (torch.zeros(1, 6),)


def classifier(width: int, seed: int = 0, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, classes)).eval()


def rows(count: int = 256, seed: int = 1) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def unlabelled() -> Iterator[tuple[Tensor]]:
    """As calibration data is: one sample at a time."""
    for row in rows():
        yield (row[None],)


def agreement(one: nn.Module, other: nn.Module) -> float:
    fresh = rows(2000, seed=2)
    with torch.no_grad():
        return float((one(fresh).argmax(1) == other(fresh).argmax(1)).float().mean())


def context(student: nn.Module | None, **given: Any) -> Context:
    return Context(example_inputs=EXAMPLE, student=student, **({"batches": unlabelled} | given))


def test_a_student_learns_its_teachers_answers_from_data_without_labels() -> None:
    teacher, student = classifier(64), classifier(16, seed=1)
    before = agreement(teacher, student)
    compressed = Distill(epochs=20, learning_rate=1e-2, progressive="off").apply(teacher, context(student))
    assert before < 0.6 and agreement(teacher, compressed.module) > 0.9
    assert any("without train_step" in note for note in compressed.record.notes)


def test_neither_teacher_nor_student_given_is_changed_and_nothing_is_left_behind() -> None:
    teacher, student = classifier(32).train(), classifier(16, seed=1)
    teacher[0].weight.requires_grad_(False)
    kept = copy.deepcopy((teacher.state_dict(), student.state_dict()))
    found = Distill(epochs=1, hints=(("1", "1"),)).apply(teacher, context(student)).module
    for module, state in zip((teacher, student), kept, strict=True):
        assert all(torch.equal(value, module.state_dict()[name]) for name, value in state.items())
    assert teacher.training and not teacher[0].weight.requires_grad and teacher[2].weight.requires_grad
    assert found.training and type(found) is nn.Sequential and list(found.state_dict()) == list(student.state_dict())
    assert not any(module._forward_hooks for net in (found, teacher) for module in net.modules())


def test_the_users_loss_takes_the_rest_of_the_weight() -> None:
    """At a small weight the student follows labels that contradict the teacher, at a great one the teacher."""
    teacher = classifier(32)
    batches = [(part, (teacher(part).argmax(1) + 1) % 3) for part in rows().split(32)]

    def train_step(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(module(batch[0]), batch[1])

    def taught(weight: float) -> float:
        given = context(classifier(16, seed=1), train_step=train_step, train_batches=batches)
        settings = Distill(epochs=15, weight=weight, learning_rate=1e-2, temperature=1)
        return agreement(teacher, settings.apply(teacher, given).module)

    assert taught(0.05) < 0.3 < 0.8 < taught(1.0)


def test_the_teacher_sees_what_the_student_saw_and_labels_are_not_passed_on() -> None:
    seen: list[Tensor] = []

    class Teacher(nn.Sequential):
        def forward(self, values: Tensor) -> Tensor:
            if len(values) > 1:
                seen.append(values)
            result: Tensor = super().forward(values)
            return result

    given: list[Tensor] = []

    def train_step(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        noisy = batch[0] + torch.randn_like(batch[0])  # an augmentation inside the user's code
        given.append(noisy)
        return nn.functional.cross_entropy(module(noisy), batch[1])

    batches = [(rows(8), torch.zeros(8, dtype=torch.long))]
    Distill(epochs=2).apply(
        Teacher(*classifier(32)), context(classifier(16, seed=1), train_step=train_step, train_batches=batches)
    )
    assert all(torch.equal(one, other) for one, other in zip(seen, given, strict=True)) and len(seen) == 2
    seen.clear()
    Distill(epochs=1).apply(Teacher(*classifier(32)), context(classifier(16, seed=1), train_batches=batches))
    assert [tuple(one.shape) for one in seen] == [(8, 6)]


@pytest.mark.parametrize("kind", ["hints", "attention"])
def test_matched_layers_become_alike(kind: str) -> None:
    """Of a layer as wide as the teacher's, and of a narrower one through a projection that is dropped."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    student = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    images = [(torch.randn(16, 1, 6, 6),) for _ in range(8)]
    pair = Pair("hint" if kind == "hints" else "attention", "1", "1", 1.0)
    lesson = Lesson(teacher=teacher, task="classification", temperature=4, weight=1, pairs=(pair,))
    pupil = lesson.pupil(student, images[0])
    assert sum(parameter.numel() for parameter in pupil.projections.parameters()) == (32 if kind == "hints" else 0)
    optimizer, losses = torch.optim.Adam(pupil.parameters(), 1e-2), []
    for batch in images * 10:
        loss = lesson.loss(pupil, batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert list(student.state_dict()) == ["0.weight", "0.bias", "4.weight", "4.bias"]


class Tagger(nn.Module):
    """Scores per step of a sequence, as Hugging Face models give them: a dict, the loss first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, width), nn.Linear(width, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        scores = self.head(self.words(input_ids))
        # what stands behind the mask is noise
        return {
            "loss": scores.sum(),
            "logits": torch.where(attention_mask[..., None] == 1, scores, 1e3 * torch.randn_like(scores)),
        }


def test_sequences_learn_from_the_steps_that_the_mask_counts() -> None:
    torch.manual_seed(0)
    teacher, student = Tagger(32).eval(), Tagger(16).eval()
    ids, mask = torch.randint(0, 20, (64, 9)), (torch.arange(9) < torch.randint(1, 10, (64, 1))).long()
    batches = [{"input_ids": part, "attention_mask": some} for part, some in zip(ids.split(16), mask.split(16), strict=True)]
    given = Context(example_inputs=batches[0], batches=batches, student=student)
    net = Distill(task="sequence", epochs=60, learning_rate=3e-2, hints=(("words", "words"),)).apply(teacher, given).module
    with torch.no_grad():
        one, other = (module(ids, mask)["logits"].argmax(-1) for module in (teacher, net))
    assert float((one == other)[mask == 1].float().mean()) > 0.9


@pytest.mark.parametrize(("task", "width"), [("regression", 4), ("embedding", 4), ("embedding", 7)])
def test_values_and_embeddings_are_learnt(task: str, width: int) -> None:
    teacher, student = classifier(32, classes=4), classifier(16, seed=1, classes=width)
    settings = from_data(Distill, {"task": task, "epochs": 30, "learning_rate": 1e-2})
    net = settings.apply(teacher, context(student)).module
    fresh = rows(500, seed=3)
    with torch.no_grad():
        if task == "regression":
            assert float((net(fresh) - teacher(fresh)).square().mean()) < 0.1 * float(teacher(fresh).var())
        else:
            assert float(embeddings(net(fresh), teacher(fresh))) < 0.15 * float(embeddings(student(fresh), teacher(fresh)))


def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    teacher, batches = classifier(16), [(part,) for part in rows().split(64)]

    def run(checkpoint: Path | None, stop_at: int | None = None) -> Tensor:
        lines: list[str] = []

        def tell(line: str) -> None:
            lines.append(line)
            if len(lines) == stop_at:
                raise KeyboardInterrupt

        given = context(classifier(8, seed=1), train_batches=batches, checkpoint=checkpoint, tell=tell)
        weight: Tensor = Distill(epochs=6).apply(teacher, given).module[0].weight  # type: ignore[index, union-attr, assignment]
        return weight

    torch.manual_seed(5)
    whole = run(None)
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "step.pt", stop_at=4)
    assert list(tmp_path.iterdir())
    assert torch.equal(run(tmp_path / "step.pt"), whole)
    assert not list(tmp_path.iterdir())


def test_the_best_epoch_is_kept_and_patience_ends_the_training() -> None:
    scores, lines = iter([0.1, 0.9, 0.5, 0.4, 0.3, 0.2]), list[str]()

    def evaluate(predict: Callable[..., Any]) -> dict[str, float]:
        predict(rows(4).numpy())
        return {"accuracy": next(scores)}

    given = context(classifier(16, seed=1), evaluate=evaluate, tell=lines.append)
    Distill(epochs=6, patience=2, progressive="off").apply(classifier(32), given)
    assert len([line for line in lines if "epoch" in line]) == 4


def test_a_diverging_training_leaves_everything_as_it_was() -> None:
    student = classifier(16, seed=1)
    before = copy.deepcopy(student.state_dict())

    def train_step(module: nn.Module, batch: tuple[Tensor]) -> Tensor:
        return module(batch[0]).sum() * float("nan")

    with pytest.raises(TrainingFailed, match="diverged"):
        Distill().apply(classifier(32), context(student, train_step=train_step, train_batches=[(rows(8),)]))
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_misuse_is_named() -> None:
    teacher, student = classifier(32), classifier(16, seed=1)
    cases: list[tuple[str, Distill, Context]] = [
        ("no student", Distill(), context(None)),
        ("nothing to train on", Distill(), Context(example_inputs=EXAMPLE, student=student)),
        ("patience needs a score", Distill(patience=2), context(student)),
        ("cannot imitate", Distill(), context(classifier(16, classes=4))),
        ("does not run", Distill(), context(nn.Linear(5, 3))),
        ("no layer 'conv'", Distill(hints=(("conv", "0"),)), context(student)),
        ("no output 'logits'", Distill(output="logits"), context(student)),
        ("without 'pad'", Distill(task="regression", mask="pad"), context(student)),
        ("no class scores for sequence", Distill(task="sequence"), context(student)),
        ("times the student's", Distill(progressive="refuse", max_ratio=1.5), context(student)),
    ]
    for text, settings, given in cases:
        with pytest.raises(CompressionError, match=text):
            settings.apply(teacher, given)
    with pytest.raises(CompressionError, match="probabilities"):
        Distill().apply(nn.Sequential(teacher, nn.Softmax(-1)), context(student))
    with pytest.raises(TrainingFailed, match="no batches"):
        Distill().apply(teacher, context(student, train_batches=(batch for batch in [(rows(8),)])))
    with pytest.raises(CompressionError, match="did not call the model"):
        step = {"train_step": lambda module, batch: module[0](batch[0]).sum(), "train_batches": [(rows(8),)]}
        Distill().apply(teacher, context(student, **step))


@pytest.mark.parametrize(
    "settings",
    [
        {"weight": 0},
        {"weight": 1.5},
        {"temperature": 0},
        {"epochs": 0},
        {"max_ratio": 1},
        {"width": 0.5, "layers": 2},
        {"learning_rate": float("nan")},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|give one|above 0"):
        from_data(Distill, settings)


def test_a_students_reference_is_a_module_or_a_function_that_makes_one(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\n\ndef small():\n    return nn.Linear(6, 3)\n\nnumber = 3\n")
    found = Distill(student=f"{tmp_path / 'net.py'}:small", epochs=1, progressive="off").apply(classifier(16), context(None))
    assert isinstance(found.module, nn.Linear)
    with pytest.raises(ModelError, match="is a int"):
        Distill(student=f"{tmp_path / 'net.py'}:number").apply(classifier(16), context(None))


def test_a_narrower_copy_of_the_teacher_learns_through_assistants(tmp_path: Path) -> None:
    teacher, lines = classifier(128), list[str]()
    given = context(None, tell=lines.append, checkpoint=tmp_path / "step.pt")
    compressed = Distill(width=0.125, epochs=5, learning_rate=1e-2, max_ratio=3).apply(teacher, given)
    first, second = (note for note in compressed.record.notes if note.startswith("stage"))
    assert first.startswith("stage 1 of 2: assistant 1") and second.startswith("stage 2 of 2: the student")
    assert compressed.module[0].weight.shape == (16, 6)  # type: ignore[index]
    assert agreement(teacher, compressed.module) > 0.8
    assert len([line for line in lines if "epoch" in line]) == 10 and not list(tmp_path.iterdir())
    whole, *layers = compressed.record.layers
    assert whole.before.startswith("1,283 parameters") and any("16" in layer.after for layer in layers)


def test_a_finished_assistant_is_not_trained_again(tmp_path: Path) -> None:
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        if len([one for one in lines if "epoch" in one]) == 5:
            raise KeyboardInterrupt

    settings, path = Distill(width=0.125, epochs=3, max_ratio=3), tmp_path / "step.pt"
    with pytest.raises(KeyboardInterrupt):
        settings.apply(classifier(128), context(None, tell=tell, checkpoint=path))
    lines.clear()
    settings.apply(classifier(128), context(None, tell=lines.append, checkpoint=path))
    assert [line.split(":")[0] for line in lines if "epoch" in line] == ["epoch 3 of 3"]


@pytest.mark.parametrize("what", ["training", "finished"])
def test_a_file_of_another_training_is_refused_with_its_name(tmp_path: Path, what: str) -> None:
    stale = tmp_path / f"step.pt.{what}-1"
    torch.save({"module": {}}, stale)
    with pytest.raises(TrainingFailed, match=f"{what}-1 does not fit this training"):
        Distill(epochs=1).apply(classifier(16), context(classifier(8, seed=1), checkpoint=tmp_path / "step.pt"))
    assert stale.exists()


def test_a_frozen_teacher_still_has_a_student_that_learns_and_is_frozen_again() -> None:
    teacher = classifier(64).requires_grad_(False)
    found = Distill(width=0.5, epochs=5, learning_rate=1e-2).apply(teacher, context(None)).module
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert agreement(teacher, found) > 0.8
