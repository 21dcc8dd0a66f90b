"""The style sheet of report.html: light and dark, screen and paper, without a font or a file from outside."""

from __future__ import annotations

# light; dark ones are below. matplotlib draws with them, and `figures.inline_svg` turns them into variables of the page
COLOURS = {
    "paper": "#ffffff",
    "wash": "#f3f6f8",
    "ink": "#16212c",
    "soft": "#5a6876",
    "rule": "#dbe2e8",
    "note": "#fdf3d9",
    "note-ink": "#4d3a08",
    "note-rule": "#d9a21b",
    "late": "#c03a2b",
    "mark": "#0b7f6b",
    "s0": "#64748b",
    "s1": "#2373b8",
    "s2": "#7a5ac6",
    "s3": "#0a8f74",
    "s4": "#c2570c",
    "s5": "#b13a7a",
    "s6": "#77750c",
    "s7": "#9a4b3c",
}

_LIGHT = ";".join(f"--{name}:{colour}" for name, colour in COLOURS.items())

STYLE = f"\n:root{{color-scheme:light dark;{_LIGHT}}}"
STYLE += """
@media (prefers-color-scheme:dark){:root{--paper:#0f151b;--wash:#161e26;--ink:#e4eaf0;--soft:#93a2b1;
--rule:#27323d;
--note:#2a2312;--note-ink:#f3e3b8;--note-rule:#c9962a;--late:#ff8273;--mark:#4fd3b6;
--s0:#a3b2c6;--s1:#6bb1f0;--s2:#b59bff;--s3:#46d1ae;--s4:#ff9f5a;--s5:#f086bc;--s6:#c9c54e;--s7:#dd9381}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 Inter,"SF Pro Text","Segoe UI Variable Text","Segoe UI",Roboto,"Helvetica Neue",
"Liberation Sans",Arial,sans-serif;
font-feature-settings:"tnum" 1,"cv05" 1;text-rendering:optimizeLegibility}
main,header,footer{max-width:1140px;margin:0 auto;padding:0 32px}
header{padding-top:56px}
.over{margin:0;color:var(--soft);font-size:14px}
h1{margin:6px 0 16px;font-size:40px;line-height:1.12;font-weight:620;letter-spacing:-.022em;
overflow-wrap:anywhere}
.lede{max-width:48em;margin:0;font-size:19px;line-height:1.5;color:var(--ink)}
.lede em{font-style:normal;font-weight:620}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));margin:36px 0 0;padding:0;
border-top:2px solid var(--ink)}
.figures div{padding:14px 20px 4px 0}
.figures dt{font-size:13px;color:var(--soft)}
.figures dd{margin:0}
.figures .big{font-size:34px;line-height:1.25;font-weight:560;letter-spacing:-.02em;white-space:nowrap}
.figures .big small{font-size:17px;font-weight:450;letter-spacing:0;color:var(--soft);margin-left:.28em}
.figures .by{font-size:13px;color:var(--soft)}
.messages{margin:36px 0 0;padding:18px 24px 20px;background:var(--note);color:var(--note-ink);
border-top:2px solid var(--note-rule)}
.messages h2{margin:0 0 6px;font-size:16px;font-weight:640}
.messages ul{margin:0;padding:0;list-style:none;max-width:62em}
.messages li{padding:5px 0}
.messages li+li{border-top:1px solid color-mix(in srgb,var(--note-rule) 28%,transparent)}
section{display:grid;grid-template-columns:156px minmax(0,1fr);column-gap:36px;margin-top:64px;
padding-top:14px;
border-top:1px solid var(--rule)}
section.wide{display:block}
section>h2,section>.head h2{margin:0;font-size:18px;line-height:1.35;font-weight:620;letter-spacing:-.008em}
section.wide .head{display:flex;flex-wrap:wrap;gap:4px 36px;align-items:baseline;margin-bottom:18px}
.say{margin:0 0 18px;color:var(--soft);max-width:58em;font-size:15px}
section.wide .say{margin:0}
h3{margin:34px 0 6px;font-size:15px;font-weight:620}
h3:first-child{margin-top:0}
.scroll{overflow-x:auto}
table{width:100%;border-collapse:collapse;font-size:15px;line-height:1.4}
th{font-weight:450;font-size:13px;color:var(--soft);text-align:left;vertical-align:bottom;
padding:0 0 7px 20px;
border-bottom:1px solid var(--ink);white-space:nowrap}
th .unit{display:block;font-size:12px}
td{padding:9px 0 9px 20px;border-bottom:1px solid var(--rule);vertical-align:top}
th:first-child,td:first-child{padding-left:0}
td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
th.group,th.none{text-align:right;border-bottom:0;padding-bottom:2px;color:var(--ink);font-weight:560}
tr.last td{font-weight:620}
tr.last td .note,tr.last td.plain{font-weight:400}
td .note{display:block;color:var(--soft);font-size:13px;max-width:34em;font-weight:400}
td.dim{color:var(--soft)}
td.span,th.span{width:258px;padding-top:4px;padding-bottom:0;vertical-align:middle}
.tag{display:inline-block;width:9px;height:9px;margin-right:9px;border-radius:50%;vertical-align:.02em}
.chart{display:block;width:100%;height:auto;overflow:visible}
svg.span{display:block;width:250px;height:auto;overflow:visible}
.figure{min-width:640px}
.figure+.scroll,.scroll+.scroll{margin-top:26px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr));gap:20px 36px}
svg text{font-size:12px;fill:var(--ink);font-variant-numeric:tabular-nums}
svg .tick,svg .name{fill:var(--soft)}
svg .mid{text-anchor:middle}
svg .end{text-anchor:end}
svg .label{paint-order:stroke;stroke:var(--paper);stroke-width:3.5px;stroke-linejoin:round}
svg .grid{stroke:var(--rule)}
svg .deadline{stroke:var(--late);stroke-width:1.2;stroke-dasharray:4 3}
svg .due{fill:var(--late)}
svg .leader{stroke:var(--soft);stroke-width:.8}
svg .whisker{stroke:var(--c);stroke-width:2;opacity:.55;stroke-linecap:round}
svg .dot{fill:var(--c);stroke:var(--paper);stroke-width:1.3}
svg .control{fill:var(--paper);stroke:var(--soft);stroke-width:1.8}
svg .key{fill:var(--soft)}
svg .curve{fill:none;stroke:var(--c);stroke-width:1.7;stroke-linejoin:round}
svg .band{fill:var(--c);opacity:.15}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}
.s4{--c:var(--s4)}.s5{--c:var(--s5)}.s6{--c:var(--s6)}.s7{--c:var(--s7)}
.tag{background:var(--c)}
svg .t0{fill:var(--s0)}svg .t1{fill:var(--s1)}svg .t2{fill:var(--s2)}svg .t3{fill:var(--s3)}
svg .t4{fill:var(--s4)}svg .t5{fill:var(--s5)}svg .t6{fill:var(--s6)}svg .t7{fill:var(--s7)}
.legend{display:flex;flex-wrap:wrap;gap:4px 22px;margin:0;padding:0;list-style:none;font-size:14px}
.legend i{display:inline-block;width:20px;height:4px;margin-right:8px;vertical-align:.24em;
outline:1px solid #0007}
.gallery{display:grid;gap:6px 10px;min-width:560px}
.gallery .col{font-size:14px;font-weight:560;padding-bottom:2px}
.gallery .row{grid-column:1/-1;font-size:13px;color:var(--soft);margin-top:14px;overflow-wrap:anywhere}
.gallery figure{margin:0}
.gallery svg{display:block;width:100%;height:auto;background:#000}
.gallery svg:hover .cut{opacity:0}
.gallery figcaption{font-size:13px;color:var(--soft);padding-top:4px}
details{margin-top:14px}
summary{cursor:pointer;font-size:15px;color:var(--mark)}
summary:focus-visible{outline:2px solid var(--mark);outline-offset:3px}
.facts{columns:2 340px;column-gap:36px;margin:12px 0 0;font-size:14px}
.facts div{display:flex;gap:16px;justify-content:space-between;padding:5px 0;
border-bottom:1px solid var(--rule);break-inside:avoid}
.facts dt{color:var(--soft);overflow-wrap:anywhere}
.facts dd{margin:0;text-align:right;overflow-wrap:anywhere;max-width:62%}
footer{margin-top:72px;padding-top:16px;padding-bottom:48px;color:var(--soft);font-size:13px}
@media (max-width:820px){header{padding-top:32px}main,header,footer{padding-left:18px;padding-right:18px}
h1{font-size:30px}.lede{font-size:17px}section{display:block;margin-top:44px}section>h2{margin-bottom:8px}}
@media print{:root{--paper:#fff;--ink:#000}body{font-size:11pt;-webkit-print-color-adjust:exact;
print-color-adjust:exact}
section{break-inside:avoid-page;margin-top:28px}section.wide,section.long{break-inside:auto}
.gallery figure{break-inside:avoid}}
"""
