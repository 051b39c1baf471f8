// Keeps the page current: fetches it again and puts the new <main> in place of the old one.
// Without JavaScript the page reloads itself.

const INTERVAL = 5000;
const TIMEOUT = 10000;

const connection = document.getElementById("connection");
let asOf = new Date();

async function refresh() {
  const response = await fetch("/", { signal: AbortSignal.timeout(TIMEOUT) });
  if (!response.ok) {
    throw new Error(`status ${response.status}`);
  }
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  const old = document.querySelector("main");
  const next = fresh.querySelector("main");
  if (old.innerHTML !== next.innerHTML) {
    const focusable = "a, [tabindex]";
    const focused = [...old.querySelectorAll(focusable)].indexOf(document.activeElement);
    const scrolled = [...old.querySelectorAll(".table")].map((table) => table.scrollLeft);
    old.replaceWith(next);
    next.querySelectorAll(".table").forEach((table, i) => (table.scrollLeft = scrolled[i] ?? 0));
    next.querySelectorAll(focusable)[focused]?.focus({ preventScroll: true });
  }
  document.title = fresh.title;
  asOf = new Date();
}

async function keepCurrent() {
  if (!document.hidden) {
    const selecting = !getSelection().isCollapsed;
    try {
      if (!selecting) {
        await refresh();
      }
      connection.textContent = selecting ? `Paused at ${asOf.toLocaleTimeString()} while text is selected.` : "";
    } catch {
      connection.textContent = `Not connected. What you see is of ${asOf.toLocaleTimeString()}.`;
    }
  }
  setTimeout(keepCurrent, INTERVAL);
}

setTimeout(keepCurrent, INTERVAL);
