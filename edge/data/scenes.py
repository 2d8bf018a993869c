"""``scenes``: a generated multi-label data set that needs no download.

Twenty kinds of things stand in cluttered scenes, up to four at a time, between 24 and 190 pixels
wide. Many kinds share an outline and differ in what is inside (ball, button, target; chessboard,
die, window; eye, fish, leaf), so a small one must be looked at closely: that is what the second
stream of a region network is for.

Every pixel follows from (seed, split, index) through Philox raw bits and 32-bit integer arithmetic
alone, so the digests hold across NumPy versions and machines. The splits draw from disjoint Philox
keys: ``train``, ``test``, and ``validation``, on which nothing is trained and what a bundle decides
by images is decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge.data.base import Dataset, Sample, check_split
from edge.data.shapes import CLASSES, CLUTTER, KINDS, UNIT, Ints, Shape
from edge.errors import EdgeError
from edge.manifest import digest_json

SIZE = 256
SPLITS = {"train": 3000, "test": 2000, "validation": 2000}  # in this order: a split draws by its place
VERSION = 1  # part of the digest: raise it with every change to a pixel or a label

# ---- what stands where ---------------------------------------------------------------------------


class _Draws:
    """Integers from Philox raw bits, whose stream NumPy keeps from version to version."""

    def __init__(self, seed: int, split: str, index: int, purpose: int) -> None:
        stream = list(SPLITS).index(split) << 56 | purpose << 48 | index
        self._bits = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))

    def below(self, bound: int) -> int:
        """One integer in [0, bound)."""
        return (int(self._bits.random_raw()) >> 32) * bound >> 32

    def between(self, low: int, high: int) -> int:
        """One integer in [low, high], both inclusive."""
        return low + self.below(high - low + 1)

    def octets(self, *shape: int) -> Ints:
        """An array of integers in [0, 256)."""
        count = int(np.prod(shape))
        raw = np.asarray(self._bits.random_raw(-(-count // 8)), dtype="<u8")
        return raw.view(np.uint8)[:count].reshape(shape).astype(np.int32)


@dataclass(frozen=True)
class Thing:
    """One object of a scene: index into ``CLASSES``, centre and side in pixels, turn in degrees."""

    kind: int
    x: int
    y: int
    side: int
    turn: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x1 y1 x2 y2 in pixels, x2/y2 exclusive."""
        half = self.side // 2
        return self.x - half, self.y - half, self.x + half, self.y + half


