// The page: which panel and which run are shown; everything else draws what it is told.

const content = JSON.parse(element("content").textContent);
const player = new Player(content);
const timeline = new Timeline(content);
let panel = content.panels[0];
let selected = "dense";

function percent(share, count = 0) {
  return `${(100 * share).toFixed(count)}%`;
}

function change(share) {
  return `${share > 0 ? "+" : ""}${percent(share)}`;
}

function panelName(one) {
  const networks = new Set(content.panels.map((other) => other.network)).size > 1;
  return networks ? `${one.network} on ${one.hardware}` : one.hardware;
}

function showPanel(number) {
  panel = content.panels[number];
  [...element("tabs").children].forEach((tab, place) => {
    tab.setAttribute("aria-selected", String(place === number));
    tab.tabIndex = place === number ? 0 : -1;
  });
  showDecision();
  element("loops-section").hidden = !panel.loops;
  if (panel.loops) drawLoops(content, panel);
  element("layers-unit").textContent = panel.machine.measured ? "Microseconds" : "Cycles of the mean core, and";
  element("timeline-section").hidden = panel.machine.measured; // one call after the other: the layers say it all
  const list = panel.runs.map((run, place) => [run.latency_ms, place]).sort((a, b) => a[0] - b[0]);
  const name = (place) => `${runName(panel, panel.runs[place])}${place === panel.recommended ? " (recommended)" : panel.runs[place].front ? " (Pareto line)" : ""}`;
  element("pick").replaceChildren(made("option", "the dense schedule", { value: "dense" }), ...list.map(([, place]) => made("option", name(place), { value: place })));
  element("sensitivity-section").hidden = !(panel.decision.sensitivities || []).length;
  if (!element("sensitivity-section").hidden) drawSensitivities(content, panel.decision);
  select(panel.recommended ?? Number(Object.keys(panel.details).find((name) => name !== "dense") ?? 0));
}

function showDecision() {
  const decision = panel.decision;
  if (decision.none) {
    element("headline").textContent = decision.none;
    for (const id of ["numbers", "reasons", "plan"]) element(id).replaceChildren();
    return;
  }
  element("headline").textContent = decision.headline;
  const drop = decision.quality_drop;
  const numbers = [
    [`${decision.speedup.toFixed(2)}x`, "predicted speed-up", `${decision.band.low.toFixed(2)}x to ${decision.band.high.toFixed(2)}x`],
    [`${digits(decision.latency_ms)} ms`, "a frame", `dense ${digits(decision.dense_latency_ms)} ms`],
    [drop === null ? "not measured" : `${Math.max(0, drop).toFixed(2)}`, `points of ${metricName(panel)} lost`, `${decision.max_drop} allowed`],
    [`${decision.mac_reduction.toFixed(2)}x`, "fewer MACs", `${percent(decision.realised)} of it realised`],
  ];
  if (decision.energy_uj !== null) numbers.push([change(decision.energy_uj / decision.dense_energy_uj - 1), "energy", `${digits(decision.energy_uj)} of ${digits(decision.dense_energy_uj)} µJ a frame`]);
  element("numbers").replaceChildren(...numbers.map(([value, ...words]) => {
    const box = made("div");
    box.append(made("b", value), ...words.map((text) => made("span", text)));
    return box;
  }));
  const reasons = [`The band of the speed-up, ${decision.band.words}.`, ...decision.reasons];
  if (decision.most_helpful.length) reasons.push(`What would help the machine most: ${decision.most_helpful.join("; ")}.`);
  element("reasons").replaceChildren(...reasons.map((text) => made("li", text.trim())));
  showPlan(decision.plan);
}

function showPlan(plan) {
  element("plan").replaceChildren();
  if (!plan) return;
  const box = made("div", "", { class: "plan" });
  box.append(made("h3", "By layer"));
  if (plan.better) {
    const table = made("table"), head = made("tr");
    head.append(...["output maps", "layers", "block", "tiles (layers that have them)"].map((name) => made("th", name, { scope: "col" })));
    table.append(head, ...plan.groups.map((cells) => { const row = made("tr"); row.append(...cells.map((cell) => made("td", String(cell)))); return row; }));
    const scroll = made("div", "", { class: "scroll" });
    scroll.append(table);
    box.append(made("p", plan.summary), scroll, made("p", plan.stay));
  } else box.append(made("p", plan.summary));
  element("plan").append(box);
}

function select(name) {
  selected = name === "dense" ? "dense" : Number(name);
  element("pick").value = String(selected);
  document.body.dataset.selected = String(selected);
  drawRuns(content, panel, selected, select);
  showFacts();
  const dense = panel.details.dense, detail = panel.details[selected];
  element("layers").hidden = element("roofline").hidden = !detail;
  element("roofline-section").hidden = panel.machine.peak_macs_per_cycle === null;
  element("layers-missing").hidden = Boolean(detail);
  if (detail) {
    drawLayers(content, panel, detail, dense, (layer) => { player.showLayer(layer); element("player-title").scrollIntoView({ behavior: "smooth" }); });
    if (panel.machine.peak_macs_per_cycle !== null) drawRoofline(content, panel, detail, dense);
  } else {
    element("layers-missing").textContent = "The layers of this run are not in the page: skipsim report --detailed N shows those of more runs. Its cycles as a whole are above.";
  }
  player.show(panel, panel.masks[selected] || (selected === "dense" ? panel.masks[panel.recommended ?? -1] : undefined));
  timeline.show(panel, String(selected));
}

