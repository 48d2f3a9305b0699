"""The style sheet of the report's page: light and dark, from a telephone's width up."""

STYLE = """
:root{--bg:#fbfaf7;--card:#fff;--ink:#22303c;--soft:#5d6973;--rule:#dcdad3;--ours:#c4532f;--ref:#9aa0a6;
--ceil:#2f7336;--women:#b5446e;--men:#2f6690;--gold:#a87b12;--teal:#1f7f86}
@media (prefers-color-scheme:dark){:root{--bg:#14191e;--card:#1d242b;--ink:#e6e9eb;--soft:#a3adb5;--rule:#38424b;
--ours:#ec8460;--ref:#7b848c;--ceil:#6dbb75;--women:#e584aa;--men:#7fb2dc;--gold:#e3b23c;--teal:#5cc4cb}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1120px;margin:0 auto;padding:16px 20px 60px}
h1{font-size:1.7rem;line-height:1.2;margin:.6em 0 .2em}h2{font-size:1.25rem;margin:2.2em 0 .4em}
h3{font-size:1rem;margin:1.4em 0 .4em}p{max-width:72ch;margin:.4em 0 .8em}small,.soft{color:var(--soft)}
a{color:var(--men)}nav{display:flex;flex-wrap:wrap;gap:2px 16px;margin:12px 0}
.notice{border-left:4px solid var(--ours);padding:8px 14px;background:var(--card);max-width:none}
.scroll{overflow-x:auto;border:1px solid var(--rule);border-radius:6px;background:var(--card);margin:.6em 0}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:5px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--card);max-width:200px;
white-space:normal;min-width:118px}
td small{display:block;font-size:.74rem}tr:last-child td{border-bottom:0}tr.edge td{color:var(--soft);font-style:italic}
td.text{text-align:left;white-space:normal;min-width:180px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:16px}
figure{margin:.6em 0;padding:12px;background:var(--card);border:1px solid var(--rule);border-radius:6px;min-width:0}
figcaption{font-weight:600;font-size:.92rem;margin-bottom:6px}
svg{width:100%;max-width:600px;height:auto;display:block}.grid{stroke:var(--rule);stroke-width:.7}
.axis{fill:var(--soft);font-size:10.5px}.line{fill:none;stroke-width:1.8}.band{fill:var(--ceil);opacity:.18}
.c-ceiling{stroke:var(--ceil);stroke-dasharray:5 3}.c-chance{stroke:var(--ref);stroke-dasharray:2 3}
.c-0{stroke:var(--ours)}.c-1{stroke:var(--men)}.c-2{stroke:var(--gold)}.c-3{stroke:var(--women)}
.c-4{stroke:var(--teal)}.c-5{stroke:var(--soft)}
.area{opacity:.28}.f-0{fill:var(--ours)}.f-1{fill:var(--men)}.f-2{fill:var(--gold)}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:.8rem;color:var(--soft);margin-top:6px}
.legend span{display:inline-flex;align-items:center;gap:5px}
i.key{display:inline-block;width:16px;height:0;border-top:3px solid var(--ref)}
i.key.c-0{border-color:var(--ours)}i.key.c-1{border-color:var(--men)}i.key.c-2{border-color:var(--gold)}
i.key.c-3{border-color:var(--women)}i.key.c-4{border-color:var(--teal)}
i.key.c-5{border-color:var(--soft)}i.key.c-ceiling,i.key.mark.ceiling{border-color:var(--ceil)}
i.key.mark{position:static;height:0;border-left:0;border-top:2px dashed var(--ref)}
.row{display:grid;grid-template-columns:minmax(110px,190px) 1fr minmax(128px,auto);gap:4px 10px;align-items:center;
font-size:.86rem;padding:2px 0}
.row .number{font-variant-numeric:tabular-nums;text-align:right}.track{position:relative;height:16px;min-width:0}
.bar,.whisker,.mark{position:absolute}.bar{top:2px;bottom:2px;background:var(--ref);border-radius:2px}
.ours .bar{background:var(--ours)}.women .bar{background:var(--women)}.men .bar{background:var(--men)}
.few .bar{opacity:.4}.whisker{top:7px;height:2px;background:var(--ink)}
.mark{top:-2px;bottom:-2px;border-left:2px dashed var(--ref)}.mark.ceiling{border-color:var(--ceil)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(230px,1fr));gap:14px}
.card{margin:0;font-size:.82rem}.faces{display:flex;gap:8px;flex-wrap:wrap}
.face{position:relative;width:96px;line-height:1.2}.face img{width:96px;height:96px;object-fit:cover;display:block;
border-radius:5px;background:var(--rule)}.face span{font-size:.72rem;color:var(--soft);display:block;margin-top:3px}
.face b{position:absolute;left:0;top:78px;width:96px;height:18px;font-size:.66rem;line-height:18px;text-align:center;
font-weight:600;color:#fff;background:rgba(0,0,0,.66);border-radius:0 0 5px 5px;letter-spacing:.04em}
.face.true img{outline:3px solid var(--ceil);outline-offset:-3px}.face.true span{color:var(--ceil);font-weight:600}
audio{width:100%;max-width:260px;height:34px;margin:8px 0 2px;display:block}
.strip{display:grid;grid-template-columns:230px 1fr;gap:8px 18px;align-items:start}
details{margin:.5em 0}summary{cursor:pointer}code{font-size:.84em;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:minmax(110px,max-content) 1fr;gap:3px 14px;font-size:.9rem}
dd{margin:0;min-width:0;overflow-wrap:anywhere}
.pair .row{grid-template-columns:1fr auto;padding:3px 0}.pair .row .track{grid-column:1/-1;grid-row:2}
td.by,th.by{text-align:left}.pair figure h3{margin-top:0}
@media (max-width:640px){main{padding:8px 12px 40px}h1{font-size:1.35rem}.strip{grid-template-columns:1fr}
.row{grid-template-columns:1fr auto;padding:4px 0}.row .track{grid-column:1/-1;grid-row:2}
.cards{grid-template-columns:1fr 1fr;gap:10px}.cards figure{padding:8px}.face,.face img,.face b{width:72px}
.face img{height:72px}.face b{top:54px}th,td{padding:5px 7px}
th:first-child,td:first-child{max-width:120px;min-width:98px}}
@media (max-width:420px){.cards .faces{gap:4px}}
"""
