"""The shapes of ``scenes``: (u, v) int32 in UNITs → (body, detail) masks; detail lies over body.
Integer arithmetic alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

UNIT = 1024  # shapes live in [-UNIT, UNIT]², v pointing down

Ints = NDArray[np.int32]
Mask = NDArray[np.bool_]


def _nothing(u: Ints) -> Mask:
    return np.zeros(u.shape, bool)


def _disc(u: Ints, v: Ints, x: int, y: int, radius: int) -> Mask:
    return (u - x) * (u - x) + (v - y) * (v - y) <= radius * radius


def _box(u: Ints, v: Ints, x0: int, y0: int, x1: int, y1: int) -> Mask:
    return (u >= x0) & (u < x1) & (v >= y0) & (v < y1)


def _wedge(u: Ints, v: Ints, top: int, bottom: int, slope: int, foot: int = 0) -> Mask:
    """A triangle (or trapezium) with its tip up: half width = foot + slope/8 per unit of height."""
    return (v >= top) & (v < bottom) & (abs(u) <= (v - top) * slope // 8 + foot)


def _lens(u: Ints, v: Ints, x: int, half: int) -> Mask:
    """Two discs' intersection, lying flat, ``half`` wide on either side of ``x``, about half as
    high."""
    offset, radius = half * 7 // 10, half * 122 // 100
    return _disc(u, v, x, offset, radius) & _disc(u, v, x, -offset, radius)


def _arrow(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    tail = _box(u, v, -260, 0, 260, 1000)
    return _wedge(u, v, -1000, 0, 7) | tail, tail & (v > 450) & ((v - 450) % 260 < 130)


def _ball(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    return _disc(u, v, 0, 0, 960), (u > 0) ^ (v > 0) ^ (abs(u) > abs(v))


def _button(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    return _disc(u, v, 0, 0, 960), _disc(abs(u), abs(v), 330, 330, 200)


def _chessboard(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    return _box(u, v, -900, -900, 900, 900), ((u + 900) // 450 + (v + 900) // 450) % 2 == 1


def _die(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    return _box(u, v, -900, -900, 900, 900), _disc(abs(u), abs(v), 500, 500, 210) | _disc(u, v, 0, 0, 210)


def _eye(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    return _lens(u, v, 0, 1020), _disc(u, v, 0, 0, 420) & ~_disc(u, v, 0, 0, 170)


def _fish(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    tail = (u > 400) & (u < 1000) & (abs(v) <= (u - 350) * 7 // 8)
    return _lens(u, v, -230, 770) | tail, _disc(u, v, -620, -60, 110) | (abs(u + 250) < 80) | (tail & (u > 780))


def _flower(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    petals = _disc(abs(u), v, 600, 0, 370) | _disc(abs(u), abs(v), 300, 520, 370)
    return petals, _disc(u, v, 0, 0, 360)


def _gear(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    upright = (abs(u) < 170) & (abs(v) < 1000) | (abs(v) < 170) & (abs(u) < 1000)
    turned = (abs(u + v) < 240) & (abs(u - v) < 1414) | (abs(u - v) < 240) & (abs(u + v) < 1414)
    return (_disc(u, v, 0, 0, 740) | upright | turned) & ~_disc(u, v, 0, 0, 330), _nothing(u)


def _house(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    roof = _wedge(u, v, -950, -50, 9)
    return roof | _box(u, v, -700, -50, 700, 900), roof | _box(u, v, -190, 350, 190, 900)


def _key(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    bow = _disc(u, v, 0, -550, 450) & ~_disc(u, v, 0, -550, 200)
    bit = _box(u, v, 0, 420, 520, 600) | _box(u, v, 0, 760, 520, 940)
    return bow | bit | _box(u, v, -130, -200, 130, 980), _nothing(u)


def _ladder(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    rail, rung = (abs(u) > 400) & (abs(u) < 620), (abs(u) < 620) & ((v + 900) % 400 < 150)
    return (rail | rung) & (abs(v) < 1000), _nothing(u)


def _leaf(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    return _lens(u, v, 0, 1020), (abs(v) < 60) | ((u + abs(v)) % 330 < 80)


def _mushroom(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    dots = _disc(u, v, -480, -180, 180) | _disc(u, v, 420, -150, 200) | _disc(u, v, 0, -560, 190)
    return _disc(u, v, 0, 100, 960) & (v < 100) | _box(u, v, -280, 100, 280, 900), dots


def _ring(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    return _disc(u, v, 0, 0, 960) & ~_disc(u, v, 0, 0, 600), _nothing(u)


def _star(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    # A pentagram holds the points on the inner side of four of its five lines at least.
    normals = ((0, -1024), (974, -316), (602, 828), (-602, 828), (-974, -316))
    sides = sum(((x * u + y * v) <= 331 * 1024).astype(np.int32) for x, y in ((-x, -y) for x, y in normals))
    return np.asarray(sides >= 4), _nothing(u)


def _target(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    return _disc(u, v, 0, 0, 960), _disc(u, v, 0, 0, 730) & ~_disc(u, v, 0, 0, 480) | _disc(u, v, 0, 0, 240)


def _tree(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    crown = _wedge(u, v, -1000, -350, 5) | _wedge(u, v, -600, 150, 6, 60) | _wedge(u, v, -100, 650, 7, 120)
    trunk = _box(u, v, -160, 650, 160, 1000)
    return crown | trunk, trunk


def _umbrella(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    scallops = _disc(abs(u), v, 640, 120, 220) | _disc(u, v, 0, 120, 220)
    shaft = _box(u, v, -70, 0, 70, 860) | _disc(u, v, 150, 830, 220) & ~_disc(u, v, 150, 830, 90) & (v > 830)
    canopy = _disc(u, v, 0, 80, 980) & (v < 80) & ~scallops
    return canopy | shaft, canopy & (abs(u) < 380 + (v - 80) // 4)


def _window(u: Ints, v: Ints) -> tuple[Mask, Mask]:
    return _box(u, v, -900, -900, 900, 900), _box(abs(u), abs(v), 110, 110, 740, 740)


Shape = Callable[[Ints, Ints], tuple[Mask, Mask]]

# name -> shape and usual hue (of 1536). Two kinds share each hue, so colour narrows the choice and
# never makes it.
KINDS: dict[str, tuple[Shape, int]] = {
    "arrow": (_arrow, 890), "ball": (_ball, 10), "button": (_button, 130), "chessboard": (_chessboard, 1020),
    "die": (_die, 130), "eye": (_eye, 520), "fish": (_fish, 250), "flower": (_flower, 1400), "gear": (_gear, 740),
    "house": (_house, 380), "key": (_key, 250), "ladder": (_ladder, 890), "leaf": (_leaf, 520), "mushroom": (_mushroom, 1230),
    "ring": (_ring, 740), "star": (_star, 1400), "target": (_target, 10), "tree": (_tree, 380), "umbrella": (_umbrella, 1230),
    "window": (_window, 1020),
}  # fmt: skip
CLASSES = tuple(KINDS)


def _plain(outline: Shape) -> Shape:
    return lambda u, v: (outline(u, v)[0], _nothing(u))


# Clutter has outlines of the kinds but nothing inside, or is a bar or a wedge.
CLUTTER: tuple[Shape, ...] = (
    _plain(_ball),
    _plain(_die),
    _plain(_eye),
    lambda u, v: (_wedge(u, v, -900, 800, 4), _nothing(u)),
    lambda u, v: (_box(u, v, -150, -1000, 150, 1000), _nothing(u)),
    lambda u, v: (_box(u, v, -950, -350, 950, 350), _nothing(u)),
)
