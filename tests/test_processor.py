"""What the processor can do, as results depend on it."""

from __future__ import annotations

import pytest

from edge import processor


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "expected"),
    [
        ("x86_64", "flags : sse avx2 avx512f avx512_vnni", False),
        ("x86_64", "flags : sse avx2 avx_vnni", False),
        ("AMD64", "flags : sse avx2", True),
        ("x86_64", None, True),
        ("aarch64", None, False),
    ],
)
def test_only_x86_without_vnni_needs_the_reduced_range(monkeypatch, machine, cpuinfo, expected):
    class Info:
        def __init__(self, _: str) -> None: ...

        def is_file(self) -> bool:
            return cpuinfo is not None

        def read_text(self) -> str:
            return cpuinfo or ""

    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "Path", Info)
    assert processor.needs_reduced_range() is expected
