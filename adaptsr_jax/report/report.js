// Without it the layers of a viewer stand beside each other. With it, two of them lie on top of each other, and a
// divider that mouse, finger and arrow keys move says how much of the left one is seen.
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
document.querySelectorAll('.strength').forEach(part => {
  const images = [...part.querySelectorAll('img')];
  const steps = [...new Set(images.map(image => image.dataset.step))];
  const tools = document.createElement('div'), said = make('output', '', tools), range = make('input', '', tools);
  part.before(tools);
  tools.className = 'dial';
  range.type = 'range'; range.min = 0; range.max = steps.length - 1; range.step = 1; range.value = steps.length - 1;
  range.setAttribute('aria-label', part.dataset.label);
  const captions = [...part.querySelectorAll('figcaption')], names = captions.map(caption => caption.textContent);
  const draw = () => {
    const step = steps[range.value];
    for (const image of images) image.hidden = image.dataset.step !== step;
    const shown = images.filter(image => !image.hidden);
    captions.forEach((caption, i) => caption.textContent = `${names[i]}: ${shown[i].dataset.says}`);
    said.textContent = `${part.dataset.label}: ${step}`;
    range.setAttribute('aria-valuetext', step);
  };
  range.addEventListener('input', draw);
  draw();
});
