"""What a run on a GPU found, as JSON and as Markdown: only figures that were measured."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

from benchmarks.gpu.place import Found

COPY_PERCENT = 80  # that RoiResize must reach, fp16 to fp16 at B = 8, K = 4, 448: what its ladder times
REHEARSAL = " (rehearsal: stand-ins, no figure counts)"
MAP_DROP = 0.5  # points that int8 may lose


def table(result: Found) -> str:
    """The Markdown report."""
    stages: Found = result["stages"]
    lines = [
        f"# A run on {result['gpu'] or 'a machine without a GPU'}{REHEARSAL if result.get('rehearsal') else ''}",
        "",
    ]
    lines += ["| stage | seconds | |", "|---|---|---|"]
    for name, found in stages.items():
        ended = f"failed: {found['failed']}" if "failed" in found else f"without {found['missing']}" if "missing" in found else "done"
        lines.append(f"| {name} | {found.get('seconds', '')} | {cell(ended)} |")
    lines.append("")
    lines += kernel_lines(stages.get("kernels", {}))
    plans = {name: found for name, found in stages.items() if "attempts" in found}
    if plans:
        lines += ["## Plans", "", "| plan | built in s | MB | p50 ms | batch | layers | int8 convolutions | reformats | casts |"]
        lines += ["|---|---|---|---|---|---|---|---|---|", *(plan_row(name, found) for name, found in plans.items()), ""]
        lines += [
            "| plan | images | score error | same class | box IoU | coordinates equal / within 1 | mAP | drop |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [quality_row(name, found["quality"]) for name, found in plans.items() if "quality" in found]
        lines.append("")
        for name, found in plans.items():
            drop = found.get("quality", {}).get("map_drop")
            if "int8" in name and drop is not None:
                lines.append(verdict(drop <= MAP_DROP, f"{name} loses at most {MAP_DROP} points of mAP"))
        lines.append("")
    for name, found in stages.items():
        if "rows" in found:
            lines += [f"## {name}: from host to host, interleaved", "", "| | ms | times faster |", "|---|---|---|"]
            for who, row in found["rows"].items():
                ratio = f"{row['times_faster']} ({row['interval'][0]}–{row['interval'][1]}) than {row['than']}" if "than" in row else ""
                lines.append(f"| {who} | {row['p50_ms']} | {ratio} |")
            lines += [
                "",
                *(
                    verdict(row["goal_met"], f"{who} twice as fast as torch.compile")
                    for who, row in found["rows"].items()
                    if "goal_met" in row
                ),
            ]
            lines += [*(f"- {who} answered: {cell(words)}" for who, words in found.get("answers", {}).items()), ""]
    for name, found in stages.items():
        if name in ("smallest", "python", "tensorrt-rtx", "sanitizer", "training") and found:
            kept = {key: value for key, value in found.items() if key not in ("log", "tries")}
            lines += [f"## {name}", "", "```", json.dumps(kept, indent=1)[:4000], "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def kernel_lines(found: Found) -> list[str]:
    lines = []
    for name, ladder in found.get("ladders", {}).items():
        lines += [f"## {name} (copy {ladder['copy_gb_per_s']} GB/s)", ""]
        lines += ["| version | best block size | µs | % of copy |", "|---|---|---|---|"]
        for version in sorted({row["version"] for row in ladder["rows"]}):
            best = min((row for row in ladder["rows"] if row["version"] == version), key=lambda row: row["microseconds"])
            lines.append(f"| {version} | {best['block_size']} | {best['microseconds']:.2f} | {best['percent_of_copy']:.1f} |")
        lines.append("")
        if name == "roi_resize" and ladder["rows"]:
            reached = max(row["percent_of_copy"] for row in ladder["rows"])
            lines += [verdict(reached >= COPY_PERCENT, f"{COPY_PERCENT} % of the copy bandwidth or more"), ""]
    if compare := found.get("compare"):
        lines += ["## Beside PyTorch", "", "| way | µs |", "|---|---|"]
        lines += [f"| {name} | {value:.1f} |" for name, value in compare["microseconds"].items()]
        lines += ["", "| error | |", "|---|---|", *(f"| {name} | {value:.2e} |" for name, value in compare["errors"].items())]
        lines += ["", *(verdict(met, name) for name, met in compare["criteria"].items()), ""]
    if "checks" in found:
        wrong = [str(check["check"]) for check in found["checks"] if not check["ok"]]
        lines += [f"Checks on the GPU: {len(found['checks'])}, failed: {', '.join(wrong) or 'none'}.", ""]
    return lines


def plan_row(name: str, found: Found) -> str:
    plan, latency = found.get("plan", {}), found.get("latency", {})
    attempt = (found.get("attempts") or [{"seconds": "", "name": "built before", "code": 0}])[-1]
    engine = plan.get("engine", {})
    layers = [part.get("layers") or {} for part in engine.get("stages", {"": engine}).values() if isinstance(part, dict)]
    told = [" + ".join(str(each.get(key, "?")) for each in layers) for key in ("layers", "int8_share", "reformats", "casts")]
    seconds = f"{attempt['seconds']} ({attempt['name']}{'' if attempt['code'] == 0 else ', refused'})"
    cells = [seconds, plan.get("mb", ""), latency.get("latency_ms", {}).get("p50", ""), latency.get("batch", ""), *told]
    return f"| {name} | {' | '.join(map(cell, cells))} |"


def quality_row(name: str, found: Found) -> str:
    both = f"{cell(found['coordinates_equal'])} / {cell(found['coordinates_within_one'])}"
    cells = [
        found["images"],
        found["score_error"],
        found["class_agreement"],
        found["mean_iou"],
        both,
        found.get("map", ""),
        found.get("map_drop", ""),
    ]
    return f"| {name} | {' | '.join(map(cell, cells))} |"


def verdict(met: bool, what: str) -> str:
    return f"- {'met' if met else 'NOT met'}: {what}"


def cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split()).replace("|", "/")[:300]


def write(result: Found, target: Path) -> Path:
    """Both files; returns the Markdown one."""
    document = {**result, "processor": platform.machine(), "python": platform.python_version()}
    kind = re.sub(r"[^a-z0-9]+", "-", result["gpu"].lower()).strip("-") if result["gpu"] else "none"
    name = f"gpu-{'rehearsal' if result.get('rehearsal') else kind}"
    text = re.sub(r"\[\s+([-\d.,\s]+?)\s+\]", lambda row: "[" + re.sub(r"\s+", " ", row[1]) + "]", json.dumps(document, indent=1))
    (target / f"{name}.json").write_text(text + "\n")
    (target / f"{name}.md").write_text(table(result))
    return target / f"{name}.md"
