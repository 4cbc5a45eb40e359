// The charts: all runs, layers by cause, roofline, sensitivities. Each redraws one element from plain data.

const INK = "#222222", SOFT = "#5a5a5a", FAINT = "#e6e6e6";
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "pentagon", "hexagon", "star-triangle-up", "bowtie"];
const CONFIG = {
  responsive: true, displaylogo: false, displayModeBar: false,
};

function layout(changes) {
  const title = (one) => one.title ? { ...one, title: { ...one.title, font: { size: 13 } } } : one;
  const axis = { gridcolor: FAINT, zeroline: false, linecolor: INK, ticks: "outside", ticklen: 4, automargin: true };
  const { xaxis = {}, yaxis = {}, ...others } = changes;
  return {
    font: { family: getComputedStyle(document.documentElement).fontFamily, size: 13, color: INK },
    margin: { l: 56, r: 14, t: 12, b: 48 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    hoverlabel: { bgcolor: INK, font: { color: "#ffffff", size: 13 }, align: "left" },
    legend: { orientation: "h", y: -0.17, x: 0, font: { size: 12 } },
    xaxis: { ...axis, ...title(xaxis) }, yaxis: { ...axis, ...title(yaxis) }, ...others,
  };
}

function short(size) {
  const [rows, cols] = size.split("x");
  return rows === cols ? rows : size;
}

function metricName(panel) {
  return panel.metric.replace("pck", "PCK") || "accuracy";
}

function hasQuality(panel) {
  return panel.runs.some((run) => run.quality !== null);
}

function height(panel, run) {
  return hasQuality(panel) ? run.quality === null ? null : 100 * run.quality : run.speedup;
}

function runName(panel, run) {
  const parts = [`block ${short(run.block)}`, `tile ${run.chosen_tile === "full" ? "full" : short(run.chosen_tile)}`];
  if (run.threshold !== null) parts.push(`threshold ${digits(run.threshold)}`);
  for (const name of ["gate", "update", "clip"]) {
    if (new Set(panel.runs.map((one) => one[name])).size > 1) parts.push(run[name]);
  }
  if (run.reset_every) parts.push(`reset every ${run.reset_every}`);
  for (const name of panel.overrides) parts.push(`${name} = ${run[name]}`);
  if (run.loop === "open") parts.push("open loop");
  return parts.join(", ");
}

function hoverText(panel, run) {
  const lines = [`<b>${runName(panel, run)}</b>`, `${digits(run.latency_ms)} ms a frame, ${run.speedup.toFixed(2)}x as fast as dense`];
  if (run.quality !== null) lines.push(`${metricName(panel)} ${(100 * run.quality).toFixed(2)}%, ${run.quality_drop.toFixed(2)} points lost`);
  const energy = run.energy_uj === null ? "" : `, energy ${(100 * run.energy_uj / run.dense_energy_uj).toFixed(0)}% of dense`;
  lines.push(`${run.mac_reduction.toFixed(2)}x fewer MACs${energy}`);
  lines.push({ closed: "closed loop: recorded with this block", open: "open loop: masks of a finer recording, coarsened" }[run.loop] || `masks: ${run.loop}`);
  return lines.join("<br>");
}

function drawRuns(content, panel, selected, select) {
  const blocks = [...new Set(panel.runs.map((run) => run.block))].sort((a, b) => area(a) - area(b));
  const tiles = [...new Set(panel.runs.map((run) => run.tile))].sort((a, b) => area(a) - area(b));
  const symbol = (run) => SYMBOLS[tiles.indexOf(run.tile) % SYMBOLS.length] + (run.loop === "open" ? "-open" : "");
  const traces = [];
  const front = frontLine(panel);
  traces.push({ x: front.map((point) => point[0]), y: front.map((point) => point[1]), mode: "lines", line: { color: INK, width: 1.2, shape: "hv" }, name: "Pareto line", hoverinfo: "skip" });
  blocks.forEach((block, place) => {
    const numbers = panel.runs.map((_, number) => number).filter((number) => panel.runs[number].block === block);
    const runs = numbers.map((number) => panel.runs[number]);
    traces.push({
      x: runs.map((run) => run.latency_ms), y: runs.map((run) => height(panel, run)), customdata: numbers, mode: "markers", name: `block ${short(block)}`,
      marker: { color: content.colours[place % content.colours.length], symbol: runs.map(symbol), size: 9, opacity: runs.map((run) => run.front ? 1 : 0.45), line: { width: 0.5, color: "#ffffff" } },
      text: runs.map((run) => hoverText(panel, run)), hovertemplate: "%{text}<extra></extra>", showlegend: false,
    });
    traces.push({ x: [null], y: [null], mode: "markers", marker: { color: content.colours[place % content.colours.length], symbol: "circle", size: 10 }, name: `block ${short(block)}`, hoverinfo: "skip" });
  });
  tiles.forEach((tile, place) => traces.push({
    x: [null], y: [null], mode: "markers", marker: { color: SOFT, symbol: SYMBOLS[place % SYMBOLS.length], size: 9 }, hoverinfo: "skip",
    name: { auto: "best tile", full: "whole map", "per-layer": "tile per layer" }[tile] || `tile ${short(tile)}`,
  }));
  if (panel.runs.some((run) => run.loop === "open")) traces.push({ x: [null], y: [null], mode: "markers", marker: { color: SOFT, symbol: "circle-open", size: 9 }, name: "open loop", hoverinfo: "skip" });
  const dense = densePoints(panel);
  traces.push({ x: dense.map((point) => point[0]), y: dense.map((point) => point[1]), mode: "markers", name: "dense", customdata: dense.map(() => "dense"), marker: { color: INK, symbol: "star", size: 15 }, hovertemplate: "<b>dense</b><br>%{x:.3g} ms a frame<extra></extra>" });
  const ring = selected === "dense" ? dense[0] : [panel.runs[selected].latency_ms, height(panel, panel.runs[selected])];
  traces.push({ x: [ring[0]], y: [ring[1]], mode: "markers", name: "selected", marker: { color: INK, symbol: "circle-open", size: 19, line: { width: 2 } }, hoverinfo: "skip" });
  const shapes = [];
  let range;
  if (hasQuality(panel)) {
    const level = dense[0][1];
    shapes.push({ type: "rect", xref: "paper", x0: 0, x1: 1, y0: level - content.max_drop, y1: level, fillcolor: "#efefef", line: { width: 0 }, layer: "below" });
    const shown = panel.runs.map((run) => height(panel, run)).filter((value) => value !== null && value > level - 10);
    const ends = [Math.min(...shown, level), Math.max(...shown, level)];
    const room = Math.max(0.5, 0.07 * (ends[1] - ends[0]));
    range = [ends[0] - room, ends[1] + room];
  }
  const chart = element("scatter");
  Plotly.react(chart, traces, layout({
    height: 470, shapes, hovermode: "closest",
    xaxis: { title: { text: "latency [ms per frame]" }, rangemode: "normal" },
    yaxis: { title: { text: hasQuality(panel) ? `${metricName(panel)} [%]` : "speed-up [x]" }, ...(range ? { range } : {}) },
  }), CONFIG).then(() => {
    chart.removeAllListeners("plotly_click");
    chart.on("plotly_click", (event) => {
      const found = event.points.find((point) => point.customdata !== undefined);
      if (found) select(found.customdata);
    });
  });
}

function area(size) {
  const sides = size.split("x").map(Number);
  return sides.length === 2 && sides.every(Number.isFinite) ? sides[0] * sides[1] : 1e12 + size.charCodeAt(0);
}

function densePoints(panel) {
  const seen = new Map();
  for (const run of panel.runs) seen.set(run.dense_latency_ms, [run.dense_latency_ms, hasQuality(panel) ? 100 * run.dense_quality : 1]);
  return [...seen.values()];
}

function frontLine(panel) {
  const points = [...panel.runs.filter((run) => run.front && height(panel, run) !== null).map((run) => [run.latency_ms, height(panel, run)]), ...densePoints(panel)];
  points.sort((a, b) => a[0] - b[0] || b[1] - a[1]);
  const line = [];
  for (const point of points) if (!line.length || point[1] > line[line.length - 1][1]) line.push(point);
  return line;
}

function total(detail, layer) {
  return detail.cycles.reduce((sum, group) => sum + group[layer], 0);
}

function drawLayers(content, panel, detail, dense, showLayer) {
  const names = panel.layers.names;
  const facts = names.map((name, layer) => {
    const [rows, cols] = panel.layers.sizes[layer], [ins, outs] = panel.layers.channels[layer], [high, wide] = panel.layers.kernels[layer];
    return `${name}<br>${high}x${wide}, ${ins} to ${outs} channels, ${rows}x${cols} map<br>tile ${detail.tiles[layer]}, asked for ${(100 * detail.density[layer]).toFixed(0)}%, computed ${(100 * detail.effective_density[layer]).toFixed(0)}%`;
  });
  const rows = names.map((_, layer) => layer);
  const measured = panel.machine.measured, scale = measured ? 1e6 / panel.machine.clock_hz : 1e-3, unit = measured ? "µs" : "k cycles";
  const traces = content.groups.map((group, place) => ({
    type: "bar", orientation: "h", name: group, y: rows, x: detail.cycles[place].map((cycles) => cycles * scale), customdata: rows, text: facts, textposition: "none",
    marker: { color: content.group_colours[place], line: { color: "#ffffff", width: 0.4 } },
    hovertemplate: `%{text}<br><b>${group}: %{x:.3g} ${unit}</b><extra></extra>`,
  }));
  traces.push({
    mode: "markers", name: "dense", y: rows, x: rows.map((layer) => total(dense, layer) * scale), customdata: rows, text: facts,
    marker: { symbol: "line-ns", size: 13, line: { color: INK, width: 2 } }, hovertemplate: `%{text}<br><b>dense: %{x:.3g} ${unit}</b><extra></extra>`,
  });
  const chart = element("layers");
  const narrow = chart.clientWidth < 640;
  const label = (name) => name.length > (narrow ? 16 : 40) ? `…${name.slice(narrow ? -15 : -39)}` : name;
  Plotly.react(chart, traces, layout({
    barmode: "stack", bargap: 0.25, height: 19 * names.length + 150, hovermode: "closest", margin: { l: 40, r: 14, t: 120, b: 14 },
    legend: { orientation: "h", y: 1, yref: "container", yanchor: "top", x: 0, font: { size: 12 }, traceorder: "normal" },
    xaxis: { title: { text: measured ? "time per frame [µs]" : "cycles per frame [thousands]" }, rangemode: "tozero", side: "top" },
    yaxis: { range: [names.length - 0.4, -0.6], tickmode: "array", tickvals: rows, ticktext: names.map(label), tickfont: { size: 11 }, ticks: "", showgrid: false },
  }), CONFIG).then(() => {
    chart.removeAllListeners("plotly_click");
    chart.on("plotly_click", (event) => showLayer(event.points[0].customdata));
  });
}

function roofPoints(panel, detail, name, filled, colour) {
  const layers = panel.layers.names.map((_, layer) => layer).filter((layer) => detail.dram_bytes[layer] > 0 && detail.computed_macs[layer] > 0);
  const whole = panel.layers.names.reduce((sum, _, layer) => sum + total(detail, layer), 0);
  return {
    mode: "markers", name,
    x: layers.map((layer) => detail.computed_macs[layer] / detail.dram_bytes[layer]), y: layers.map((layer) => detail.computed_macs[layer] / total(detail, layer)),
    text: layers.map((layer) => panel.layers.names[layer]),
    marker: { color: filled ? colour : "rgba(0,0,0,0)", opacity: 0.85, size: layers.map((layer) => 6 + 26 * Math.sqrt(total(detail, layer) / whole)), line: { color: filled ? "#ffffff" : SOFT, width: filled ? 0.6 : 1.1 } },
    hovertemplate: `<b>%{text}</b>, ${name}<br>%{x:.3g} MACs per byte of DRAM<br>%{y:.3g} MACs per cycle<extra></extra>`,
  };
}

function drawRoofline(content, panel, detail, dense) {
  const machine = detail.machine, peak = machine.peak_macs_per_cycle, slope = machine.dram_bytes_per_cycle;
  const points = [roofPoints(panel, dense, "dense", false, INK), roofPoints(panel, detail, "with gates", true, content.colours[0])];
  const xs = points.flatMap((trace) => trace.x), ys = points.flatMap((trace) => trace.y);
  const ends = [0.6 * Math.min(...xs, slope ? 0.7 * peak / slope : Infinity), 1.7 * Math.max(...xs, slope ? peak / slope : 0)];
  const roof = slope ? [ends[0], peak / slope, ends[1]] : ends;
  const line = { x: roof, y: roof.map((x) => slope ? Math.min(peak, slope * x) : peak), mode: "lines", line: { color: INK, width: 1.6 }, name: "roof", hoverinfo: "skip" };
  const notes = [{ x: Math.log10(ends[1]), y: Math.log10(peak), text: `${digits(peak)} MACs per cycle`, showarrow: false, xanchor: "right", yanchor: "bottom", font: { size: 12 } }];
  if (slope) notes.push({ x: Math.log10(peak / slope), y: Math.log10(peak), text: `${digits(slope)} bytes per cycle`, showarrow: false, xanchor: "right", yanchor: "bottom", xshift: -10, yshift: element("roofline").clientWidth < 480 ? 16 : 0, font: { size: 12 } });
  Plotly.react(element("roofline"), [line, ...points], layout({
    height: 430, annotations: notes, hovermode: "closest",
    xaxis: { type: "log", title: { text: "computed MACs per byte of DRAM traffic" }, range: ends.map(Math.log10), dtick: 1 },
    yaxis: { type: "log", title: { text: "computed MACs per cycle" }, range: [Math.log10(0.6 * Math.min(...ys)), Math.log10(1.9 * peak)], dtick: 1 },
  }), CONFIG);
}

function drawLoops(content, panel) {
  const { loops } = panel, blocks = [...new Set(loops.block)].sort((a, b) => area(a) - area(b));
  element("loops-words").textContent = loops.words;
  drawGaps("loops-latency", content, loops, blocks, loops.latency, "latency, open less closed [%]");
  const known = loops.quality.some((value) => value !== null);
  element("loops-quality").hidden = !known;
  if (known) drawGaps("loops-quality", content, loops, blocks, loops.quality, `${metricName(panel)}, open less closed [points]`);
}

function drawGaps(name, content, loops, blocks, values, title) {
  const places = loops.block.map((block) => blocks.indexOf(block));
  const same = new Map(); // points of a block are laid out side by side, in their order
  const x = places.map((place) => { const turn = same.get(place) || 0; same.set(place, turn + 1); return [place, turn]; });
  const text = loops.block.map((block, row) => `block ${short(block)}, tile ${short(loops.tile[row])}${loops.threshold[row] === null ? "" : `, threshold ${digits(loops.threshold[row])}`}`);
  const points = {
    mode: "markers", x: x.map(([place, turn]) => place + 0.6 * ((turn + 0.5) / same.get(place) - 0.5)), y: values, text, showlegend: false,
    marker: { color: content.colours[0], size: 8, opacity: 0.75 }, hovertemplate: "%{text}<br><b>%{y:+.2f}</b><extra></extra>",
  };
  const medians = blocks.map((_, place) => {
    const own = values.filter((value, row) => places[row] === place && value !== null).sort((a, b) => a - b), half = own.length / 2;
    return own.length % 2 ? own[Math.floor(half)] : (own[half - 1] + own[half]) / 2;
  });
  const line = {
    mode: "lines", hoverinfo: "skip", line: { color: INK, width: 2.5 }, showlegend: false,
    x: blocks.flatMap((_, place) => [place - 0.4, place + 0.4, null]), y: medians.flatMap((value) => [value, value, null]),
  };
  const labels = medians.map((value, place) => ({ x: place, xref: "x", y: 1, yref: "paper", yanchor: "bottom", text: `${value < 0 ? "" : "+"}${value.toFixed(2)}`, showarrow: false, font: { size: 12 } }));
  Plotly.react(element(name), [points, line], layout({
    height: 320, hovermode: "closest", annotations: labels, margin: { l: 56, r: 14, t: 26, b: 48 },
    xaxis: { title: { text: "block [output pixels]" }, tickvals: blocks.map((_, place) => place), ticktext: blocks.map(short), range: [-0.6, blocks.length - 0.4], showgrid: false },
    yaxis: { title: { text: title }, zeroline: true, zerolinecolor: INK },
  }), CONFIG);
}

function drawSensitivities(content, decision) {
  const found = (decision.sensitivities || []).filter((one) => one.latency_change !== null);
  const reach = new Map();
  for (const one of found) reach.set(one.key, Math.max(reach.get(one.key) || 0, Math.abs(one.latency_change)));
  const keys = [...reach.keys()].filter((name) => reach.get(name) >= 0.0005).sort((a, b) => reach.get(b) - reach.get(a)).slice(0, 14);
  const trace = (direction, colour, name) => {
    const ones = keys.map((one) => found.find((other) => other.key === one && other.direction === direction));
    return {
      type: "bar", orientation: "h", name, y: keys, x: ones.map((one) => one ? 100 * one.latency_change : null), marker: { color: colour },
      text: ones.map((one) => one ? `${one.words}<br>energy ${(100 * one.energy_change).toFixed(1)}%` : ""), textposition: "none", hovertemplate: "%{text}<extra></extra>",
    };
  };
  Plotly.react(element("sensitivity"), [trace("better", content.colours[2], "changed for the better"), trace("worse", content.colours[1], "changed for the worse")], layout({
    height: 430, barmode: "group", bargap: 0.25, bargroupgap: 0, hovermode: "closest", margin: { l: 40, r: 14, t: 12, b: 48 },
    xaxis: { title: { text: "change of latency [%]" }, zeroline: true, zerolinecolor: INK },
    yaxis: { autorange: "reversed", tickfont: { size: 12 }, ticks: "", showgrid: false },
  }), CONFIG);
}
