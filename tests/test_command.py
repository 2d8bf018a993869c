"""What every command shares."""

from __future__ import annotations

import json
import os
import sys

import pytest

from edge import command
from edge.errors import EdgeError, GateError


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_reader_that_leaves_costs_neither_the_result_nor_the_gate(name, tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    monkeypatch.setattr(sys, name, stream)

    def main(args):
        for _ in range(2):
            command.say("a line")
            command.warn("another")
        command.write_json(args.json, {"p99": 1})
        raise GateError("gate", "p99 must hold", got=2, expected=1, do="Look")

    arguments = command.parser("bench", "").parse_args(["--json", str(tmp_path / "out.json")])
    assert command.run(main, arguments) == 3
    assert json.loads((tmp_path / "out.json").read_text()) == {"p99": 1}
    stream.close()  # what was buffered is gone: nothing fails when the interpreter ends


def test_a_refusal_is_its_line_and_its_exit_code(capsys):
    def main(_):
        raise EdgeError("build", "it must hold", got=1, expected=2, do="Try")

    assert command.run(main, command.parser("build", "").parse_args([])) == 1
    assert capsys.readouterr().err == "[build] it must hold, got 1. Expected 2. Try.\n"
