"""A plugin of pytest for an emulated Python (``-p emulated``): programs of its processor and builds
from weights go on working.

The kernel cannot start a program of another processor, so the emulator is put before it; the host's
own programs, such as cmake, start as they are. There is no torch here: a build from weights is made
by the host's Python and then rebuilt here, as for a device. Environment: ``ARM_RUN`` (the emulator
with its flags), ``ARM_PYTHON`` (this Python, startable by the host), ``HOST_PYTHON``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

AARCH64 = 183  # e_machine of ELF
# Tests, or cases of one, that judge the emulator instead of what runs in it.
OF_THE_EMULATOR = {
    "test_engines_come_and_go_without_a_leak": "its memory grows by the code it translates",
    "test_without_numbers_it_counts_for_two_seconds": "it makes too few calls in that time",
    "test_what_does_not_fit_is_refused_in_one_line": "OpenVINO adds a line about a file of the system that it does not have",
    "test_whatever_ends_the_builder_is_one_line[abort]": "it has the last words of a program that aborts",
}


def is_foreign(program: str) -> bool:
    """Whether a file is a program of the emulated processor."""
    try:
        with open(program, "rb") as file:
            head = file.read(20)
    except OSError:
        return False
    return head[:4] == b"\x7fELF" and int.from_bytes(head[18:20], "little") == AARCH64


class Popen(subprocess.Popen):
    def __init__(self, words: Any, *rest: Any, **options: Any) -> None:
        if isinstance(words, list | tuple) and words:
            found = shutil.which(os.fspath(words[0])) or os.fspath(words[0])
            if is_foreign(found):
                words = [*os.environ["ARM_RUN"].split(), found, *words[1:]]
        super().__init__(words, *rest, **options)


def build_on_the_host(options: Any, **rest: Any) -> Any:
    """``edge.pipeline.build``: by the host's Python, then a rebuild here."""
    from edge.pipeline import BuildOptions, rebuild

    output = Path(options.output)
    with tempfile.TemporaryDirectory() as folder:
        asked = {name: getattr(options, name) for name in options.given} | {"output": f"{folder}/bundle"}
        code = (
            "import sys; from pathlib import Path; from edge.pipeline import BuildOptions, build; build(BuildOptions(**eval(sys.argv[1])))"
        )
        words = {name: os.fspath(value) if isinstance(value, Path) else value for name, value in asked.items()}
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["HOST_PYTHONPATH"], "OMP_NUM_THREADS": "1"}
        subprocess.run([os.environ["HOST_PYTHON"], "-c", code, repr(words)], check=True, env=environment)
        return rebuild(f"{folder}/bundle", replace(BuildOptions(), output=output, force=options.force), **rest)


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    for item in items:
        reason = OF_THE_EMULATOR.get(item.name) or OF_THE_EMULATOR.get(item.originalname)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"the emulator: {reason}"))


def pytest_configure() -> None:
    import edge.pipeline

    sys.executable = os.environ["ARM_PYTHON"]
    subprocess.Popen = Popen  # type: ignore[misc]
    edge.pipeline.build = build_on_the_host
