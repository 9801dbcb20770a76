"""Style and script of the page, which loads nothing from anywhere."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1c1f23; --faint: #5d6670; --line: #d9dee3; --panel: #f5f7f9; --link: #0072b2;
  --helped: #0072b2; --hurt: #c24a00; --unclear: #8a6100; --untrained: #5d6670;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --ink: #e6e9ec; --faint: #a3adb6; --line: #363c42; --panel: #1e2226; --link: #6bb8e8;
    --helped: #6bb8e8; --hurt: #ff9557; --unclear: #e5b13c; --untrained: #a3adb6;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere;
}
main, header, footer { max-width: 72rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 1rem; }
h1 { margin: .35rem 0 .4rem; font-size: clamp(1.15rem, 1rem + .9vw, 1.6rem); line-height: 1.25; font-weight: 650;
  letter-spacing: -.01em; text-wrap: balance; }
h2 { margin: 2.75rem 0 .75rem; font-size: 1.25rem; line-height: 1.3; }
h3 { margin: 0 0 .6rem; font-size: 1rem; }
h3 small { color: var(--faint); font-weight: 400; font-size: .9em; padding-left: .4rem; }
p, ul { max-width: 46rem; }
ul { padding-left: 1.2rem; }
li { margin: .3rem 0; }
footer { padding-top: 2rem; padding-bottom: 2.5rem; color: var(--faint); font-size: .875rem; }
code, pre { font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; font-size: .875em; }
code { display: inline-block; max-width: 100%; background: var(--panel); border-radius: 4px; padding: 0 .3em; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; margin: .5rem 0;
  overflow-x: auto; overflow-wrap: normal; }
.title, .note, figcaption, caption { color: var(--faint); font-size: .875rem; }
.title { margin: 0; }
.verdict { border-left: .35rem solid; padding-left: 1.1rem; margin: .6rem 0 1rem; }
.verdict > p:last-child { margin: 0; }
.verdict > :not(.kind) { color: var(--ink); }
.kind { margin: 0; font-weight: 650; font-size: .8rem; letter-spacing: .06em; text-transform: uppercase; }
.helped { color: var(--helped); } .hurt { color: var(--hurt); }
.unclear { color: var(--unclear); } .untrained { color: var(--untrained); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.5rem 0 0; }
.facts > div { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; }
.facts dt { color: var(--faint); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; max-width: 100%; margin: 1rem 0 .4rem; }
.scroll:focus-visible, .stage:focus-visible, summary:focus-visible, select:focus-visible, input:focus-visible {
  outline: 3px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; font-weight: 600; color: var(--ink); padding-bottom: .35rem;
  white-space: nowrap; }
th, td { padding: .38rem .8rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; } thead th { border-bottom: 2px solid var(--line); white-space: nowrap; }
th:first-child { padding-left: 0; }
tbody th { position: sticky; left: 0; background: var(--paper); min-width: 5.5rem; max-width: 15rem;
  overflow-wrap: anywhere; }
td { white-space: nowrap; }
.number { text-align: right; }
.words td { white-space: normal; min-width: 14rem; max-width: 34rem; }
.note { margin: .2rem 0 0; }
figure { margin: 1rem 0; }
.drawing { max-width: 38rem; }
.drawing svg { display: block; width: 100%; height: auto; color: inherit; }
.drawing .scroll { margin: 0; }
.drawing img { display: block; width: 100%; min-width: 30rem; background: #fff; border-radius: 6px; }
.viewers { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr));
  gap: 1.75rem 1.5rem; }
.viewer { min-width: 0; }
@media (min-width: 60rem) {
  .first:has(.lead) { display: grid; grid-template: auto 1fr / 1fr 1fr; column-gap: 2rem; }
  .first > * { min-width: 0; grid-column: 1; }
  .first > .lead { grid-area: 1 / 2 / span 2; }
}
.layers { display: grid; grid-template-columns: repeat(2, 1fr); gap: .5rem; }
.layers figure { margin: 0; min-width: 0; }
.layers img { display: block; width: 100%; height: auto; }
.lr { image-rendering: pixelated; }
.js .layers { display: none; }
.stage { position: relative; overflow: auto; max-height: 85vh; background: var(--panel); border-radius: 6px;
  cursor: ew-resize; touch-action: pan-y pinch-zoom; user-select: none; }
.stage.zoomed { touch-action: auto; }
.pair { position: relative; overflow: hidden; margin: 0 auto; }
.pair img { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
.pair img[hidden] { display: none; }
.pair .coarse { image-rendering: pixelated; }
.divider { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 0 1px rgba(0, 0, 0, .55); pointer-events: none; }
.divider::after { content: ""; position: absolute; top: 50%; left: 50%; width: 26px; height: 26px; margin: -13px;
  border-radius: 50%; border: 2px solid #fff;
  box-shadow: 0 0 0 1px rgba(0, 0, 0, .55), inset 0 0 0 1px rgba(0, 0, 0, .55); }
.tools { display: grid; grid-template-columns: auto 1fr auto auto; gap: .6rem; align-items: center;
  margin: .5rem 0 .25rem; }
.tools input { width: 100%; min-width: 0; height: 2.2rem; margin: 0; accent-color: var(--link); }
.tools select { font: inherit; font-size: .875rem; max-width: 9.5rem; min-height: 2.2rem; padding: 0 .4rem;
  background: var(--paper); color: var(--ink); border: 1px solid var(--line); border-radius: 6px; }
details { margin: .9rem 0; } summary { cursor: pointer; color: var(--link); width: fit-content; }
@media (max-width: 34rem) {
  main, header, footer { padding-left: 1rem; padding-right: 1rem; }
  tbody th { max-width: 8rem; }
  .tools { grid-template-columns: 1fr 1fr 1fr; }
  .tools input { grid-column: 1 / -1; grid-row: 1; }
  .tools select { max-width: 100%; min-width: 0; }
}
@media print {
  :root { --paper: #fff; --ink: #000; --faint: #444; --line: #bbb; --panel: #fff; color-scheme: light; }
  body { font-size: 10.5pt; }
  .js .layers { display: grid; } .stage, .tools { display: none; }
  .viewers { display: block; } .viewer, figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
}
"""

