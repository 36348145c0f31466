// What our pages share: signing in, asking, live streams that resume, themes, and the banner of alerts.
// Whatever comes from outside is set as text, never as markup.
const THEMES = ["system", "daylight", "midnight", "lobster", "ocean", "terminal", "contrast"];
const KEY = "lobservatory.token";
const byId = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role" || key === "for") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function notice(text) {
  byId("notice").textContent = text;
}

export function ago(instant) {
  if (!instant) return "never";
  const seconds = Math.max(0, (Date.now() - Date.parse(instant)) / 1000);
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  }
  return `${Math.floor(seconds)} s ago`;
}

export const money = (value) => (value === null || value === undefined ? "–" : `$${Number(value).toFixed(2)}`);

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || `The service answered ${status}.`);
    this.status = status;
    this.code = body.code;
  }
}

let started = false;
const paths = new Set(); // of the streams that this page needs, and of those that are open
const opened = new Set();
let token = sessionStorage.getItem(KEY) || "";
export let scopes = [];

export async function ask(path, { method = "GET", body, headers = {} } = {}) {
  const sent = { Authorization: `Bearer ${token}`, ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body), signal: AbortSignal.timeout(20000),
  });
  const text = await answer.text();
  let read = {};
  try { read = text ? JSON.parse(text) : {}; } catch { read = {}; }
  if (answer.ok) return { data: read, etag: answer.headers.get("ETag"), next: answer.headers.get("X-Next-Cursor") };
  if (answer.status === 401 && started) { // it has ended: begin anew, with no stream left over
    sessionStorage.removeItem(KEY);
    location.reload();
  }
  throw new Problem(answer.status, read);
}

// Say what went wrong in one line, instead of losing it.
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    notice(error instanceof Problem ? error.message : "The service does not answer.");
    return undefined;
  }
}

