// Loads the page again when something happened in the journal; a form that is being filled in, and what is unfolded, stay.
"use strict";
const main = document.getElementById("main");
let timer = 0;
let behind = false;

function busy() {
  const focused = document.activeElement;
  return main.contains(focused) && ["INPUT", "SELECT", "TEXTAREA"].includes(focused.tagName);
}

async function refresh() {
  timer = 0;
  if (document.hidden || busy()) {
    behind = true;
    return;
  }
  behind = false;
  const response = await fetch(location.href, { headers: { accept: "text/html" } });
  if (response.redirected) {
    location.assign(response.url);
    return;
  }
  if (!response.ok || busy()) {
    return;
  }
  const open = new Set([...main.querySelectorAll("details[open] > summary")].map((each) => each.textContent));
  const focus = document.activeElement === document.body ? null : document.activeElement.getAttribute("href");
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  main.replaceChildren(...page.getElementById("main").childNodes);
  for (const summary of main.querySelectorAll("details > summary")) {
    summary.parentElement.open = open.has(summary.textContent);
  }
  if (focus !== null) {
    main.querySelector(`a[href="${CSS.escape(focus)}"]`)?.focus();
  }
}

function soon() {
  if (!timer) {
    timer = setTimeout(refresh, 1000);
  }
}

const events = new EventSource("/api/v1/events");
const kinds = ["job.submitted", "job.planned", "job.stopped", "job.resumed", "job.finished", "job.cancel_requested",
  "job.closed", "shard.committed", "shard.held", "shard.withdrawn", "shard.sealed", "batch.accepted", "batch.ended",
  "batch.lost"];
kinds.forEach((kind) => events.addEventListener(kind, soon));
document.addEventListener("visibilitychange", () => behind && soon());
main.addEventListener("focusout", () => behind && soon());
setInterval(soon, 30000);
