// The timeline: units as lanes side by side on a canvas; columns are lane, kind, begin, end, layer.

const LANE = 17, TOP = 26, LEFT = 118, BOTTOM = 26, PORT = 34;
const KIND_COLOURS = {
  launch: "#8c8c8c", gate: "#cc79a7", "scan mask": "#cc79a7", weights: "#f0e442", "wait for index": "#e3b7cf", "set up": "#e69f00",
  "wait for memory": "#f2c6a4", transfer: "#d55e00", compute: "#0072b2",
};
const KIND_WORDS = { weights: "fetch weights", transfer: "transfer", compute: "compute" };

class Timeline {
  constructor(content) {
    this.content = content;
    this.canvas = element("timeline");
    this.pen = this.canvas.getContext("2d");
    this.turn = 0;
    this.unpacked = new Map();
    element("zoom-in").addEventListener("click", () => this.zoom(0.5));
    element("zoom-out").addEventListener("click", () => this.zoom(2));
    element("zoom-left").addEventListener("click", () => this.move(-0.4));
    element("zoom-right").addEventListener("click", () => this.move(0.4));
    element("zoom-all").addEventListener("click", () => this.whole());
    this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.canvas.addEventListener("pointerdown", (event) => { this.dragged = event.clientX; this.canvas.setPointerCapture(event.pointerId); });
    this.canvas.addEventListener("pointerup", () => { this.dragged = null; });
    this.canvas.addEventListener("pointermove", (event) => this.pointer(event));
    this.canvas.addEventListener("pointerleave", () => { element("timeline-tip").hidden = true; });
    this.canvas.addEventListener("keydown", (event) => this.pressed(event));
    addEventListener("resize", () => this.data && this.draw());
    element("timeline-legend").replaceChildren(...content.kinds.map((kind) => key(KIND_COLOURS[kind], KIND_WORDS[kind] || kind)));
  }

  async show(panel, name) {
    const data = panel.timelines[name], turn = ++this.turn;
    const there = data !== undefined;
    this.canvas.hidden = !there;
    element("timeline-missing").hidden = there;
    element("timeline-facts").textContent = "";
    if (!there) {
      this.data = null;
      element("timeline-missing").textContent = "This run has no timeline in the page; those on the Pareto line, the recommended one and the dense schedule have.";
      return;
    }
    if (!this.unpacked.has(data)) this.unpacked.set(data, await unpackNumbers(data.packed, 5, data.slices));
    if (turn !== this.turn) return;
    this.panel = panel;
    this.data = data;
    [this.lane, this.kind, this.begin, this.end, this.layer] = this.unpacked.get(data);
    this.lanes = data.cores * this.content.units.length;
    this.starts = Array.from({ length: this.lanes + 1 }, (_, lane) => lowerBound(this.lane, lane));
    this.stages = this.stageSpans();
    const merged = data.merged_gap ? `; neighbours less than ${data.merged_gap + 1} cycles apart drawn as one` : "";
    element("timeline-facts").replaceChildren(`Frame ${data.frame}: ${digits(data.cycles / 1e3)} thousand cycles, ${digits(data.microseconds)} µs${merged}. The same for `, made("a", "Perfetto", { href: data.file, download: "" }), ".");
    this.whole();
  }

  stageSpans() {
    const spans = new Map();
    for (let slice = 0; slice < this.layer.length; slice++) {
      const span = spans.get(this.layer[slice]) || [Infinity, 0];
      spans.set(this.layer[slice], [Math.min(span[0], this.begin[slice]), Math.max(span[1], this.end[slice])]);
    }
    return [...spans.entries()].sort((a, b) => a[1][0] - b[1][0]);
  }

  whole() {
    if (!this.data) return;
    this.since = 0;
    this.until = Math.max(1, this.data.cycles);
    this.draw();
  }

  zoom(factor, share = 0.5) {
    if (!this.data) return;
    const span = Math.min(this.data.cycles, Math.max(50, (this.until - this.since) * factor));
    const middle = this.since + share * (this.until - this.since);
    this.since = Math.min(Math.max(0, middle - share * span), this.data.cycles - span);
    this.until = this.since + span;
    this.draw();
  }

  move(share) {
    if (!this.data) return;
    const span = this.until - this.since;
    this.since = Math.min(Math.max(0, this.since + share * span), this.data.cycles - span);
    this.until = this.since + span;
    this.draw();
  }

  wheel(event) {
    if (!this.data) return;
    event.preventDefault();
    this.zoom(event.deltaY > 0 ? 1.25 : 0.8, Math.min(1, Math.max(0, (event.offsetX - LEFT) / (this.canvas.clientWidth - LEFT))));
  }

  pressed(event) {
    const actions = { ArrowLeft: () => this.move(-0.1), ArrowRight: () => this.move(0.1), "+": () => this.zoom(0.7), "-": () => this.zoom(1.4), Home: () => this.whole() };
    if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
  }

  x(cycle) {
    return LEFT + ((cycle - this.since) / (this.until - this.since)) * (this.canvas.clientWidth - LEFT);
  }

  y(lane) {
    return TOP + lane * LANE + Math.floor(lane / this.content.units.length) * 5;
  }

