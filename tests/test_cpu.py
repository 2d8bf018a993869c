"""What the processor can do, as results depend on it."""

from __future__ import annotations

import pytest

from edge import cpu


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
def test_only_x86_without_vnni_needs_the_reduced_range(monkeypatch, tmp_path, machine, cpuinfo, expected):
    if cpuinfo:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    assert cpu.needs_reduced_range(tmp_path) is expected
