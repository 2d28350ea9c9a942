"""Inputs, outputs and states as a package declares them: arrays and images, each of one shape or of several."""

import sys
from dataclasses import dataclass
from typing import Any, TypeVar

from edgeopt.core import TensorSpec
from edgeopt.errors import ConversionError

# mlmodel/format/FeatureTypes.proto: ArrayFeatureType.ArrayDataType, ImageFeatureType.ColorSpace (channels and type)
_DTYPES = {65552: "float16", 65568: "float32", 65600: "float64", 131104: "int32", 131080: "int8"}
_COLORS = {10: (1, "uint8"), 20: (3, "uint8"), 30: (3, "uint8"), 40: (1, "float16")}

T = TypeVar("T")
Sizes = tuple[range, ...]
"""By dimension, the sizes that it may have."""


@dataclass(frozen=True, slots=True)
class Feature:
    """An input, an output or a state. An image is an array [1, channels, height, width] of its pixels, uint8 or float16."""

    spec: TensorSpec
    """With the shape by default, where there are several."""
    shapes: tuple[Sizes, ...] = ()
    """Alternatives."""
    default: float | None = None
    """What an optional input holds everywhere when it is not given."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of ``shape`` may be given."""
        return any(
            len(shape) == len(sizes) and all(size in allowed for size, allowed in zip(shape, sizes, strict=True))
            for sizes in self.shapes
        )

    def describe(self) -> str:
        """The shapes in words: ``[1, 3, 8, 8]``, ``[1, 4 to 16]`` or several of them."""
        return " or ".join(f"[{', '.join(map(_in_words, sizes))}]" for sizes in self.shapes)


def feature(description: Any) -> Feature:
    """What a ``FeatureDescription`` says. Raises ConversionError for sequences."""
    name, kind = description.name, description.type.WhichOneof("Type")
    if kind == "multiArrayType":
        return _array(name, description.type.multiArrayType, description.type.isOptional)
    if kind == "stateType":
        return _array(name, description.type.stateType.arrayType, False)
    if kind == "imageType":
        return _image(name, description.type.imageType)
    if kind in ("stringType", "int64Type"):
        return Feature(TensorSpec(name=name, shape=(), dtype="str" if kind == "stringType" else "int64"))
    if kind == "dictionaryType":  # a classifier's probabilities: how many is in the program only
        return Feature(TensorSpec(name=name, shape=(), dtype="float32"))
    raise ConversionError(
        f"{name} of the package is a {kind}", why="arrays, images and classes are known here", fix="run the package on a Mac"
    )


def features(descriptions: Any) -> tuple[TensorSpec, ...]:
    """Inputs or outputs of a package, by their default shapes."""
    return tuple(feature(each).spec for each in descriptions)


def _array(name: str, array: Any, optional: bool) -> Feature:
    shape = tuple(int(size) for size in array.shape)
    kind = array.WhichOneof("ShapeFlexibility")
    shapes: tuple[Sizes, ...] = (_exactly(shape),)
    if kind == "shapeRange":
        shapes = (tuple(map(_range, array.shapeRange.sizeRanges)),)
    elif kind == "enumeratedShapes":
        shapes = tuple(_exactly(each.shape) for each in array.enumeratedShapes.shapes)
    given = array.WhichOneof("defaultOptionalValue")
    default = (float(getattr(array, given)) if given else 0.0) if optional else None
    return Feature(TensorSpec(name=name, shape=shape, dtype=_known(_DTYPES, array.dataType, name)), shapes, default)


def _image(name: str, image: Any) -> Feature:
    channels, dtype = _known(_COLORS, image.colorSpace, name)
    kind = image.WhichOneof("SizeFlexibility")
    sizes: list[Sizes] = [_exactly((image.height, image.width))]
    if kind == "imageSizeRange":
        sizes = [(_range(image.imageSizeRange.heightRange), _range(image.imageSizeRange.widthRange))]
    elif kind == "enumeratedSizes":
        sizes = [_exactly((each.height, each.width)) for each in image.enumeratedSizes.sizes]
    spec = TensorSpec(name=name, shape=(1, channels, int(image.height), int(image.width)), dtype=dtype)
    return Feature(spec, tuple(_exactly((1, channels)) + each for each in sizes))


def _known(table: dict[int, T], number: int, name: str) -> T:
    if number not in table:
        why = f"its type is number {number}, the numbers here are {', '.join(map(str, table))}"
        raise ConversionError(f"{name} of the package is of an unknown type", why=why, fix="run the package on a Mac")
    return table[number]


def _exactly(shape: Any) -> Sizes:
    return tuple(range(int(size), int(size) + 1) for size in shape)


def _range(sizes: Any) -> range:
    return range(int(sizes.lowerBound), int(sizes.upperBound) + 1 if sizes.upperBound >= 0 else sys.maxsize)


def _in_words(sizes: range) -> str:
    if len(sizes) == 1:
        return str(sizes[0])
    return f"{sizes.start} or more" if sizes.stop == sys.maxsize else f"{sizes.start} to {sizes.stop - 1}"