// A WebSocket that comes back, and then asks for what it missed. `whole` reads everything: at each new start.
export function listen(path, { whole, message }) {
  let last = 0;
  let wait = 1000;
  let held = null; // messages that come while everything is read: they are newer than what was read
  async function readWhole() {
    held = [];
    try {
      await whole();
    } finally {
      const waiting = held;
      held = null;
      waiting.forEach(message);
    }
  }
  async function open() {
    let ticket;
    try {
      if (!last) await readWhole();
      ticket = (await ask("/api/auth/ticket", { method: "POST" })).data.ticket;
    } catch {
      if (token) later();
      return;
    }
    const url = new URL(path, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.searchParams.set("ticket", ticket);
    if (last) url.searchParams.set("after", last);
    const socket = new WebSocket(url);
    socket.onopen = async () => {
      wait = 1000;
      opened.add(path);
      connected();
      if (!last) await attempt(readWhole); // what changed between the reading and the opening
    };
    socket.onmessage = async (event) => {
      const got = JSON.parse(event.data);
      if (got.seq) last = got.seq;
      if (got.type === "reset") await attempt(readWhole);
      else if (held) held.push(got);
      else message(got);
    };
    socket.onclose = () => { opened.delete(path); connected(); later(); };
  }
  function later() {
    if (!token) return;
    setTimeout(open, wait * (0.75 + Math.random() / 2));
    wait = Math.min(wait * 1.5, 10000);
  }
  paths.add(path);
  open();
}

function connected() {
  const yes = opened.size === paths.size;
  const state = byId("connection");
  state.className = "state " + (yes ? "good" : "bad");
  state.textContent = yes ? "live" : "connecting …";
}

function themes() {
  const select = byId("theme");
  for (const name of THEMES) select.append(element("option", { value: name, textContent: name }));
  select.value = document.documentElement.dataset.theme || "system";
  select.addEventListener("change", () => {
    paint(select.value);
    if (started) attempt(() => ask("/api/auth/preferences", { method: "PUT", body: { theme: select.value === "system" ? null : select.value } }));
  });
}

// The browser keeps it too, so that the next page is right before anything is painted.
function paint(name) {
  if (name === "system") {
    delete document.documentElement.dataset.theme;
    localStorage.removeItem("lobservatory.theme");
  } else {
    document.documentElement.dataset.theme = name;
    localStorage.setItem("lobservatory.theme", name);
  }
  byId("theme").value = name;
}

async function banner() {
  const { data } = await ask("/api/alerts/banner");
  const box = byId("banner");
  const rows = data.alerts.slice(0, 3).map((alert) => element("p", {},
    element("strong", { textContent: alert.alert }),
    " ", element("span", { textContent: [alert.gateway, alert.summary].filter(Boolean).join(": ") }),
    " ", ...[[alert.boardUrl, "Board"], [alert.runbookUrl, "Runbook"], [alert.silenceUrl, "Silence"]]
      .filter(([address]) => address).map(([address, text]) => link(address, text))));
  if (data.alerts.length > 3) rows.push(element("p", { textContent: `and ${data.alerts.length - 3} more` }));
  if (data.watchdogSilent) rows.unshift(element("p", { textContent: "The chain of alerts is silent: alerts cannot be trusted." }));
  box.replaceChildren(...rows);
  box.className = data.watchdogSilent ? "critical" : data.worst || "";
  box.hidden = rows.length === 0;
}

export function link(address, text) {
  const safe = /^https?:\/\//.test(address) ? address : "#";
  return element("a", { href: safe, textContent: text, rel: "noreferrer" });
}

function signOut(text) {
  token = "";
  sessionStorage.removeItem(KEY);
  byId("signin").hidden = false;
  byId("leave").hidden = true;
  byId("view").replaceChildren();
  byId("signin-problem").textContent = text;
  byId("secret").focus();
}

// A token is tried as one first: it is no wrong password, which would be counted, and after some lock everybody out.
async function signIn(secret) {
  const verified = /^[\w-]{32,}$/.test(secret) && await fetch("/api/auth/verify", { headers: { Authorization: `Bearer ${secret}` } });
  if (verified && verified.ok) {
    token = secret;
  } else if (secret.startsWith("lobs_")) {
    byId("signin-problem").textContent = "That token is not valid, or no longer.";
    return;
  } else {
    const answer = await fetch("/api/auth/login", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ password: secret }),
    });
    if (!answer.ok && answer.status !== 401) throw new Problem(answer.status, await answer.json());
    if (!answer.ok) {
      byId("signin-problem").textContent = "That is neither the password nor a valid token.";
      return;
    }
    token = (await answer.json()).token;
  }
  sessionStorage.setItem(KEY, token);
  await start();
}

async function start() {
  try {
    scopes = (await ask("/api/auth/verify")).data.scopes;
  } catch (error) {
    if (error.status !== 401) throw error;
    signOut("That sign-in has ended.");
    return;
  }
  started = true;
  const { theme } = (await ask("/api/auth/preferences")).data;
  if (theme) paint(theme);
  byId("signin").hidden = true;
  byId("signin-problem").textContent = "";
  byId("leave").hidden = false;
  const name = location.pathname.slice(1);
  const view = await import(`/static/${name}.js`);
  await view.show(byId("view"));
  listen("/ws?channels=alerts", { whole: banner, message: (got) => { if (got.type === "alert") attempt(banner); } });
}

themes();
for (const one of document.querySelectorAll("nav a")) {
  if (one.pathname === location.pathname) {
    one.setAttribute("aria-current", "page");
    document.title = `${one.textContent} · Lobservatory`;
  }
}
byId("signin").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(() => signIn(byId("secret").value.trim()));
  byId("secret").value = "";
});
byId("leave").addEventListener("click", async () => {
  await attempt(() => ask("/api/auth/logout", { method: "POST" })); // its token is worth nothing from now on
  signOut("Signed out.");
  location.reload();
});
if (token) attempt(start);
else signOut("");