  draw() {
    const { canvas, pen } = this, scale = devicePixelRatio || 1, bottom = this.y(this.lanes - 1) + LANE;
    const size = [canvas.clientWidth, bottom + PORT + BOTTOM];
    canvas.style.height = `${size[1]}px`;
    canvas.width = size[0] * scale;
    canvas.height = size[1] * scale;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.font = "12px system-ui, 'DejaVu Sans', sans-serif";
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, ...size);
    this.drawSlices(size[0]);
    this.drawPort(bottom, size[0]);
    this.drawLayers(bottom + PORT, size[0]);
    this.drawNames(bottom);
  }

  drawSlices(width) {
    const { pen } = this, kinds = this.content.kinds;
    for (let lane = 0; lane < this.lanes; lane++) {
      pen.fillStyle = "#f6f6f4";
      pen.fillRect(LEFT, this.y(lane), width - LEFT, LANE - 2);
      let drawnTo = -1, drawnKind = -1;
      for (let slice = this.starts[lane]; slice < this.starts[lane + 1]; slice++) {
        if (this.end[slice] < this.since) continue;
        if (this.begin[slice] > this.until) break;
        const left = Math.max(LEFT, this.x(this.begin[slice])), right = Math.max(left + 0.6, this.x(this.end[slice]));
        if (right - drawnTo < 0.5 && this.kind[slice] === drawnKind) continue;
        pen.fillStyle = KIND_COLOURS[kinds[this.kind[slice]]];
        pen.fillRect(left, this.y(lane), right - left, LANE - 2);
        drawnTo = right;
        drawnKind = this.kind[slice];
      }
    }
  }

  drawPort(top, width) {
    const { pen } = this, port = this.data.port, step = this.data.cycles / port.length;
    pen.fillStyle = "#f6f6f4";
    pen.fillRect(LEFT, top + 6, width - LEFT, PORT - 8);
    pen.fillStyle = "#444444";
    port.forEach((share, place) => {
      const left = Math.max(LEFT, this.x(place * step)), right = this.x((place + 1) * step);
      if (right > LEFT && left < width) pen.fillRect(left, top + 6 + (1 - share) * (PORT - 8), right - left, share * (PORT - 8));
    });
  }

  drawLayers(bottom, width) {
    const { pen } = this;
    pen.textBaseline = "middle";
    pen.textAlign = "left";
    for (const [layer, [begin, end]] of this.stages) {
      const left = this.x(begin), right = this.x(end);
      if (right < LEFT || left > width) continue;
      pen.fillStyle = "#999999";
      if (left >= LEFT) pen.fillRect(left, TOP - 12, 0.6, bottom - TOP + 8);
      const from = Math.max(left, LEFT) + 4, room = Math.min(right, width) - from - 4;
      const name = this.panel.layers.names[layer];
      pen.fillStyle = "#222222";
      if (pen.measureText(name).width < room) pen.fillText(name, from, TOP - 12);
      else if (room > 40) pen.fillText(`${name.slice(0, Math.floor(room / 7) - 1)}…`, from, TOP - 12);
    }
    pen.textBaseline = "top";
    const steps = niceSteps(this.since, this.until, 6), micro = this.data.microseconds / this.data.cycles;
    for (const cycle of steps) {
      pen.fillStyle = "#5a5a5a";
      pen.textAlign = this.x(cycle) < LEFT + 20 ? "left" : "center";
      pen.fillText(`${digits(cycle * micro, 4)} µs`, Math.min(this.x(cycle), width - 26), bottom + 8);
      pen.fillRect(this.x(cycle), bottom, 1, 5);
    }
  }

  drawNames(bottom) {
    const { pen } = this, units = this.content.units;
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, LEFT - 1, bottom + PORT + BOTTOM);
    pen.fillStyle = "#222222";
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (let lane = 0; lane < this.lanes; lane++) {
      const core = this.data.cores > 1 ? `core ${Math.floor(lane / units.length)} ` : "";
      pen.fillText(core + units[lane % units.length], LEFT - 8, this.y(lane) + LANE / 2 - 1);
    }
    pen.fillText("memory port", LEFT - 8, bottom + PORT / 2 + 2);
  }

  pointer(event) {
    if (!this.data) return;
    if (this.dragged !== null && this.dragged !== undefined) {
      this.move((this.dragged - event.clientX) / (this.canvas.clientWidth - LEFT));
      this.dragged = event.clientX;
    }
    const tip = element("timeline-tip"), slice = this.sliceAt(event.offsetX, event.offsetY);
    tip.hidden = slice < 0;
    if (slice < 0) return;
    const kind = this.content.kinds[this.kind[slice]], cycles = this.end[slice] - this.begin[slice];
    tip.textContent = `${KIND_WORDS[kind] || kind}\n${this.panel.layers.names[this.layer[slice]]}\n${cycles} cycles from ${this.begin[slice]}`;
    tip.style.left = `${Math.min(event.offsetX + 14, this.canvas.clientWidth - 240)}px`;
    tip.style.top = `${event.offsetY + 16}px`;
  }

  sliceAt(x, y) {
    if (x < LEFT) return -1;
    const cycle = this.since + ((x - LEFT) / (this.canvas.clientWidth - LEFT)) * (this.until - this.since);
    for (let lane = 0; lane < this.lanes; lane++) {
      if (y < this.y(lane) || y >= this.y(lane) + LANE - 2) continue;
      for (let slice = this.starts[lane]; slice < this.starts[lane + 1] && this.begin[slice] <= cycle; slice++) if (this.end[slice] > cycle) return slice;
    }
    return -1;
  }
}

// The first place whose value is at least `wanted` in ascending values.
function lowerBound(values, wanted) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}

function niceSteps(since, until, count) {
  const raw = (until - since) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= raw) || raw;
  const found = [];
  for (let at = Math.ceil(since / step) * step; at < until; at += step) found.push(at);
  return found;
}