# Without it the layers of a viewer stand beside each other. With it, two of them lie on top of each other, and a
# divider that mouse, finger and arrow keys move says how much of the left one is seen.
SCRIPT = """
'use strict';
document.documentElement.classList.add('js');
const make = (tag, name, parent) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  parent.append(node);
  return node;
};
const choice = (parent, label, entries, chosen) => {
  const select = make('select', '', parent);
  select.setAttribute('aria-label', label);
  for (const [value, text] of entries) select.add(new Option(text, value, false, value === chosen));
  return select;
};
function build(viewer) {
  const layers = [...viewer.querySelectorAll('.layers img')];
  const name = viewer.dataset.name, width = +viewer.dataset.width, height = +viewer.dataset.height;
  const frame = document.createElement('div');
  viewer.querySelector('.layers').before(frame);
  const stage = make('div', 'stage', frame), pair = make('div', 'pair', stage);
  const copies = {};
  for (const layer of layers) {
    const copy = make('img', '', pair);
    copy.alt = layer.alt;
    copy.decoding = 'async';
    copy.src = layer.src;
    copies[layer.dataset.label] = copy;
  }
  const divider = make('div', 'divider', pair);
  const tools = make('div', 'tools', frame);
  const labels = Object.keys(copies).map(label => [label, label]);
  const left = choice(tools, 'Left of the divider: ' + name, labels, viewer.dataset.left);
  const range = make('input', '', tools);
  range.type = 'range'; range.min = 0; range.max = 100; range.step = 1; range.value = 50;
  range.setAttribute('aria-label', 'Divider: ' + name);
  const right = choice(tools, 'Right of the divider: ' + name, labels, viewer.dataset.right);
  const sizes = [['0', 'fit'], ['1', '1:1'], ['2', '2:1'], ['4', '4:1']];
  const zoom = choice(tools, 'Size of the pictures: ' + name, sizes, '0');

  const draw = () => {
    const share = +range.value;
    for (const [label, copy] of Object.entries(copies)) {
      copy.hidden = label !== left.value && label !== right.value;
      copy.style.zIndex = label === left.value ? 2 : 1;
      const cut = label === left.value && left.value !== right.value;
      copy.style.clipPath = cut ? `inset(0 ${100 - share}% 0 0)` : 'none';
    }
    divider.style.left = share + '%';
    divider.style.zIndex = 3;
    range.setAttribute('aria-valuetext', `${share} % ${left.value}, ${100 - share} % ${right.value}`);
  };
  const resize = () => {
    const factor = +zoom.value;
    stage.classList.toggle('zoomed', factor > 0);
    // CSS pixels are several pixels of a dense screen; 1:1 is one pixel of the screen for each of the picture.
    // The first picture leaves room on the screen for the verdict.
    const most = viewer.closest('.lead') ? Math.max(160, .36 * innerHeight) * width / height : Infinity;
    const wide = factor ? width * factor / devicePixelRatio : Math.min(stage.clientWidth, most);
    pair.style.width = wide + 'px';
    pair.style.height = wide * height / width + 'px';
    for (const [label, copy] of Object.entries(copies))
      copy.classList.toggle('coarse', label === 'LR' || wide * devicePixelRatio > width);
  };
  const centre = () => {
    stage.scrollLeft = pair.clientWidth * range.value / 100 - stage.clientWidth / 2;
    stage.scrollTop = (pair.clientHeight - stage.clientHeight) / 2;
  };
  const drag = event => {
    if (!event.buttons || (event.pointerType === 'touch' && +zoom.value)) return;
    const box = pair.getBoundingClientRect();
    range.value = Math.round(100 * (event.clientX - box.left) / box.width);
    draw();
  };
  stage.addEventListener('pointerdown', event => {
    if (event.target !== pair || event.button) return;
    stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  stage.addEventListener('pointermove', event => { if (stage.hasPointerCapture(event.pointerId)) drag(event); });
  for (const input of [range, left, right]) input.addEventListener('input', draw);
  zoom.addEventListener('input', () => { resize(); centre(); });
  addEventListener('resize', resize);
  resize();
  draw();
}
document.querySelectorAll('.viewer').forEach(build);
"""
