"use strict";
// Shows /openapi.json and sends requests. No library: the service must work offline and under a strict policy.
let token = "";
const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};
const pretty = (value) => JSON.stringify(value, null, 2);

function resolve(document_, node, depth = 0) {
  if (Array.isArray(node)) return node.map((item) => resolve(document_, item, depth));
  if (!node || typeof node !== "object") return node;
  if (node.$ref) {
    if (depth > 6) return { $ref: node.$ref };
    const target = node.$ref.slice(2).split("/").reduce((found, key) => found && found[key], document_);
    return resolve(document_, target, depth + 1);
  }
  return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, resolve(document_, value, depth)]));
}

function example(content) {
  if (!content) return null;
  if (content.example !== undefined) return content.example;
  const named = Object.values(content.examples || {})[0];
  if (named) return named.value;
  const schema = content.schema || {};
  return schema.examples ? schema.examples[0] : null;
}

function scopeOf(operation) {
  const first = (operation.security || [])[0];
  return first ? Object.values(first).flat().join(" ") || "token" : "public";
}

function show(document_, path, method, raw) {
  const operation = resolve(document_, raw);
  const body = element("div");
  const details = element("details", {},
    element("summary", {},
      element("span", { className: "verb " + method, textContent: method.toUpperCase() }),
      element("span", { className: "mono", textContent: path }),
      element("span", { className: "dim", textContent: operation.summary || "" }),
      element("span", { className: "scope", textContent: scopeOf(operation) })),
    body);
  details.addEventListener("toggle", () => { if (details.open && !body.childNodes.length) fill(); });

  function fill() {
    if (operation.description) body.append(element("p", { textContent: operation.description }));
    const inputs = [];
    const parameters = operation.parameters || [];
    if (parameters.length) {
      const rows = parameters.map((parameter) => {
        const input = element("input", { ariaLabel: parameter.name });
        inputs.push([parameter, input]);
        return element("tr", {},
          element("td", { className: "mono", textContent: parameter.name + (parameter.required ? " *" : "") }),
          element("td", {}, input),
          element("td", { className: "dim", textContent: parameter.description || "" }));
      });
      body.append(element("table", {}, ...rows));
    }
    const content = operation.requestBody && operation.requestBody.content["application/json"];
    let text = null;
    if (content) {
      text = element("textarea", { ariaLabel: "Body", spellcheck: false, value: pretty(example(content) ?? {}) });
      body.append(element("p", { className: "dim", textContent: "Body" }), text);
    }
    const output = element("pre", { hidden: true });
    const button = element("button", { type: "button", textContent: "Send" });
    button.addEventListener("click", async () => {
      button.disabled = true;
      output.hidden = false;
      output.textContent = "…";
      try {
        output.textContent = await send(path, method, inputs, text);
      } catch (error) {
        output.textContent = String(error);
      }
      button.disabled = false;
    });
    body.append(element("p", {}, button), output);
    const answers = Object.entries(operation.responses || {}).map(([status, answer]) => {
      const given = Object.values(answer.content || {})[0];
      const shown = example(given);
      return element("tr", {},
        element("td", { className: "mono", textContent: status }),
        element("td", {}, answer.description || "", shown ? element("pre", { textContent: pretty(shown) }) : null));
    });
    body.append(element("p", { className: "dim", textContent: "Answers" }), element("table", {}, ...answers));
  }
  return details;
}

async function send(path, method, inputs, text) {
  let url = path;
  const query = new URLSearchParams();
  const headers = token ? { Authorization: "Bearer " + token } : {};
  for (const [parameter, input] of inputs) {
    if (parameter.in === "path") url = url.replace("{" + parameter.name + "}", encodeURIComponent(input.value));
    else if (input.value && parameter.in === "query") query.append(parameter.name, input.value);
    else if (input.value && parameter.in === "header") headers[parameter.name] = input.value;
  }
  if (text) headers["Content-Type"] = "application/json";
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), 15000);
  try {
    const answer = await fetch(url + (query.size ? "?" + query : ""), {
      method: method.toUpperCase(), headers, body: text ? text.value : undefined, signal: stop.signal,
    });
    const head = answer.status + " " + answer.statusText + "\n";
    if ((answer.headers.get("content-type") || "").startsWith("text/event-stream")) {
      const reader = answer.body.getReader();
      const first = await reader.read();
      stop.abort();
      return head + new TextDecoder().decode(first.value) + "…";
    }
    const raw = await answer.text();
    try { return head + pretty(JSON.parse(raw)); } catch { return head + raw; }
  } finally {
    clearTimeout(timer);
  }
}

document.getElementById("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = document.getElementById("secret");
  const who = document.getElementById("who");
  const secret = field.value;
  field.value = "";
  token = secret;
  if (!secret.startsWith("lobs_")) {
    const answer = await fetch("/api/auth/login", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ password: secret }),
    });
    const body = await answer.json();
    token = body.token || "";
    if (!token) { who.textContent = body.detail; return; }
  }
  const verified = await fetch("/api/auth/verify", { headers: { Authorization: "Bearer " + token } });
  const body = await verified.json();
  if (!verified.ok) token = "";
  who.textContent = verified.ok ? "Signed in: " + body.scopes.join(", ") + "." : body.detail;
});

fetch("/openapi.json").then((answer) => answer.json()).then((document_) => {
  const groups = new Map();
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = (operation.tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(show(document_, path, method, operation));
    }
  }
  const place = document.getElementById("operations");
  place.replaceChildren();
  for (const [tag, operations] of groups) place.append(element("h2", { textContent: tag }), ...operations);
});
