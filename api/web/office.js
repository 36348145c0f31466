// The office: every agent at work, at rest or away; beside it the server rack, the breakers and the radio.
import { ago, ask, attempt, element, listen, money, notice, scopes } from "./app.js";
import { tick } from "./live.js";

const NS = "http://www.w3.org/2000/svg";
const SIZE = { width: 1200, height: 680 };
const STALLED_MS = 10 * 60 * 1000;
const HALF_LIFE_MS = 90 * 1000;
const SHELLS = ["#d9563f", "#3f88d9", "#3fa66a", "#b45fd0", "#d99a2b", "#2ba6a6", "#d0568f", "#7b78e0"];
const still = matchMedia("(prefers-reduced-motion: reduce)");
const people = new Map();
let scene;
let side;
let chosen = "";

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// What an agent's status means for where it stands.
export function stateOf(agent, now = Date.now()) {
  if (agent.status === "offline") return "offline";
  const quiet = now - Date.parse(agent.statusAt || agent.lastActivityAt || 0);
  if (["thinking", "tool", "waiting"].includes(agent.status)) return quiet > STALLED_MS ? "stalled" : "working";
  return agent.status === "error" ? "stalled" : "idle";
}

const keyOf = (gateway, agent) => `${gateway}/${agent}`;

function hash(text) {
  let value = 0;
  for (const letter of text) value = (value * 31 + letter.codePointAt(0)) >>> 0;
  return value;
}

function draw(agent, index) {
  const color = SHELLS[hash(agent.id) % SHELLS.length];
  const heat = svg("circle", { class: "heat", r: 34, cy: 4, opacity: "0.000" });
  const body = svg("g", { class: "body" },
    svg("path", { d: "M-15 -6q-13 -12 -5 -20q5 3 7 12M15 -6q13 -12 5 -20q-5 3 -7 12", fill: color, class: "claw" }),
    svg("ellipse", { cx: 0, cy: 4, rx: 15, ry: 20, fill: color }),
    svg("path", { d: "M-9 20l-5 11M9 20l5 11M-3 22v11M3 22v11", stroke: color, "stroke-width": 4, "stroke-linecap": "round", class: "legs" }),
    svg("circle", { cx: -6, cy: -6, r: 4.6, fill: "#fff" }), svg("circle", { cx: 6, cy: -6, r: 4.6, fill: "#fff" }),
    svg("circle", { cx: -6, cy: -6, r: 2.1, fill: "#15181d" }), svg("circle", { cx: 6, cy: -6, r: 2.1, fill: "#15181d" }));
  const name = svg("text", { y: 52, class: "name" });
  const bubbleText = svg("text", { y: -48, class: "bubble-text" });
  const bubbleBox = svg("rect", { y: -64, height: 24, rx: 9, class: "bubble" });
  const group = svg("g", { class: "person", tabindex: 0, role: "button" }, heat, body, name, svg("g", { class: "speech" }, bubbleBox, bubbleText));
  const open = () => { chosen = keyOf(agent.gateway, agent.id); panel(); };
  group.addEventListener("click", open);
  group.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); } });
  scene.people.append(group);
  return { group, heat, name, bubbleText, bubbleBox, x: 600, y: 660, warmth: 0, warmed: Date.now(), index };
}

function desk(index, total) {
  const wide = Math.max(1, Math.min(5, Math.ceil(Math.sqrt(total * 1.4))));
  const rows = Math.ceil(total / wide);
  return { x: 90 + (index % wide) * (720 / wide) + 40, y: 170 + Math.floor(index / wide) * (430 / Math.max(rows, 2)) };
}

function place(person, state, total) {
  if (state === "working" || state === "stalled") {
    const at = desk(person.index, total);
    return { x: at.x, y: at.y + 42 };
  }
  if (state === "idle") return { x: 900 + (person.index % 3) * 92, y: 215 + (Math.floor(person.index / 3) % 4) * 108 };
  return { x: 120 + (person.index % 12) * 82, y: 612 };
}

const shorten = (text, most) => ([...text].length > most ? `${[...text].slice(0, most - 1).join("")}…` : text);

