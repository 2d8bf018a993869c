"""What every command shares."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
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
        raise GateError("gate", "p99 is 2 ms", "Look")

    arguments = command.parser("bench", "").parse_args(["--json", str(tmp_path / "out.json")])
    assert command.run(main, arguments) == 3
    assert json.loads((tmp_path / "out.json").read_text()) == {"p99": 1}
    stream.close()  # what was buffered is gone: nothing fails when the interpreter ends


def test_a_refusal_is_its_line_and_its_exit_code(capsys):
    def main(_):
        raise EdgeError("build", "It broke", "Mend it")

    assert command.run(main, command.parser("build", "").parse_args([])) == 1
    assert capsys.readouterr().err == "[build] It broke. Mend it.\n"


def test_what_a_long_call_tells_is_printed_with_the_flags_of_the_command(capsys):
    terminal = command.Terminal(argparse.Namespace(max_map_drop=1))
    terminal.say("gate", "12 ms")
    terminal.warn("Leave `max_map_drop` out, or `other`")
    assert tuple(capsys.readouterr()) == ("gate       12 ms\n", "warning: Leave --max-map-drop out, or `other`\n")


@pytest.mark.parametrize("name", command.WRITTEN)
def test_a_result_that_cannot_be_written_is_refused_before_the_work(name, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    arguments = argparse.Namespace(**{name: tmp_path / "file" / "out"})
    assert command.run(lambda _: pytest.fail("the work began"), arguments) == 1
    assert "Cannot write" in capsys.readouterr().err


SAYS = r"""
import sys
from pathlib import Path
from edge import command

def main(args):
    command.say("naïve ✓ \ud800")
    command.warn("naïve ✓")
    with command.progress("work") as report:
        report(1, 1)
    command.write_json(args.json, [1])

sys.exit(command.run(main, command.parser("x", "").parse_args(sys.argv[1:])))
"""


def says(tmp_path, redirections="", **environment):
    """The exit code, what was printed and the JSON of a command that prints what not every encoding
    has."""
    (tmp_path / "says.py").write_text(SAYS, encoding="utf-8")
    line = f'exec "{sys.executable}" "{tmp_path}/says.py" --json "{tmp_path}/out.json" {redirections}'
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    done = subprocess.run(["sh", "-c", line], env=given, capture_output=True, timeout=60)
    return done.returncode, done.stdout, done.stderr, json.loads((tmp_path / "out.json").read_text())


def test_what_an_encoding_lacks_is_printed_as_an_escape(tmp_path):
    code, out, err, result = says(tmp_path, PYTHONIOENCODING="latin-1")
    assert (code, result) == (0, [1])
    assert out == b"na\xefve \\u2713 \\ud800\n"
    assert err == b"warning: na\xefve \\u2713\n"


@pytest.mark.parametrize(("redirections", "code"), [("2>&-", 0), (">&-", 0), (">/dev/full", 1)])
def test_a_stream_that_cannot_be_written_costs_no_result(tmp_path, redirections, code):
    if "full" in redirections and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    found = says(tmp_path, redirections, PYTHONIOENCODING="utf-8")
    assert (found[0], found[3]) == (code, [1])
    assert (b"Cannot write standard output: No space left on device" in found[2]) is bool(code)


def test_control_characters_are_printed_as_escapes(capsys):
    command.say("a\x1b[31m\nb", "c")
    command.warn("d\re")
    assert tuple(capsys.readouterr()) == ("a\\x1b[31m\\nb\nc\n", "warning: d\\re\n")


@pytest.mark.parametrize("error", [OSError(5, "Input/output error", "a\nb"), OSError("odd"), MemoryError()])
def test_what_the_system_refuses_is_one_line(error, capsys):
    def main(_):
        raise error

    assert command.run(main, command.parser("build", "").parse_args([])) == 1
    said = capsys.readouterr().err
    assert said.startswith("[system] The operating system reported: ")
    assert said.count("\n") == 1


def test_numbers_that_json_has_not_cost_no_result(tmp_path):
    command.write_json(tmp_path / "out.json", {"a": [float("nan"), (1.5, float("-inf"))], "b": 1})
    assert json.loads((tmp_path / "out.json").read_text()) == {"a": [None, [1.5, None]], "b": 1}