def plan(seed: int, split: str, index: int) -> tuple[Thing, ...]:
    """What stands in scene ``index``, in drawing order; cheap, since labels need no pixels."""
    draws = _Draws(seed, split, index, purpose=0)
    near = draws.below(5) < 2  # two in five are close-ups: a thing or two, large
    wanted = draws.between(1, 2) if near else draws.between(2, 4)
    things: list[Thing] = []
    for _ in range(wanted * 4):
        kind, scale = draws.below(len(CLASSES)), 9 if near else draws.below(10)
        side = draws.between(*((24, 40) if scale < 3 else (40, 76) if scale < 7 else (90, 190) if near else (76, 140)))
        margin = side * 5 // 8
        thing = Thing(kind, draws.between(margin, SIZE - margin), draws.between(margin, SIZE - margin), side, draws.between(-28, 28))
        if len(things) < wanted and all(_overlap(thing.box, other.box) * 12 <= min(thing.side, other.side) ** 2 for other in things):
            things.append(thing)
    return tuple(sorted(things, key=lambda thing: -thing.side))


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> int:
    """Common area of two boxes in square pixels."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


# ---- drawing -------------------------------------------------------------------------------------


def render(seed: int, split: str, index: int) -> NDArray[np.uint8]:
    """Draw scene ``index``: (256, 256, 3) uint8 RGB."""
    things, draws = plan(seed, split, index), _Draws(seed, split, index, purpose=1)
    canvas = _background(draws)
    for _ in range(draws.between(4, 12)):
        _put_clutter(canvas, draws, draws.between(14, 90))
    for thing in things:
        shape, hue = KINDS[CLASSES[thing.kind]]
        hue = hue + draws.between(-40, 40) if draws.below(10) else draws.below(1536)
        _put(canvas, shape, thing.x, thing.y, thing.side, thing.turn, *_colours(draws, hue, draws.between(0, 70)))
    for thing in things:
        if draws.below(3) == 0:  # a third of the side at most lies behind something
            side, away = thing.side // 3 + 2, thing.side // 2
            x, y = thing.x + (away if draws.below(2) else -away), thing.y + draws.between(-away, away)
            _put_clutter(canvas, draws, side, x, y)
    light = _field(draws, 4, 4) * 150 // 255 + 150  # 0.6 to 1.2 of full light
    canvas = canvas * light[:, :, None] >> 8
    amplitude = draws.between(4, 36)
    noise = draws.octets(SIZE, SIZE, 3) + draws.octets(SIZE, SIZE, 3) - 255
    return np.clip(canvas + (noise * amplitude >> 8), 0, 255).astype(np.uint8)


def _put_clutter(canvas: Ints, draws: _Draws, side: int, x: int | None = None, y: int | None = None) -> None:
    shape = CLUTTER[draws.below(len(CLUTTER))]
    x, y = draws.below(SIZE) if x is None else x, draws.below(SIZE) if y is None else y
    _put(canvas, shape, x, y, side, draws.between(-180, 180), *_colours(draws, draws.below(1536), draws.between(190, 255)))


def _put(canvas: Ints, shape: Shape, x: int, y: int, side: int, turn: int, body: Ints, detail: Ints) -> None:
    """Draw a shape over the canvas, its edges smoothed by 3 × 3 samples a pixel (2 × 2 for large
    ones)."""
    fine = 3 if side < 64 else 2
    reach = side * 3 // 4 + 1  # half the patch, wide enough for any turn
    x1, y1, x2, y2 = max(0, x - reach), max(0, y - reach), min(SIZE, x + reach), min(SIZE, y + reach)
    if x1 >= x2 or y1 >= y2:
        return
    across = (2 * np.arange((x1 - x) * fine, (x2 - x) * fine, dtype=np.int32) + 1) * UNIT // (side * fine)
    down = (2 * np.arange((y1 - y) * fine, (y2 - y) * fine, dtype=np.int32) + 1) * UNIT // (side * fine)
    sine, cosine = _sine(turn), _sine(turn + 90)
    u = (across[None, :] * cosine + down[:, None] * sine) >> 12
    v = (down[:, None] * cosine - across[None, :] * sine) >> 12
    inside, inner = shape(u, v)
    parts = np.stack([inside & ~inner, inside & inner])
    cover = parts.reshape(2, y2 - y1, fine, x2 - x1, fine).sum(axis=(2, 4), dtype=np.int32)[..., None]
    patch, full = canvas[y1:y2, x1:x2], fine * fine
    patch[:] = (patch * (full - cover[0] - cover[1]) + body * cover[0] + detail * cover[1]) // full


def _sine(degrees: int) -> int:
    """4096 sin, by Bhaskara's rational approximation (7th century): integers only, within 0.2 %."""
    degrees %= 360
    sign, half = (1, degrees) if degrees < 180 else (-1, degrees - 180)
    product = half * (180 - half)
    return sign * (4 * 4096 * product // (40500 - product))


def _colours(draws: _Draws, hue: int, pale: int) -> tuple[Ints, Ints]:
    """A body colour of that hue (of 1536; ``pale`` of 255), and a detail colour that stands out
    from it: two (3,) int32 in 0..255."""
    colours = []
    for level in (draws.between(150, 255), draws.between(20, 80)):
        sector, ramp = divmod(hue % 1536, 256)
        fall = 255 - ramp
        channels = [(255, ramp, 0), (fall, 255, 0), (0, 255, ramp), (0, fall, 255), (ramp, 0, 255), (255, 0, fall)][sector]
        colours.append(np.array([(c + (255 - c) * pale // 255) * level // 255 for c in channels], dtype=np.int32))
        hue += draws.between(-50, 50)
    return colours[0], colours[1]


def _field(draws: _Draws, rows: int, columns: int) -> Ints:
    """A smooth random surface: (256, 256) int32 in 0..255, bilinear between (rows + 1) × (columns +
    1) knots."""
    knots = draws.octets(rows + 1, columns + 1)
    place = np.arange(SIZE, dtype=np.int32)
    row, down = place * rows // SIZE, place * rows % SIZE
    column, along = place * columns // SIZE, place * columns % SIZE
    upper, lower = knots[row], knots[row + 1]
    left = upper[:, column] * (SIZE - down)[:, None] + lower[:, column] * down[:, None]
    right = upper[:, column + 1] * (SIZE - down)[:, None] + lower[:, column + 1] * down[:, None]
    return np.asarray(left * (SIZE - along) + right * along, dtype=np.int32) >> 16


def _background(draws: _Draws) -> Ints:
    """A two-coloured ground with soft patches, some of it striped or grainy: (256, 256, 3)
    int32."""
    # Dusty colours: a grey with a tint of a sixth at most, so that what is vivid is a thing.
    first, second = (draws.between(60, 190) + draws.octets(3) // 6 - 21 for _ in range(2))
    rows, columns = draws.between(2, 24), draws.between(2, 24)
    mix = _field(draws, rows, columns)
    if draws.below(3) == 0:
        place, width = np.arange(SIZE, dtype=np.int32), draws.between(6, 40)
        lines = place[None, :] * draws.between(-3, 3) + place[:, None] * draws.between(1, 3)
        mix = (mix + (lines // width % 2) * draws.between(60, 200)) >> 1
    return (first * (255 - mix[:, :, None]) + second * mix[:, :, None]) // 255


# ---- the data set --------------------------------------------------------------------------------


class Scenes(Dataset):
    """One split of the generated scenes; an image is drawn when it is asked for."""

    name = "scenes"
    splits = tuple(SPLITS)
    report_split = "test"
    classes = CLASSES

    def __init__(self, split: str, seed: int = 0) -> None:
        check_split(self.name, split, self.splits)
        if not 0 <= seed < 1 << 64:
            raise EdgeError("data", f"The seed {seed} does not fit 64 bits", "Set `seed` to 0 … 2**64 - 1")
        self.split, self.seed = split, seed

    def __len__(self) -> int:
        return SPLITS[self.split]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in 0..{len(self) - 1}")
        return Sample(f"{self.split}-{index:05d}", render(self.seed, self.split, index))

    @cached_property
    def labels(self) -> NDArray[np.int8]:  # type: ignore[override]
        table = np.full((len(self), len(CLASSES)), -1, np.int8)
        for index in range(len(self)):
            for thing in plan(self.seed, self.split, index):
                table[index, thing.kind] = 1
        return table

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        return digest_json([self.name, VERSION, self.seed, self.split, len(self)])
