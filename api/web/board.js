// The task board: columns of statuses, live, by mouse and by keyboard.
import { ago, ask, attempt, element, listen, notice, scopes } from "./app.js";

const STATUSES = ["inbox", "todo", "assigned", "in_progress", "review", "done"];
const TITLES = { inbox: "Inbox", todo: "To do", assigned: "Assigned", in_progress: "In progress", review: "Review", done: "Done" };
const MOST = 1000;
const tasks = new Map();
const columns = new Map();
let board = "";
let wanted = "";

async function whole() {
  const found = [];
  let cursor = "";
  do {
    const query = new URLSearchParams({ limit: "500", sort: "-updatedAt" });
    if (board) query.set("board", board);
    if (cursor) query.set("cursor", cursor);
    const { data } = await ask(`/api/tasks?${query}`);
    found.push(...data.tasks);
    cursor = data.nextCursor;
  } while (cursor && found.length < MOST);
  tasks.clear();
  for (const task of found) tasks.set(task.id, task);
  draw();
}

// An answer may come later than the news of a change after it: what is newer stays.
function keep(task) {
  const known = tasks.get(task.id);
  if (!known || !(task.version < known.version)) tasks.set(task.id, { ...known, ...task });
}

async function move(task, status) {
  if (task.status === status || !STATUSES.includes(status)) return;
  const answer = await attempt(() => ask(`/api/tasks/${encodeURIComponent(task.id)}`, {
    method: "PATCH", body: { status }, headers: { "If-Match": `"${task.version}"` },
  }));
  if (answer) {
    keep(answer.data);
    notice(`Moved “${task.title}” to ${TITLES[status]}.`);
    draw();
    document.querySelector(`[data-id="${CSS.escape(task.id)}"]`)?.focus();
  } else {
    await attempt(whole);
  }
}

function card(task) {
  const mayWrite = scopes.includes("write");
  const choose = element("select", { "aria-label": `Move ${task.title} to`, disabled: !mayWrite },
    ...STATUSES.map((status) => element("option", { value: status, textContent: TITLES[status], selected: status === task.status })));
  choose.addEventListener("change", () => move(tasks.get(task.id), choose.value));
  const late = task.dueDate && task.status !== "done" && Date.parse(task.dueDate) < Date.now();
  const made = element("li", { className: `task ${task.priority}`, tabIndex: 0, draggable: mayWrite, "data-id": task.id,
    "aria-label": `${task.title}, ${task.priority}, ${TITLES[task.status]}` },
    element("strong", { textContent: task.title }),
    task.description ? element("p", { className: "dim clamp", textContent: task.description }) : null,
    element("p", { className: "chips" },
      element("span", { className: "chip", textContent: task.priority }),
      task.assignedAgent ? element("span", { className: "chip agent", textContent: task.assignedAgent }) : null,
      task.dueDate ? element("span", { className: late ? "chip late" : "chip", textContent: `due ${task.dueDate.slice(0, 10)}` }) : null,
      ...task.tags.slice(0, 6).map((tag) => element("span", { className: "chip tag", textContent: tag }))),
    element("p", { className: "foot dim" }, element("span", { textContent: ago(task.updatedAt) }), choose));
  made.addEventListener("dragstart", (event) => event.dataTransfer.setData("text/plain", task.id));
  made.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.target !== made || !mayWrite) return;
    event.preventDefault();
    move(tasks.get(task.id), STATUSES[STATUSES.indexOf(task.status) + step]);
  });
  return made;
}

function draw() {
  const text = wanted.toLowerCase();
  const shown = [...tasks.values()].filter((task) => (!board || task.board === board) && (!text ||
    [task.title, task.description, task.assignedAgent, ...task.tags].some((part) => (part || "").toLowerCase().includes(text))));
  const held = document.activeElement?.dataset?.id;
  for (const status of STATUSES) {
    const mine = shown.filter((task) => task.status === status)
      .sort((one, other) => other.updatedAt.localeCompare(one.updatedAt));
    const { count, list } = columns.get(status);
    count.textContent = mine.length;
    list.replaceChildren(...(mine.length ? mine.map(card) : [element("li", { className: "empty dim", textContent: "Nothing here." })]));
  }
  if (held) document.querySelector(`[data-id="${CSS.escape(held)}"]`)?.focus();
}

export async function show(view) {
  const title = element("input", { placeholder: "What is to be done?", "aria-label": "Title of a new task", required: true, maxLength: 200 });
  const priority = element("select", { "aria-label": "Priority" },
    ...["low", "medium", "high", "urgent"].map((name) => element("option", { value: name, textContent: name, selected: name === "medium" })));
  const form = element("form", { className: "inline new", hidden: !scopes.includes("write") }, title, priority, element("button", { textContent: "Add task" }));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const made = await attempt(() => ask("/api/tasks", { method: "POST",
      body: { title: title.value, priority: priority.value, board: board || "default" }, headers: { "Idempotency-Key": crypto.randomUUID() } }));
    if (!made) return;
    title.value = "";
    keep(made.data);
    draw();
  });
  const boards = element("select", { "aria-label": "Board" }, element("option", { value: "", textContent: "All boards" }));
  boards.addEventListener("change", () => { board = boards.value; attempt(whole); });
  const search = element("input", { type: "search", placeholder: "Filter", "aria-label": "Filter tasks" });
  search.addEventListener("input", () => { wanted = search.value; draw(); });
  const lanes = element("div", { className: "lanes" });
  for (const status of STATUSES) {
    const count = element("span", { className: "count", textContent: "0" });
    const list = element("ul", { "aria-label": TITLES[status] });
    const lane = element("section", { className: "lane", "data-status": status }, element("h2", {}, TITLES[status], count), list);
    lane.addEventListener("dragover", (event) => event.preventDefault());
    lane.addEventListener("drop", (event) => {
      event.preventDefault();
      const task = tasks.get(event.dataTransfer.getData("text/plain"));
      if (task) move(task, status);
    });
    columns.set(status, { count, list });
    lanes.append(lane);
  }
  view.replaceChildren(element("h1", { className: "visually-hidden", textContent: "Task board" }),
    element("div", { className: "tools" }, form, boards, search), lanes);
  const known = await attempt(() => ask("/api/boards"));
  for (const one of known?.data || []) boards.append(element("option", { value: one.id, textContent: one.name }));
  listen("/ws?channels=tasks", { whole, message(got) {
    if (got.type !== "task:update" || !["created", "updated", "deleted"].includes(got.action)) return;
    if (got.action === "deleted") tasks.delete(got.data.id);
    else keep(got.data);
    draw();
  } });
}
