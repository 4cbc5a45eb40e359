// The player: frames of a clip with the mask of one layer over them, and the density of all layers on all frames.

const PALE = 0.72, OUTLINE = "#d55e00";

class Player {
  constructor(content) {
    this.content = content;
    this.unpacked = new Map();
    this.pictures = new Map();
    this.layer = 0;
    this.frame = 1;
    this.timer = null;
    this.turn = 0;
    this.screen = element("screen").getContext("2d");
    element("clip").addEventListener("change", () => this.load());
    element("layer").addEventListener("change", () => { this.layer = Number(element("layer").value); this.draw(); });
    element("frame").addEventListener("input", () => { this.frame = Number(element("frame").value); this.draw(); });
    element("back").addEventListener("click", () => this.step(-1));
    element("forward").addEventListener("click", () => this.step(1));
    element("play").addEventListener("click", () => this.toggle());
    element("densities").addEventListener("click", (event) => this.jump(event));
    addEventListener("resize", () => this.mask && this.draw());
  }

  // Show the masks of a run, keys into content.masks, one per clip; the layers are those of its panel.
  show(panel, keys) {
    this.panel = panel;
    this.keys = keys || [];
    this.stop();
    const there = this.keys.length > 0;
    element("player").hidden = !there;
    element("player-missing").hidden = there;
    if (!there) {
      this.mask = null;
      element("player-missing").textContent = "The masks of this run are not in the page; those of the runs on the Pareto line and of the recommended one are.";
      return;
    }
    const before = element("clip").value;
    element("clip").replaceChildren(...this.keys.map((name) => made("option", this.content.masks[name].clip, { value: name })));
    const same = this.keys.find((name) => this.content.masks[name].clip === this.clipName);
    if (same) element("clip").value = same;
    else if (this.keys.includes(before)) element("clip").value = before;
    const names = panel.layers.names;
    if (this.layer >= names.length) this.layer = 0;
    element("layer").replaceChildren(...names.map((name, layer) => made("option", name, { value: layer })));
    element("layer").value = this.layer;
    this.load();
  }

  async load() {
    const name = element("clip").value, turn = ++this.turn;
    const mask = this.content.masks[name];
    if (!this.unpacked.has(name)) this.unpacked.set(name, await unpackBytes(mask.packed));
    if (turn !== this.turn) return;
    this.mask = mask;
    this.clipName = mask.clip;
    this.bits = this.unpacked.get(name);
    element("frame").max = mask.frames - 1;
    this.frame = Math.min(this.frame, mask.frames - 1);
    if (!this.pictures.has(mask.clip)) {
      this.pictures.set(mask.clip, (this.content.clips[mask.clip] || []).map((source) => {
        const picture = new Image();
        picture.onload = () => this.draw();
        picture.src = source;
        return picture;
      }));
    }
    this.draw();
  }

  on(layer, frame, row, col) {
    const bit = row * this.mask.grids[layer][1] + col;
    return (this.bits[frame * this.mask.bytes + this.mask.offsets[layer] + (bit >> 3)] >> (7 - (bit & 7))) & 1;
  }

  density(layer, frame) {
    const [rows, cols, high, wide] = this.mask.grids[layer], [outRows, outCols] = this.panel.layers.sizes[layer];
    let pixels = 0;
    for (let row = 0; row < rows; row++) {
      const height = Math.min(high, outRows - row * high);
      for (let col = 0; col < cols; col++) if (this.on(layer, frame, row, col)) pixels += height * Math.min(wide, outCols - col * wide);
    }
    return pixels / (outRows * outCols);
  }

  draw() {
    if (!this.mask) return;
    element("frame").value = this.frame;
    const reference = this.mask.references.includes(this.frame);
    element("frame-name").textContent = `frame ${this.frame} (0 to ${this.mask.of - 1})${reference ? ", dense" : ""}`;
    element("player-hint").textContent = `In colour and outlined: computed; pale: skipped.${this.mask.frames < this.mask.of ? ` The first ${this.mask.frames} of ${this.mask.of} frames.` : ""}`;
    this.drawScreen();
    this.drawDensities();
    const [, , high, wide] = this.mask.grids[this.layer], [rows, cols] = this.panel.layers.sizes[this.layer];
    element("mask-facts").textContent = `${this.panel.layers.names[this.layer]}: ${rows}x${cols} map, blocks of ${high}x${wide}; ${(100 * this.density(this.layer, this.frame)).toFixed(1)}% computed on this frame`;
  }