function showFacts() {
  const run = selected === "dense" ? null : panel.runs[selected];
  const any = run || panel.runs[panel.recommended ?? 0];
  const facts = run ? [
    ["configuration", runName(panel, run)],
    ["latency", `${digits(run.latency_ms)} ms a frame (dense ${digits(run.dense_latency_ms)} ms)`],
    ["speed-up", `${run.speedup.toFixed(2)}x${run.clip_speedups.length > 1 ? `; clips ${Math.min(...run.clip_speedups).toFixed(2)}x to ${Math.max(...run.clip_speedups).toFixed(2)}x` : ""}`],
    ["accuracy", run.quality === null ? "not measured" : `${metricName(panel)} ${percent(run.quality, 2)}, ${run.quality_drop.toFixed(2)} points lost`],
    ["MACs", `${run.mac_reduction.toFixed(2)}x fewer, ${percent(run.realised)} realised`],
    ["density", `${percent(run.density, 1)} asked for, ${percent(run.effective_density, 1)} computed`],
    ["energy", run.energy_uj === null ? null : `${digits(run.energy_uj)} µJ a frame (dense ${digits(run.dense_energy_uj)} µJ)`],
    ["DRAM", `${digits(run.dram_read_mb)} MB read, ${digits(run.dram_write_mb)} MB written a frame`],
    ["area", run.area_mm2 === null ? null : `${digits(run.area_mm2)} mm²`],
    ["loop", { closed: "closed: masks and accuracy of this block", open: "open: masks of a finer recording, coarsened" }[run.loop] || run.loop],
  ] : [
    ["configuration", "the dense schedule, every layer at its best tile"],
    ["latency", `${digits(any.dense_latency_ms)} ms a frame`],
    ["accuracy", any.dense_quality === null ? "not measured" : `${metricName(panel)} ${percent(any.dense_quality, 2)}`],
    ["energy", any.dense_energy_uj === null ? null : `${digits(any.dense_energy_uj)} µJ a frame`],
    ["area", any.area_mm2 === null ? null : `${digits(any.area_mm2)} mm²`],
  ];
  element("facts").replaceChildren(...facts.filter(([, text]) => text !== null).flatMap(([name, text]) => [made("dt", name), made("dd", text)]));
  const shares = run ? run.shares : sharesOf(panel.details.dense);
  const bar = made("div", "", { class: "bar", role: "img", "aria-label": content.groups.map((group, place) => `${group} ${percent(shares[place])}`).join(", ") });
  bar.append(...shares.map((share, place) => made("span", "", { style: `width:${100 * share}%;background:${content.group_colours[place]}`, title: `${content.groups[place]} ${percent(share)}` })));
  const keys = made("p");
  keys.append(...content.groups.map((group, place) => [shares[place], group, place]).filter(([share]) => share >= 0.005).sort((a, b) => b[0] - a[0]).map(([share, group, place]) => key(content.group_colours[place], `${group} ${percent(share)}`)));
  element("shares").replaceChildren(made("p", "Where the time goes"), bar, keys);
}

function sharesOf(detail) {
  const sums = detail.cycles.map((group) => group.reduce((sum, cycles) => sum + cycles, 0));
  const whole = sums.reduce((sum, cycles) => sum + cycles, 0) || 1;
  return sums.map((cycles) => cycles / whole);
}

function showProvenance() {
  const { provenance } = content;
  const packages = Object.entries(provenance.packages || {}).map(([name, version]) => `${name} ${version}`).join(", ");
  const facts = [
    ["skipsim", `${provenance.skipsim}, model version ${provenance.model_version}`],
    ["Python", `${provenance.python}; ${packages}`],
    ["study", `${provenance.study}, sha256 ${provenance.study_sha256}`],
    ["made by", provenance.command],
    ["this page", provenance.report_command],
  ].filter(([, text]) => text);
  element("provenance").replaceChildren(...facts.flatMap(([name, text]) => [made("dt", name), made("dd", text)]));
  element("study").textContent = content.study_text;
  const head = made("tr");
  head.append(...["clip", "gate", "threshold", "block", "trace", "sha256 of the masks"].map((name) => made("th", name, { scope: "col" })));
  const rows = provenance.recordings.map((entry) => {
    const parts = entry.content || {}, row = made("tr");
    const block = Array.isArray(parts.block) ? parts.block.join("x") : parts.block ?? "";
    const gate = Array.isArray(parts.gate) ? parts.gate[0] : parts.gate;
    row.append(...[entry.clip, gate, parts.threshold, block, entry.trace, entry.trace_hash].map((text) => made("td", text === null || text === undefined ? "" : String(text))));
    return row;
  });
  element("recordings").replaceChildren(head, ...rows);
}

function start() {
  element("title").textContent = `Study “${content.study}”`;
  const failed = content.panels.reduce((sum, one) => sum + one.failed, 0);
  element("lead").textContent = `${content.rows} simulations of ${content.provenance.recordings.length} sets of masks${failed ? `, ${failed} of them failed` : ""}. Latency, energy and bytes are those of the mean frame.`;
  element("sensitivity-hint").textContent = "The recommended run, simulated again with one number of the machine twice as good or half as good; masks and tiles stay.";
  element("tabs").replaceChildren(...content.panels.map((one, number) => {
    const tab = made("button", panelName(one), { type: "button", role: "tab", "aria-controls": "main" });
    tab.addEventListener("click", () => showPanel(number));
    tab.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      const next = (number + by + content.panels.length) % content.panels.length;
      showPanel(next);
      element("tabs").children[next].focus();
    });
    return tab;
  }));
  element("pick").addEventListener("change", () => select(element("pick").value));
  showProvenance();
  showPanel(0);
}

start();