function update() {
  const total = people.size;
  for (const { agent, person } of people.values()) {
    const state = stateOf(agent);
    person.target = place(person, state, total);
    person.group.setAttribute("class", `person ${state}`);
    person.group.dataset.state = state;
    person.name.textContent = shorten(agent.name || agent.id, 14);
    const says = state === "idle" || state === "offline" ? "" : shorten(agent.activity || agent.status, 30);
    person.bubbleText.textContent = says;
    const width = says ? says.length * 6.6 + 18 : 0;
    person.bubbleBox.setAttribute("width", width);
    person.bubbleBox.setAttribute("x", -width / 2);
    person.group.setAttribute("aria-label", `${agent.name || agent.id}: ${state}${says ? `, ${says}` : ""}`);
  }
  scene.desks.replaceChildren(...[...people.values()].map(({ person }) => {
    const at = desk(person.index, total);
    return svg("g", { transform: `translate(${at.x} ${at.y})`, class: "desk" },
      svg("rect", { x: -52, y: -8, width: 104, height: 34, rx: 6, class: "top" }),
      svg("rect", { x: -19, y: -34, width: 38, height: 25, rx: 3, class: "screen" }), svg("rect", { x: -3, y: -9, width: 6, height: 5, class: "screen" }));
  }));
  const count = { working: 0, idle: 0, stalled: 0, offline: 0 };
  for (const { agent } of people.values()) count[stateOf(agent)] += 1;
  scene.summary.textContent = Object.entries(count).map(([state, number]) => `${number} ${state}`).join(" · ");
}

function frame() {
  const now = Date.now();
  for (const { person } of people.values()) {
    const warmth = person.warmth * 0.5 ** ((now - person.warmed) / HALF_LIFE_MS);
    person.heat.setAttribute("opacity", Math.min(0.75, warmth / 12).toFixed(3));
    if (!person.target) continue;
    const across = person.target.x - person.x;
    const down = person.target.y - person.y;
    const far = Math.hypot(across, down);
    const step = still.matches ? far : Math.min(far, 2.4);
    if (far > 0.01) {
      person.x += (across / far) * step;
      person.y += (down / far) * step;
    }
    person.group.classList.toggle("walking", far > 3 && !still.matches);
    person.group.setAttribute("transform", `translate(${person.x.toFixed(1)} ${person.y.toFixed(1)})`);
  }
  if (still.matches) setTimeout(frame, 1000);
  else requestAnimationFrame(frame);
}

function take(agents) {
  const gone = new Set(people.keys());
  for (const agent of agents) {
    const key = keyOf(agent.gateway, agent.id);
    gone.delete(key);
    const known = people.get(key);
    // A row that is older than the last event says less than the event did.
    if (known && Date.parse(known.agent.statusAt || 0) > Date.parse(agent.statusAt || 0)) continue;
    if (known) Object.assign(known.agent, agent);
    else people.set(key, { agent: { ...agent }, person: draw(agent, people.size) });
  }
  for (const key of gone) {
    people.get(key).person.group.remove();
    people.delete(key);
  }
  [...people.values()].forEach(({ person }, index) => { person.index = index; });
  update();
}

async function whole() {
  take((await ask("/api/agents")).data);
}

async function command(path, body, done) {
  const answer = await attempt(() => ask(path, { method: "POST", body, headers: { "Idempotency-Key": crypto.randomUUID() } }));
  if (answer) notice(answer.data?.status === "waiting" ? "You have as many runs as you may: it waits for the end of one." : done);
}

async function confirmed(action, target, path, done) {
  if (!window.confirm(`${action} ${target}?`)) return;
  const nonce = await attempt(() => ask("/api/commands/confirm", { method: "POST", body: { action, target } }));
  if (!nonce) return;
  const answer = await attempt(() => ask(path, { method: "POST", headers: { "X-Confirmation": nonce.data.nonce, "Idempotency-Key": crypto.randomUUID() } }));
  if (answer) notice(done);
}

