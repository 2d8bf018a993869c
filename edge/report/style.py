"""The style sheet of the report page; paper is always light."""

from edge.charts.marks import DARK, LIGHT, STYLE

SHEET = f"""
:root{{color-scheme:light dark;{LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{DARK}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}}
main{{max-width:1060px;margin:0 auto;padding:40px 20px 64px}}
header{{margin-bottom:24px}}
h1{{margin:2px 0 8px;font-size:28px;line-height:1.2;overflow-wrap:anywhere}}
header p{{margin:0;color:var(--soft)}}
header .kicker{{font-size:12px;letter-spacing:.09em;text-transform:uppercase}}
h2{{margin:0 0 12px;font-size:17px}}
h3{{margin:12px 0 4px;font-size:14px}}
section{{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px 22px;margin:16px 0;break-inside:avoid}}
.badge{{display:inline-block;padding:0 10px;margin-right:6px;border-radius:99px;font-size:13px;font-weight:600;border:1.5px solid}}
.valid{{color:var(--good)}}.invalid{{color:var(--bad)}}
.cards{{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px}}
.cards div{{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px}}
.cards b{{display:block;font-size:24px;line-height:1.25;font-variant-numeric:tabular-nums}}
.cards span,.note,figcaption{{color:var(--soft);font-size:13px;line-height:1.4}}
.cards span{{display:block}}
.note{{margin:10px 0 0}}
.wide{{overflow-x:auto}}.wide+.wide{{margin-top:14px}}
table{{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}}
th,td{{padding:5px 8px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}}
th{{color:var(--soft);font-weight:600}}
th:first-child,td:first-child{{text-align:left;padding-left:0}}
th:last-child,td:last-child{{padding-right:0}}
table.plain td{{text-align:left;white-space:normal;vertical-align:top}}
table.plain td:first-child{{color:var(--soft);width:9em}}
.worded th:last-child,.worded td:last-child{{text-align:left;white-space:normal;padding-left:16px}}
tbody tr:last-child td{{border-bottom:0}}
dl{{display:grid;grid-template-columns:max-content 1fr;gap:5px 18px;margin:0;font-size:14px}}
dt{{color:var(--soft)}}dd{{margin:0;overflow-wrap:anywhere}}
svg{{display:block;width:100%;height:auto}}
svg+svg{{margin-top:8px}}
{STYLE}
.strip{{display:grid;grid-template-columns:repeat(auto-fill,minmax(280px,1fr));gap:18px}}
figure{{margin:0}}
figcaption{{margin-top:6px}}
figure svg{{border-radius:8px;overflow:hidden}}
.halo,.box0,.box1{{fill:none}}
.halo{{stroke:#000;stroke-opacity:.45;stroke-width:3.4}}
.box0{{stroke:#4da3ff;stroke-width:1.8}}
.box1{{stroke:#ffb14d;stroke-width:1.8;stroke-dasharray:6 4}}
.key{{margin:-4px 0 12px;font-size:13px;color:var(--soft)}}
.key span{{margin-right:16px}}
.key span::before{{content:"";display:inline-block;width:22px;margin-right:6px;vertical-align:middle;border-top:2.5px solid #4da3ff}}
.key .k1::before{{border-top:2.5px dashed #ffb14d}}
@media print{{:root{{color-scheme:light;{LIGHT}--bg:#fff}}
main{{max-width:none;padding:0}}body{{font-size:12px;-webkit-print-color-adjust:exact;print-color-adjust:exact}}}}
"""
