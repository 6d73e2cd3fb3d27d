"""How the page looks: dark where the reader's system is, and as wide as a phone."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --dim: #60666d; --paper: #fff; --line: #d8dce0;
  --soft: #f4f5f7; --good: #18794e; --bad: #c62a2f; --busy: #8a6100; --blue: #3b6fd4;
  --p0: #c62a2f; --p1: #e5484d; --p2: #d97706; --p3: #b7791f; --p4: #7c5cd6; --p5: #2f8fb5;
  --p6: #18794e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --dim: #9aa1a9; --paper: #15181b; --line: #33383d; --soft: #1d2125;
    --good: #4cc38a; --bad: #ff6369; --busy: #f1a10d; --blue: #6f9cf0; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1100px; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.state { font-size: .9rem; } .good { color: var(--good); } .bad { color: var(--bad); }
.busy { color: var(--busy); } .dim { color: var(--dim); font-size: .9rem; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(14rem, 100%), 1fr));
  gap: .5rem 1.5rem; margin: .5rem 0; }
dt { color: var(--dim); font-size: .85rem; } dd { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; overflow-wrap: normal; }
td { max-width: 30rem; overflow-wrap: anywhere; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem;
  border-bottom: 1px solid var(--line); }
details { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .8rem;
  margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; font-size: .8rem;
  white-space: pre-wrap; }
svg { min-width: 40rem; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--dim); } .grid { stroke: var(--line); } .tick { text-anchor: middle; }
.attempt { fill: var(--blue); background: var(--blue); }
.wait { fill: var(--busy); background: var(--busy); }
.fault, .broken { fill: var(--bad); background: var(--bad); }
.saved { fill: var(--good); background: var(--good); }
.p0 { fill: var(--p0); background: var(--p0); } .p1 { fill: var(--p1); background: var(--p1); }
.p2 { fill: var(--p2); background: var(--p2); } .p3 { fill: var(--p3); background: var(--p3); }
.p4 { fill: var(--p4); background: var(--p4); } .p5 { fill: var(--p5); background: var(--p5); }
.p6 { fill: var(--p6); background: var(--p6); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; }
.entry { white-space: nowrap; margin-right: .6em; font-size: .85rem; }
@media print { details { break-inside: avoid; } }
"""
