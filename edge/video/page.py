"""The page of ``edge.video.http``: picture, labels, and frames a second, latency and looks as small
plots. It loads nothing else."""

from __future__ import annotations

import base64
import hashlib

from edge.charts.marks import DARK, LIGHT
from edge.shown import in_html

STYLE = f"""
:root{{color-scheme:light dark;{LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{DARK}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}}
main{{max-width:1280px;margin:0 auto;padding:20px;display:grid;gap:16px;grid-template-columns:minmax(0,1fr)}}
header{{display:flex;flex-wrap:wrap;gap:4px 16px;align-items:baseline}}
h1{{margin:0;font-size:20px;overflow-wrap:anywhere}}
header p{{margin:0;color:var(--soft);overflow-wrap:anywhere}}
#status{{margin-left:auto}}#status.lost{{color:var(--bad);font-weight:600}}
section{{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px;min-width:0}}
h2{{margin:0;font-size:13px;font-weight:600;color:var(--soft)}}
img{{display:block;width:100%;border-radius:6px;background:var(--grid);min-height:120px}}
ul{{list-style:none;margin:10px 0 0;padding:0;display:grid;gap:10px}}
li{{display:grid;grid-template-columns:1fr auto;gap:0 12px;font-weight:600;overflow-wrap:anywhere}}
li span,b{{font-variant-numeric:tabular-nums}}
li i{{grid-column:1/3;height:5px;border-radius:3px;
background:linear-gradient(var(--c0),var(--c0)) 0/var(--share) 100% no-repeat var(--grid)}}
.none{{color:var(--soft);font-weight:400}}
.plots{{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(220px,1fr))}}
b{{display:block;font-size:24px;line-height:1.25}}b small{{font-size:13px;font-weight:400;color:var(--soft)}}
svg{{display:block;width:100%;height:64px;margin-top:6px;overflow:visible}}
polyline{{fill:none;stroke:var(--c0);stroke-width:2;vector-effect:non-scaling-stroke}}
line{{stroke:var(--grid);vector-effect:non-scaling-stroke}}
.axis{{display:flex;justify-content:space-between;color:var(--soft);font-size:12px}}
@media (min-width:900px){{main{{grid-template-columns:minmax(0,3fr) minmax(220px,1fr)}}header,.plots{{grid-column:1/3}}}}
"""

SCRIPT = """
"use strict";
const $ = id => document.getElementById(id), ask = name => name + location.search, pause = ms => new Promise(done => setTimeout(done, ms));
const number = (value, digits) => value === null ? "–" : value.toFixed(digits);

function drawPlot(id, values, digits) {
  const known = values.filter(value => value !== null).sort((a, b) => a - b), most = known.at(-1) ?? 0, plot = $(id);
  // One slow second, such as the first, does not flatten the others: it leaves the plot at its top.
  const top = Math.min(most, 4 * known[known.length >> 1]) || most || 1, lines = [];
  let points = [];
  values.forEach((value, index) => {
    if (value === null) { lines.push(points); points = []; return; }
    points.push(`${(100 * (index + 1) / values.length).toFixed(2)},${(40 - 38 * Math.min(1, value / top)).toFixed(2)}`);
  });
  lines.push(points);
  plot.querySelectorAll("polyline").forEach(old => old.remove());
  for (const each of lines.filter(line => line.length)) {
    const line = document.createElementNS(plot.namespaceURI, "polyline");
    line.setAttribute("points", each.length > 1 ? each.join(" ") : `${each[0]} ${each[0]}`);
    plot.append(line);
  }
  $(id + "-top").textContent = known.length ? "up to " + number(most, digits) : "";
}

function showLabels(labels) {
  $("labels").replaceChildren(...(labels.length ? labels : [null]).map(label => {
    const row = document.createElement("li");
    if (!label) { row.textContent = "nothing above the threshold"; row.className = "none"; return row; }
    const score = document.createElement("span"), bar = document.createElement("i");
    score.textContent = label.score.toFixed(2);
    bar.style.setProperty("--share", 100 * label.score + "%");
    row.append(label.name, score, bar);
    return row;
  }));
}

function show(state) {
  showLabels(state.labels);
  $("rate").textContent = number(state.frames_per_s, 1);
  $("latency").textContent = number(state.latency_ms, 1);
  $("looks").textContent = number(state.looks, 0);
  drawPlot("rate-plot", state.plots.frames_per_s, 1);
  drawPlot("latency-plot", state.plots.latency_ms, 1);
  drawPlot("looks-plot", state.plots.looks, 1);
  for (const axis of document.getElementsByClassName("since")) axis.textContent = `${state.plots.looks.length} s`;
  $("status").textContent = `frame ${state.frame}, ${state.time_s.toFixed(1)} s, ${state.dropped} dropped`;
}

async function follow() {
  let shown = null;
  for (;;) {
    try {
      const answer = await fetch(ask("state.json"), {cache: "no-store", signal: AbortSignal.timeout(5000)});
      if (!answer.ok) throw new Error(answer.statusText);
      const state = await answer.json();
      $("status").className = "";
      if (state.frame === null) $("status").textContent = "waiting for the first frame";
      else show(state);
      if (state.frame !== shown) {
        const next = await fetch(ask("picture.jpg"), {cache: "no-store", signal: AbortSignal.timeout(5000)});
        if (!next.ok) throw new Error(next.statusText);
        const before = $("picture").src;
        $("picture").src = URL.createObjectURL(await next.blob());
        await $("picture").decode();
        if (before.startsWith("blob:")) URL.revokeObjectURL(before);
        shown = state.frame;
      }
      await pause(document.hidden ? 2000 : 200);
    } catch (error) {
      $("status").className = "lost";
      $("status").textContent = "no connection; trying again";
      await pause(1000);
    }
  }
}
follow();
"""


def _source(code: str) -> str:
    """A piece of the page as its policy names it, by digest."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


# Nothing but this style, this script, and pictures and numbers from where the page came; in no
# other page's frame.
POLICY = (
    f"default-src 'none'; style-src {_source(STYLE)}; script-src {_source(SCRIPT)}; connect-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(bundle: str, source: str) -> str:
    """The page as HTML; what it shows it asks for in ``state.json`` and ``picture.jpg``."""
    title = in_html(f"{bundle}: {source}")
    plots = "".join(
        _plot(*words)
        for words in (("rate", "frames a second", ""), ("latency", "latency", "ms"), ("looks", "regions looked at", "a frame"))
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head>
<body><main>
<header><h1>{in_html(bundle)}</h1><p>{in_html(source)}</p><p id="status" role="status">waiting for the first frame</p></header>
<section><img id="picture" alt="the newest frame, with its regions"></section>
<section><h2>Labels</h2><ul id="labels"></ul></section>
<div class="plots">{plots}</div>
</main><script>{SCRIPT}</script></body></html>
"""


def _plot(name: str, title: str, unit: str) -> str:
    return (
        f'<section><h2>{title}</h2><b><span id="{name}">–</span> <small>{unit}</small></b>'
        f'<svg id="{name}-plot" viewBox="0 0 100 40" preserveAspectRatio="none" role="img" aria-label="{title}, second by second">'
        f'<line x1="0" y1="40" x2="100" y2="40"/></svg>'
        f'<div class="axis"><span class="since"></span><span id="{name}-plot-top"></span><span>now</span></div></section>'
    )