async function panel() {
  const known = people.get(chosen);
  if (!known) return;
  const { agent } = known;
  const answer = await attempt(() => ask(`/api/agents/${encodeURIComponent(agent.id)}?gateway=${encodeURIComponent(agent.gateway)}`));
  if (!answer) return;
  const full = answer.data;
  const path = `/api/agents/${encodeURIComponent(agent.id)}`;
  const box = element("section", { className: "card", "aria-label": `Agent ${agent.id}` },
    element("h2", { textContent: full.name || full.id }),
    element("p", { className: "dim", textContent: `${stateOf(full)} · ${full.gateway} · ${full.model || "model unknown"} · ${ago(full.lastActivityAt)}` }),
    element("p", { textContent: `${full.metrics.calls} calls · ${full.metrics.sessions} sessions · ${money(full.metrics.cost)} · ${full.activeSubagents} sub-agents` }));
  if (scopes.includes("command")) {
    const text = element("input", { placeholder: "Message or task", "aria-label": `Message or task for ${agent.id}`, required: true });
    const talk = element("button", { textContent: "Talk" });
    const spawn = element("button", { textContent: "Spawn", type: "button" });
    const stop = element("button", { textContent: "Stop", type: "button", className: "danger" });
    const form = element("form", { className: "inline" }, text, talk, spawn, stop);
    form.addEventListener("submit", (event) => { event.preventDefault(); command(`${path}/send`, { message: text.value }, "Sent."); });
    spawn.addEventListener("click", () => { if (form.reportValidity()) command("/api/agents/spawn", { label: shorten(text.value, 60), task: text.value, agentId: agent.id }, "Spawned."); });
    stop.addEventListener("click", () => command(`${path}/kill`, {}, "Asked to stop."));
    box.append(form);
  }
  box.append(element("ol", { className: "ticker" }, ...full.history.slice(0, 12).map((one) => element("li", {},
    element("span", { className: "dim", textContent: `${ago(one.ts)} ` }), `${one.event.replace("_", " ")} ${one.activity || one.tool || ""}`))));
  side.agent.replaceChildren(box);
}

function meter(label, part, all) {
  const share = part === null || part === undefined || !all ? null : part / all;
  return element("p", { className: "meter" }, element("span", { textContent: label }),
    share === null ? element("span", { className: "dim", textContent: "not measured" })
      : element("meter", { min: 0, max: 1, low: 0.75, high: 0.9, optimum: 0.2, value: share, "aria-label": label }),
    element("span", { className: "dim", textContent: share === null ? "" : `${Math.round(share * 100)} %` }));
}

async function rack() {
  const { data } = await ask("/api/system");
  side.rack.replaceChildren(...(data.hosts.length ? data.hosts.flatMap((host) => [
    element("strong", { textContent: host.gateway }), meter("CPU", host.cpuRatio, 1), meter("Memory", host.memoryUsedBytes, host.memoryTotalBytes),
    meter("Disk", host.diskUsedBytes, host.diskTotalBytes), meter("Gateway CPU", host.gatewayCpuRatio, 1)]) : [element("p", { className: "dim", textContent: "No host is measured yet." })]));
}

// Only switches that this service has.
async function breakers() {
  const paths = Object.keys((await ask("/openapi.json")).data.paths);
  const target = [...people.values()][0]?.agent.gateway || "";
  const made = [["start", "Start gateway"], ["stop", "Stop gateway"], ["restart", "Restart"], ["update", "Run update"]]
    .filter(([name]) => paths.includes(`/api/gateway/${["start", "stop"].includes(name) ? "{verb}" : name}`)).map(([name, text]) => {
      const button = element("button", { textContent: text, className: name === "stop" ? "danger" : "", disabled: !scopes.includes("command") });
      button.addEventListener("click", () => confirmed(`gateway.${name}`, target, `/api/gateway/${name}`, `${text}: accepted.`));
      return [name, button];
    });
  side.breakers.replaceChildren(...made.filter(([name]) => name !== "update").map(([, button]) => button));
  // Asked for by a click only: where commands are off, the gateway is not asked at all.
  const heard = element("p", { className: "dim", role: "status" });
  const listen = element("button", { textContent: "Look for updates", disabled: !scopes.includes("command") });
  listen.addEventListener("click", async () => {
    const told = await attempt(() => ask("/api/gateway/update"));
    if (!told) return;
    const { available, version } = told.data;
    heard.textContent = available ? `Update available: ${version || "a newer version"}` : available === null ? "The gateway has not looked for updates yet." : "Up to date.";
  });
  side.radio.replaceChildren(listen, ...made.filter(([name]) => name === "update").map(([, button]) => button), heard);
}

function panAndZoom(root) {
  const view = { x: 0, y: 0, width: SIZE.width, height: SIZE.height };
  const apply = () => root.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
  const zoom = (factor) => {
    const width = Math.min(SIZE.width * 1.5, Math.max(240, view.width * factor));
    const height = (width * SIZE.height) / SIZE.width;
    view.x += (view.width - width) / 2;
    view.y += (view.height - height) / 2;
    view.width = width;
    view.height = height;
    apply();
  };
  const reset = () => { Object.assign(view, { x: 0, y: 0, ...SIZE }); apply(); };
  root.addEventListener("wheel", (event) => { if (event.ctrlKey || event.metaKey) { event.preventDefault(); zoom(event.deltaY > 0 ? 1.1 : 0.9); } }, { passive: false });
  let held = null;
  root.addEventListener("pointerdown", (event) => { held = { x: event.clientX, y: event.clientY }; });
  addEventListener("pointerup", () => { held = null; });
  root.addEventListener("pointermove", (event) => {
    if (!held) return;
    const scale = view.width / root.clientWidth;
    view.x -= (event.clientX - held.x) * scale;
    view.y -= (event.clientY - held.y) * scale;
    held = { x: event.clientX, y: event.clientY };
    apply();
  });
  root.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-40, 0], ArrowRight: [40, 0], ArrowUp: [0, -40], ArrowDown: [0, 40] }[event.key];
    if (by) { event.preventDefault(); view.x += by[0]; view.y += by[1]; apply(); }
    else if (event.key === "+") zoom(0.85);
    else if (event.key === "-") zoom(1.18);
    else if (event.key === "0") reset();
  });
  return { zoom, reset };
}

