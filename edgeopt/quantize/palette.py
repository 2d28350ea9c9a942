"""Few values in place of many: k-means of numbers, and how small a weight with few values can be stored."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CUTS = 1024
LLOYD_STEPS = 50


@dataclass(frozen=True, slots=True)
class Packed:
    """Bytes of one weight in four ways. ``dense``: as it is. ``palette``: ceil(log2 k) bits for each number, and the values.

    ``huffman``: Huffman codes of the indices, the values and one byte per code length. ``entropy``: the least that any code
    without context can reach for the indices alone.
    """

    dense: int
    palette: int
    huffman: int
    entropy: int

    def __add__(self, other: "Packed") -> "Packed":
        pairs = zip(self._bytes, other._bytes, strict=True)
        return Packed(*(mine + its for mine, its in pairs))

    @property
    def _bytes(self) -> tuple[int, int, int, int]:
        return self.dense, self.palette, self.huffman, self.entropy


def centroids(values: Tensor, count: int, cuts: int = CUTS) -> Tensor:
    """``count`` numbers (fewer where ``values`` has fewer) at the least sum of squared distances to ``values``; sorted float64.

    Clusters of numbers are runs of the sorted ones, so dynamic programming finds the best k-means there is (Wang & Song, 2011,
    doi:10.32614/RJ-2011-015). Of more than ``cuts`` different values not every one is tried as a border; Lloyd's algorithm then
    moves the borders to where they belong.
    """
    distinct: Tensor
    distinct, counts = torch.unique(values.double(), return_counts=True)
    if len(distinct) <= count:
        return distinct
    sums = _Sums(distinct, counts)
    return sums.refined(sums.best(count, _cuts(distinct, cuts)))


def centroids_and_zero(values: Tensor, count: int, cuts: int = CUTS) -> Tensor:
    """As :func:`centroids`; one of them is 0 where ``values`` has zeros, so that these stay."""
    zeros = values == 0
    if not bool(zeros.any()):
        return centroids(values, count, cuts)
    rest = centroids(values[~zeros], count - 1, cuts)
    return torch.cat([rest, rest.new_zeros(1)]).sort().values


def nearest(values: Tensor, palette: Tensor) -> Tensor:
    """For each of ``values`` the index of the nearest number of ``palette`` (sorted)."""
    return torch.bucketize(values.double(), (palette[1:] + palette[:-1]) / 2)


def _cuts(distinct: Tensor, count: int) -> Tensor:
    """Where clusters may begin and end: half of the places evenly among the values, half evenly over their range."""
    size = len(distinct)
    if size <= count:
        return torch.arange(size + 1)
    among = torch.linspace(0, size, count // 2).long()
    over = torch.linspace(float(distinct[0]), float(distinct[-1]), count // 2, dtype=torch.float64)
    cuts: Tensor = torch.unique(torch.cat([among, torch.searchsorted(distinct, over)]))
    return cuts


class _Sums:
    """Sums over any run of sorted numbers in one subtraction."""

    def __init__(self, distinct: Tensor, counts: Tensor) -> None:
        self._distinct = distinct
        self._middle = (distinct * counts).sum() / counts.sum()  # near zero, squares lose no digits to each other
        near = distinct - self._middle
        zero = torch.zeros(1, dtype=torch.float64)
        self._sums = torch.stack([torch.cat([zero, (near**power * counts).cumsum(0)]) for power in (0, 1, 2)])

    def best(self, count: int, cuts: Tensor) -> Tensor:
        """Centroids of the ``count`` runs between ``cuts`` with the least squared error."""
        size, first, second = (row[None, :] - row[:, None] for row in self._sums[:, cuts])  # [begin, end]
        error = second - first.square() / size
        error = torch.where(size > 0, error, math.inf).T.contiguous()  # [end, begin]
        least, before, total = error[:, 0], [], torch.empty_like(error)
        for _ in range(count - 1):
            before.append(least)
            least = torch.add(least, error, out=total).amin(1)
        end = len(cuts) - 1
        borders = [end]
        for known in reversed(before):  # where the least is, only on the way back: finding it everywhere takes twice as long
            end = int((known[None, :] + error[end : end + 1]).min(1).indices)
            borders.append(end)
        return self._means(cuts[[0, *reversed(borders)]])

    def refined(self, found: Tensor) -> Tensor:
        """Lloyd's algorithm from ``found`` on."""
        for _ in range(LLOYD_STEPS):
            borders = torch.searchsorted(self._distinct, (found[1:] + found[:-1]) / 2)
            means = self._means(torch.cat([borders.new_zeros(1), borders, borders.new_full((1,), len(self._distinct))]))
            if torch.equal(means, found):
                break
            found = means
        return found

    def _means(self, borders: Tensor) -> Tensor:
        size, first, _ = self._sums[:, borders].diff()
        means: Tensor = first[size > 0] / size[size > 0] + self._middle
        return means


def packed(indices: Tensor, values: int, tables: int, item_size: int) -> Packed:
    """Sizes of a weight: ``indices`` into ``tables`` palettes of ``values`` numbers each, of ``item_size`` bytes."""
    counts = torch.bincount(indices.flatten(), minlength=1)
    counts = counts[counts > 0]
    table = tables * values * item_size * 8
    share = counts / counts.sum()
    entropy = float(torch.special.entr(share.double()).sum()) / math.log(2)
    bits = max(math.ceil(math.log2(values)), 1)
    return Packed(
        dense=indices.numel() * item_size,
        palette=math.ceil((indices.numel() * bits + table) / 8),
        huffman=math.ceil((_huffman_bits(counts.tolist()) + table) / 8) + len(counts),
        entropy=math.ceil(indices.numel() * entropy / 8),
    )


def _huffman_bits(counts: list[int]) -> int:
    """Bits of all numbers together. ``eof`` is a symbol that exists: dahuffman would add one of its own."""
    from dahuffman import HuffmanCodec  # of the extra compress: palettes are exported without it

    codec = HuffmanCodec.from_frequencies(dict(enumerate(counts)), concat=list, eof=0)
    lengths = {symbol: bits for symbol, (bits, _) in codec.get_code_table().items()}
    return sum(count * lengths[symbol] for symbol, count in enumerate(counts))