  drawScreen() {
    const picture = (this.pictures.get(this.mask.clip) || [])[this.frame];
    const [outRows, outCols] = this.panel.layers.sizes[this.layer];
    const shape = picture && picture.naturalWidth ? [picture.naturalHeight, picture.naturalWidth] : [outRows, outCols];
    const canvas = this.screen.canvas;
    canvas.width = 896;
    canvas.height = Math.round((896 * shape[0]) / shape[1]);
    const { width, height } = canvas, screen = this.screen;
    screen.fillStyle = "#aaaaaa";
    screen.fillRect(0, 0, width, height);
    if (picture && picture.complete && picture.naturalWidth) screen.drawImage(picture, 0, 0, width, height);
    const [rows, cols, high, wide] = this.mask.grids[this.layer];
    const x = (col) => Math.round((Math.min(col * wide, outCols) / outCols) * width), y = (row) => Math.round((Math.min(row * high, outRows) / outRows) * height);
    const on = (row, col) => row >= 0 && col >= 0 && row < rows && col < cols && this.on(this.layer, this.frame, row, col) === 1;
    screen.fillStyle = `rgba(255, 255, 255, ${PALE})`;
    for (let row = 0; row < rows; row++) for (let col = 0; col < cols; col++) if (!on(row, col)) screen.fillRect(x(col), y(row), x(col + 1) - x(col), y(row + 1) - y(row));
    screen.strokeStyle = OUTLINE;
    screen.lineWidth = 3;
    screen.beginPath();
    for (let row = 0; row <= rows; row++) for (let col = 0; col < cols; col++) if (on(row, col) !== on(row - 1, col)) { screen.moveTo(x(col), y(row)); screen.lineTo(x(col + 1), y(row)); }
    for (let row = 0; row < rows; row++) for (let col = 0; col <= cols; col++) if (on(row, col) !== on(row, col - 1)) { screen.moveTo(x(col), y(row)); screen.lineTo(x(col), y(row + 1)); }
    screen.stroke();
  }

  drawDensities() {
    const canvas = element("densities"), layers = this.panel.layers.names.length, frames = this.mask.frames;
    const scale = devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
    const strip = canvas.getContext("2d"), wide = canvas.width / frames, high = canvas.height / layers;
    if (this.strip !== this.mask || !this.table) {
      this.strip = this.mask;
      this.table = Array.from({ length: layers }, (_, layer) => Array.from({ length: frames }, (_, frame) => this.density(layer, frame)));
    }
    for (let layer = 0; layer < layers; layer++) {
      for (let frame = 0; frame < frames; frame++) {
        strip.fillStyle = shade(this.table[layer][frame]);
        strip.fillRect(Math.floor(frame * wide), Math.floor(layer * high), Math.ceil(wide), Math.ceil(high));
      }
    }
    strip.strokeStyle = OUTLINE;
    strip.lineWidth = 2 * scale;
    strip.strokeRect(this.frame * wide, this.layer * high, wide, high);
  }

  jump(event) {
    const box = event.target.getBoundingClientRect();
    this.frame = Math.min(this.mask.frames - 1, Math.floor(((event.clientX - box.left) / box.width) * this.mask.frames));
    this.showLayer(Math.min(this.panel.layers.names.length - 1, Math.floor(((event.clientY - box.top) / box.height) * this.panel.layers.names.length)));
  }

  showLayer(layer) {
    if (!this.mask) return;
    this.layer = layer;
    element("layer").value = layer;
    this.draw();
  }

  step(by) {
    if (!this.mask) return;
    this.frame = (this.frame + by + this.mask.frames) % this.mask.frames;
    this.draw();
  }

  toggle() {
    if (this.timer) return this.stop();
    element("play").textContent = "❚❚";
    element("play").setAttribute("aria-label", "Pause");
    this.timer = setInterval(() => this.step(1), 160);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    element("play").textContent = "▶";
    element("play").setAttribute("aria-label", "Play");
  }
}

// White to blue, readable without colour.
function shade(share) {
  const mix = (light, dark) => Math.round(light + (dark - light) * share);
  return `rgb(${mix(247, 0)}, ${mix(247, 80)}, ${mix(244, 140)})`;
}