export async function show(view) {
  const desks = svg("g");
  const crowd = svg("g");
  const root = svg("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, class: "office", role: "group", tabindex: 0,
    "aria-label": "Office. Arrow keys pan, plus and minus zoom, 0 shows all." },
    svg("rect", { width: SIZE.width, height: SIZE.height, class: "floor" }), svg("rect", { width: SIZE.width, height: 92, class: "wall" }),
    ...[110, 320, 530, 740].map((x) => svg("g", { class: "window" }, svg("rect", { x, y: 16, width: 130, height: 60, rx: 4, class: "sky" }), svg("circle", { cx: x + 98, cy: 37, r: 12, class: "sun" }))),
    svg("rect", { x: 842, y: 120, width: 330, height: 460, rx: 22, class: "rug" }), svg("text", { x: 1007, y: 150, class: "place" }),
    svg("rect", { x: 862, y: 540, width: 290, height: 26, rx: 12, class: "sofa" }),
    svg("rect", { x: 40, y: 588, width: 1120, height: 82, rx: 14, class: "away" }), svg("text", { x: 1100, y: 636, class: "place" }), desks, crowd);
  const [lounge, away] = root.querySelectorAll("text.place");
  lounge.textContent = "Lounge";
  away.textContent = "Away";
  const summary = element("p", { className: "dim", role: "status" });
  scene = { desks, people: crowd, summary };
  const hand = panAndZoom(root);
  const button = (text, label, work) => {
    const made = element("button", { textContent: text, className: "quiet", "aria-label": label });
    made.addEventListener("click", work);
    return made;
  };
  const night = () => { const hour = new Date().getHours(); return hour < 7 || hour >= 19; };
  root.classList.toggle("night", night());
  const ticker = element("ol", { className: "ticker", "aria-label": "What agents do" });
  side = { agent: element("div", {}, element("p", { className: "dim card", textContent: "Choose an agent to see what it does." })),
    rack: element("div"), breakers: element("div", { className: "tools" }), radio: element("div", { className: "tools" }) };
  view.replaceChildren(element("div", { className: "split office-page" },
    element("section", {}, element("div", { className: "tools" }, element("h1", { textContent: "Office" }), summary,
      button("−", "Zoom out", () => hand.zoom(1.18)), button("+", "Zoom in", () => hand.zoom(0.85)), button("Fit", "Show all", hand.reset),
      button("Day / night", "Change between day and night", () => root.classList.toggle("night"))), root, ticker),
    element("aside", {}, side.agent,
      element("section", { className: "card" }, element("h2", { textContent: "Server rack" }), side.rack),
      element("section", { className: "card" }, element("h2", { textContent: "Breakers" }), side.breakers),
      element("section", { className: "card" }, element("h2", { textContent: "Radio" }), side.radio))));
  listen("/ws?channels=agents", { whole, message: (got) => { if (got.type === "agent:status") { take(got.data); } } });
  listen("/ws/agents", { whole: async () => {}, message(got) {
    tick(ticker, got);
    const known = people.get(keyOf(got.gateway, got.agent));
    if (!known) return;
    const { person, agent } = known;
    const now = Date.now();
    person.warmth = person.warmth * 0.5 ** ((now - person.warmed) / HALF_LIFE_MS) + 1;
    person.warmed = now;
    const meaning = { thinking: "thinking", tool_start: "tool", tool_end: "thinking", message_in: "thinking", error: "error", idle: "idle" }[got.event];
    Object.assign(agent, { activity: got.activity || agent.activity, statusAt: got.ts || new Date().toISOString() }, meaning ? { status: meaning } : {});
    update();
  } });
  frame();
  setInterval(() => { update(); if (!document.hidden) attempt(rack); }, 15000);
  await attempt(whole);
  await attempt(rack);
  await attempt(breakers);
}
