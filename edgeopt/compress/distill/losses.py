"""What a student is to imitate, as losses: answers, features, attention. Each is a scalar with a gradient for the student.

Answers in terms of the task: softened class scores (Hinton et al., 2015, arXiv:1503.02531), values (Ba & Caruana, 2014,
arXiv:1312.6184), scores at each step of a sequence, embeddings with their similarities (Park et al., 2019, arXiv:1904.05068;
Tung & Mori, 2019, arXiv:1907.09365).
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional

from edgeopt.errors import CompressionError

Task = Literal["classification", "regression", "sequence", "embedding"]


def answers(task: Task, student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """The loss of the student's output against the teacher's.

    classification: scores [N, classes, ...]; sequence: scores [N, steps, classes]; regression: any shape; embedding: [N,
    width], where the widths may differ. ``mask`` [N, steps], where not zero, are the steps that count. Raises CompressionError
    where the shapes do not fit the task.
    """
    if task == "embedding":
        return embeddings(student, teacher)
    if student.shape != teacher.shape:
        why = f"the teacher's output has shape {tuple(teacher.shape)}, the student's {tuple(student.shape)}"
        raise CompressionError("the student cannot imitate the teacher", why=why, fix="give the student the same outputs")
    if task == "regression":
        return masked_mean(functional.mse_loss(student, teacher, reduction="none"), mask)
    axis = 1 if task == "classification" else -1
    if student.ndim < (2 if task == "classification" else 3) or student.shape[axis] < 2:
        fix = 'set task = "regression", or another that fits the output'
        raise CompressionError(f"an output of shape {tuple(student.shape)} holds no class scores for {task}", fix=fix)
    return soft_targets(student.movedim(axis, -1), teacher.movedim(axis, -1), temperature, mask)


def soft_targets(student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """KL divergence of the student's class probabilities from the teacher's, both softened; scores [..., classes].

    Times the temperature squared, because the gradients of softened scores shrink with it: so a weight beside the task's loss
    means the same at every temperature (Hinton et al., 2015, section 2).
    """
    said = functional.log_softmax(student / temperature, -1)
    wanted = functional.log_softmax(teacher / temperature, -1)
    divergence = functional.kl_div(said, wanted, reduction="none", log_target=True).sum(-1)
    return masked_mean(divergence, mask) * temperature**2


def embeddings(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine of each pair, where the widths are equal, plus the squared error of all similarities in the batch.

    A student of another width has no common axes with its teacher, but may well find the same things similar.
    """
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        why = f"the teacher's output has shape {tuple(teacher.shape)}, the student's {tuple(student.shape)}"
        raise CompressionError("these outputs are no embeddings [N, width]", why=why, fix="name the output, or another task")
    student, teacher = functional.normalize(student), functional.normalize(teacher)
    loss = functional.mse_loss(student @ student.T, teacher @ teacher.T)
    if student.shape == teacher.shape:
        return loss + (1 - (student * teacher).sum(1)).mean()
    if len(student) == 1:
        why = f"widths {student.shape[1]} and {teacher.shape[1]} differ, and one embedding alone is similar to nothing"
        raise CompressionError("a batch of one teaches nothing", why=why, fix="make batches of several samples")
    return loss


def hint(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared error of features of one shape (Romero et al., 2015, arXiv:1412.6550), relative to the teacher's mean square.

    Relative: so one weight means the same in every layer. ``mask`` [N, steps] is for features [N, steps, width].
    """
    error = functional.mse_loss(student, teacher, reduction="none")
    return masked_mean(error, mask) / masked_mean(teacher.square(), mask).clamp_min(1e-12)


def attention(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """How differently both look at the input.

    Features [N, channels, height, width] of a CNN: squared distance of the maps of mean squared activation, each scaled to
    length one (Zagoruyko & Komodakis, 2017, arXiv:1612.03928), the finer one averaged to the other's size. Hidden states [N,
    steps, width] of a transformer: one minus their cosine (Sanh et al., 2019, arXiv:1910.01108).
    """
    if student.ndim == 4:
        return (_map(student, teacher) - _map(teacher, student)).square().sum(1).mean()
    return masked_mean(1 - functional.cosine_similarity(student, teacher, dim=-1), mask)


def same_size(features: Tensor, other: Tensor) -> Tensor:
    """Features of an image [N, channels, height, width], averaged to the other's height and width where those are smaller."""
    if features.ndim != 4 or features.shape[2:] == other.shape[2:]:
        return features
    height, width = (min(ours, theirs) for ours, theirs in zip(features.shape[2:], other.shape[2:], strict=True))
    return functional.adaptive_avg_pool2d(features, (height, width))


def refuse_probabilities(scores: Tensor) -> None:
    """Raises CompressionError where ``scores`` [..., classes] have been through a softmax already."""
    if bool((scores >= 0).all()) and bool(((scores.sum(-1) - 1).abs() < 1e-3).all()):
        why = "its outputs are positive and sum to one"
        fix = "leave the softmax out of forward: temperature and confidence are taken from the scores before it"
        raise CompressionError("the model gives probabilities, not scores", why=why, fix=fix)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of ``values`` [N, steps, ...] over the steps at which ``mask`` [N, steps] is not zero; zero where it is none."""
    if mask is None:
        return values.mean()
    if values.shape[:2] != mask.shape:
        why = f"the mask has shape {tuple(mask.shape)}, the values {tuple(values.shape)}"
        raise CompressionError("the mask does not fit the sequence", why=why, fix="give the mask's name, [N, steps]")
    counts = (mask != 0).reshape(*mask.shape, *[1] * (values.ndim - 2)).to(values.dtype).expand_as(values)
    return (values * counts).sum() / counts.sum().clamp_min(1)


def _map(features: Tensor, other: Tensor) -> Tensor:
    return functional.normalize(same_size(features.square().mean(1, keepdim=True), other).flatten(1))
