// Operations as they run, and what agents do, as they do it.
import { ago, ask, attempt, element, listen, money } from "./app.js";

const MOST = 200;
const operations = new Map();
let wanted = "";
let list;
let figures;

async function whole() {
  const query = new URLSearchParams({ limit: String(MOST), sort: "-updatedAt" });
  const { data } = await ask(`/api/operations?${query}`);
  operations.clear();
  for (const one of data) operations.set(one.id, one);
  draw();
}

function row(one) {
  const tokens = one.metrics?.tokens || {};
  const failed = one.disposition && one.disposition.success === false;
  return element("li", { className: `operation ${one.status}`, "data-id": one.id },
    element("div", { className: "line" },
      element("span", { className: "badge", textContent: one.status.replace("_", " ") }),
      element("strong", { textContent: one.name }),
      element("span", { className: "dim", textContent: [one.agentId, one.channel, one.type].filter(Boolean).join(" · ") }),
      element("span", { className: "when dim", textContent: ago(one.updatedAt || one.createdAt) })),
    one.status === "in_progress" ? element("progress", { max: 100, value: one.metrics?.progress || 0, "aria-label": `Progress of ${one.name}` }) : null,
    element("p", { className: failed ? "bad" : "dim",
      textContent: failed ? [one.disposition.errorCode, one.disposition.error].filter(Boolean).join(": ") : one.activity || one.currentStep || "" }),
    element("p", { className: "dim small",
      textContent: `${one.metrics?.stepsCompleted || 0}/${one.metrics?.stepsTotal || 0} steps · ${tokens.total || 0} tokens · ${money(tokens.cost)}` }));
}

function draw() {
  const shown = [...operations.values()].filter((one) => !wanted || one.status === wanted)
    .sort((one, other) => (other.updatedAt || other.createdAt).localeCompare(one.updatedAt || one.createdAt)).slice(0, MOST);
  const running = [...operations.values()].filter((one) => one.status === "in_progress").length;
  figures.textContent = `${running} running · ${operations.size} shown of late`;
  list.replaceChildren(...(shown.length ? shown.map(row) : [element("li", { className: "empty dim", textContent: "No operation yet." })]));
}

export async function show(view) {
  figures = element("p", { className: "dim", role: "status" });
  list = element("ul", { className: "operations", "aria-label": "Operations" });
  const filter = element("select", { "aria-label": "Status" }, element("option", { value: "", textContent: "Every status" }),
    ...["pending", "in_progress", "completed", "failed", "cancelled"].map((name) => element("option", { value: name, textContent: name.replace("_", " ") })));
  filter.addEventListener("change", () => { wanted = filter.value; draw(); });
  const ticker = element("ol", { className: "ticker", "aria-label": "What agents do" });
  view.replaceChildren(element("div", { className: "split" },
    element("section", {}, element("div", { className: "tools" }, element("h1", { textContent: "Operations" }), filter, figures), list),
    element("aside", {}, element("h2", { textContent: "Agents, just now" }), ticker)));
  listen("/ws/operations", { whole, message(got) {
    if (!got.status) return;
    operations.set(got.id, { ...operations.get(got.id), ...got });
    if (operations.size > 2 * MOST) attempt(whole);
    draw();
  } });
  listen("/ws/agents", { whole: async () => {}, message: (got) => tick(ticker, got) });
}

export function tick(ticker, got) {
  if (got.type !== "agent_event") return;
  ticker.prepend(element("li", {},
    element("strong", { textContent: got.agent || "?" }),
    element("span", { textContent: ` ${String(got.event || "").replace("_", " ")} ` }),
    element("span", { className: "dim", textContent: got.activity || got.tool || "" })));
  while (ticker.childElementCount > 60) ticker.lastElementChild.remove();
}
