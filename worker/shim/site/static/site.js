// Renews the live part of the page: the server renders it, we put it in place. Without script the page works, only still.
"use strict";

const PAUSE_MS = 2000;
const LONGEST_PAUSE_MS = 30000;
const part = document.getElementById("live");
const stale = document.getElementById("stale");
let pause = PAUSE_MS;
let last = "";

/** Whether somebody is about to press a button in the live part, or has marked text there. */
function inUse() {
  const mark = document.getSelection();
  return part.matches(":has(button:focus, button:hover)") || (mark && !mark.isCollapsed && part.contains(mark.anchorNode));
}

/** Keep where each wide table was scrolled to. */
function put(html) {
  const before = [...part.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  part.innerHTML = html;
  part.querySelectorAll(".scroll").forEach((box, place) => { box.scrollLeft = before[place] || 0; });
  document.title = "sfsync · " + part.querySelector(".verdict strong").textContent;
}

async function renew() {
  if (document.visibilityState === "visible" && !inUse()) {
    try {
      const answer = await fetch("/live", { credentials: "same-origin", signal: AbortSignal.timeout(10000) });
      if (answer.status === 401) { location.assign("/login"); return; }
      if (!answer.ok) throw new Error(String(answer.status));
      const html = await answer.text();
      if (html !== last && !inUse()) { put(html); last = html; }
      stale.hidden = true;
      pause = PAUSE_MS;
    } catch {
      stale.hidden = false;
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    }
  }
  setTimeout(renew, pause);
}

setTimeout(renew, PAUSE_MS);
