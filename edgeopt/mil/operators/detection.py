"""Non-maximum suppression. What the documentation leaves open is as in coremltools' own tests, which ran on Apple's devices."""

import torch
from torch import Tensor

from edgeopt.mil.operator import operator


@operator("non_maximum_suppression", exact=True)
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    per_class_suppression: bool,
    opset: int,
    score_threshold: float = -float("inf"),
) -> tuple[Tensor, ...]:
    """boxes [n, b, 4] (centre x and y, width, height), scores [n, b, k] -> those of ``max_boxes`` boxes, best first.

    Indices of them [n, max_boxes], int32, and how many there are [n] follow; what is missing is 0, its index -1. Since iOS 17
    boxes are the last dimension of boxes and scores, and their number is no output. A box's score and class are those of its
    best class. Where the threshold leaves no box, the best one is taken all the same.
    """
    since_17 = opset >= 17
    if since_17:
        boxes, scores = boxes.mT, scores.mT
    chosen = [
        _chosen(*pair, iou_threshold, score_threshold, max_boxes, per_class_suppression)
        for pair in zip(boxes, scores, strict=True)
    ]
    indices = torch.full((len(chosen), max_boxes), -1, dtype=torch.int32)
    found = [values.new_zeros(len(chosen), max_boxes, values.shape[2]) for values in (boxes, scores)]
    for batch, each in enumerate(chosen):
        indices[batch, : len(each)] = each
        for result, values in zip(found, (boxes, scores), strict=True):
            result[batch, : len(each)] = values[batch, each]
    if since_17:
        return (*(result.mT for result in found), indices)
    return (*found, indices, torch.tensor([len(each) for each in chosen], dtype=torch.int32))


def _chosen(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_boxes: int, per_class: bool
) -> Tensor:
    """The indices of the boxes that are kept, in the order of their scores."""
    best, kinds = scores.max(1)
    left = best.argsort(descending=True, stable=True)
    above = int((best >= score_threshold).sum())
    left = left[: max(above, 1)]
    kept: list[Tensor] = []
    while len(left) and len(kept) < max_boxes:
        first, left = left[0], left[1:]
        kept.append(first)
        overlapping = _iou(boxes[first], boxes[left]) > iou_threshold
        if per_class:
            overlapping &= kinds[left] == kinds[first]
        left = left[~overlapping]
    return torch.stack(kept) if kept else left


def _iou(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of ``box`` [4] with each of ``others`` [n, 4]; NaN of two empty ones."""
    low = torch.maximum(box[:2] - box[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    high = torch.minimum(box[:2] + box[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    both = (high - low).clamp_(min=0).prod(1)
    return both / (box[2:].prod() + others[:, 2:].prod(1) - both)
