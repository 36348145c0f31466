"use strict";
// The dot on the landing page: what /readyz says, now and every 15 seconds while the page is looked at.
const state = document.getElementById("state");
async function ask() {
  if (document.hidden) return;
  try {
    const answer = await fetch("/readyz", { signal: AbortSignal.timeout(5000) });
    const body = await answer.json();
    const missing = Object.entries(body.checks || {}).filter(([, ok]) => !ok).map(([name]) => name);
    state.className = "state " + (answer.ok ? "good" : "bad");
    state.textContent = answer.ok ? "The service is ready." : "Not ready: " + (missing.join(", ") || "starting") + ".";
  } catch {
    state.className = "state bad";
    state.textContent = "The service does not answer.";
  }
}
ask();
setInterval(ask, 15000);
document.addEventListener("visibilitychange", ask);
