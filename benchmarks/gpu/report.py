"""What a run on a GPU found: the schema of its JSON file, and the same as Markdown."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from edge.plain import Json  # a run without NumPy tells what it can

COPY_PERCENT = 80  # that RoiResize must reach, fp16 to fp16 at B = 8, K = 4, 448: what its ladder times


class Ladder(TypedDict):
    """A kernel from slow to fast: a row per version and block size, beside a copy."""

    copy_gb_per_s: int | None
    rows: list[dict[str, float]]


class EngineRow(TypedDict, total=False):
    """A network at one batch: its outputs against the reference, its latency against another's."""

    score_error: float
    class_agreement: float
    mean_iou: float | None
    iou_above: float | None
    images_changed: float
    p50_ms: float
    ratio: float
    interval: list[float]
    to: str


class Engines(TypedDict):
    """Whole networks of one model (``engines.py``); ``answers``: what could not be had, and what it said."""

    model: str
    size: int
    rounds: int
    machine: Mapping[str, Json]
    bundles: dict[str, Mapping[str, float | list[str]]]
    answers: dict[str, str]
    batches: dict[str, dict[str, EngineRow]]
    warnings: list[str]
    lowered: dict[str, list[str]]


class Found(TypedDict, total=False):
    """Everything; a step that was not reached has no key, one that failed has null."""

    cpu_tests: str | None
    nvcc: str
    resources: Mapping[str, Mapping[str, Mapping[str, Sequence[int]]]]
    resources_equal_recorded: bool | None
    checks: list[dict[str, str | bool]]
    enqueue: Json
    ladders: dict[str, Ladder]
    compare: Mapping[str, Mapping[str, float]] | None
    sanitizer: dict[str, str | None]
    engines: list[Engines]
    training: Json
    failures: dict[str, str]


def engine_tables(found: Engines) -> list[str]:
    """One model's engines: latency by batch, outputs against the reference, and what could not be had."""
    lines = [f"## {found['model']} at {found['size']}", ""]
    for batch, rows in found["batches"].items():
        lines += [f"Batch {batch}: median of a call from host to host, and its ratio to torch.", ""]
        lines += ["| | ms | ratio | score error | same class | box IoU |", "|---|---|---|---|---|---|"]
        for name, row in rows.items():
            cells = [row.get("p50_ms"), row.get("ratio"), row.get("score_error"), row.get("class_agreement"), row.get("mean_iou")]
            lines.append(f"| {name} | {' | '.join('' if cell is None else f'{cell:.4g}' for cell in cells)} |")
        lines.append("")
    lines += [f"- {name}: {bundle['mb']} MB, built in {bundle['seconds']} s" for name, bundle in found["bundles"].items()]
    lines += [f"- {name} answered: {words}" for name, words in found["answers"].items()]
    return [*lines, ""]


def table(result: Found, gpu: str | None, missing: Sequence[str] = (), failed: Sequence[str] = ()) -> str:
    """The Markdown report: only figures that were measured."""
    lines = [f"# Kernels on {gpu or 'a machine without a GPU'}", ""]
    lines += [f"CPU tests: {result.get('cpu_tests') or 'not run or failed'}.", ""]
    if "resources" in result:
        lines += [f"Resources by nvcc {result['nvcc']}: registers per thread, and bytes of shared memory per block where any.", ""]
        lines += ["| kernel | sm_87 | sm_90 | sm_110 |", "|---|---|---|---|"]
        for name, row in result["resources"]["kernels/aot.cu"].items():
            cells = [f"{values[0]}" + (f", {values[4]} B" if values[4] else "") for values in row.values()]
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
        lines.append("")
    for name, ladder in result.get("ladders", {}).items():
        lines += [f"## {name} (copy {ladder['copy_gb_per_s']} GB/s)", ""]
        lines += ["| version | best block size | µs | % of copy |", "|---|---|---|---|"]
        for version in sorted({row["version"] for row in ladder["rows"]}):
            best = min((row for row in ladder["rows"] if row["version"] == version), key=lambda row: row["microseconds"])
            lines.append(f"| {version} | {best['block_size']} | {best['microseconds']:.2f} | {best['percent_of_copy']:.1f} |")
        lines.append("")
        if name == "roi_resize" and ladder["rows"]:
            reached = max(row["percent_of_copy"] for row in ladder["rows"])
            lines += [f"- {'met' if reached >= COPY_PERCENT else 'NOT met'}: {COPY_PERCENT} % of the copy bandwidth or more", ""]
    if compare := result.get("compare"):
        lines += ["## Beside PyTorch", "", "| way | µs |", "|---|---|"]
        lines += [f"| {name} | {value:.1f} |" for name, value in compare["microseconds"].items()]
        lines += ["", "| error | |", "|---|---|", *(f"| {name} | {value:.2e} |" for name, value in compare["errors"].items())]
        lines += ["", *(f"- {'met' if met else 'NOT met'}: {name}" for name, met in compare["criteria"].items()), ""]
    for found in result.get("engines", []):
        lines += engine_tables(found)
    if "checks" in result:
        wrong = [str(check["check"]) for check in result["checks"] if not check["ok"]]
        lines += [f"Checks on the GPU: {len(result['checks'])}, failed: {', '.join(wrong) or 'none'}.", ""]
    for step, finding in result.get("sanitizer", {}).items():
        lines.append(f"- {step}: {finding}")
    lines += [*(f"- missing: {what}" for what in missing), *(f"- failed: {step}" for step in failed)]
    return "\n".join(lines).rstrip() + "\n"


def write(result: Found, gpu: str | None, missing: Sequence[str], failed: Sequence[str], target: Path) -> Path:
    """Both files; returns the Markdown one."""
    machine = {"gpu": gpu, "processor": platform.machine(), "python": platform.python_version()}
    document = {**machine, "missing": missing, "failed": failed, **result}
    name = "kernels-" + (re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") if gpu else "no-gpu")
    text = re.sub(r"\[\s+([\d,\s]+?)\s+\]", lambda row: "[" + re.sub(r"\s+", " ", row[1]) + "]", json.dumps(document, indent=1))
    (target / f"{name}.json").write_text(text + "\n")
    (target / f"{name}.md").write_text(table(result, gpu, missing, failed))
    return target / f"{name}.md"
