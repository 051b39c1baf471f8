// Keeps the page current. What its buttons do is in actions.js. Without them the page is read-only.
//
// An event tells only that something changed: the page is then fetched again as the server renders
// it, and what differs is put in place, so that focus, scroll, selection and open details stay.

export const AFTER_EVENT = 300; // ms; more than the server keeps a rendered page for
const AT_MOST_EVERY = 1000;
const AT_LEAST_EVERY = 5000;
const AT_LEAST_EVERY_HIDDEN = 30000; // for the title and the icon, which a hidden tab still shows
const LISTEN_AGAIN = 15000;
const OLD = 10000;
const PATIENCE = 6000;

export const main = document.getElementById("main");
const shownHooks = [];
const connection = document.getElementById("connection");
const icon = document.querySelector("link[rel=icon]");

// Staying current.

let clockAhead = Number(document.documentElement.dataset.now) * 1000 - Date.now();
let asOf = Date.now();
let clock = document.documentElement.dataset.clock; // the server's, of what is shown
let begunAt = -Infinity;
let dueAt = Infinity;
let timer;
let fault = null; // null, "lost" (no answer) or what the daemon said
let title = document.title;

function plan(delay) {
  const at = performance.now() + delay;
  if (at < dueAt) {
    dueAt = at;
    clearTimeout(timer);
    timer = setTimeout(refresh, delay);
  }
}

export function refreshSoon() {
  plan(Math.max(AFTER_EVENT, AT_MOST_EVERY - (performance.now() - begunAt)));
}

// What a script adds to the page is added again whenever the server's state of it has been put in place.
export function whenShown(hook) {
  shownHooks.push(hook);
  hook();
}

export async function refresh() {
  clearTimeout(timer);
  dueAt = Infinity;
  begunAt = performance.now();
  const address = location.pathname + location.search;
  try {
    const response = await fetch(address, {
      headers: { Accept: "text/html" }, // or a wrong address is told as to a program
      signal: AbortSignal.timeout(PATIENCE),
    });
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    const shown = fresh.getElementById("main");
    if (address !== location.pathname + location.search) {
      plan(0);
    } else if (shown === null || (response.status >= 500 && main.dataset.page !== "error")) {
      fault = fresh.querySelector(".sentence")?.textContent.trim() ?? `it answered ${response.status}`;
    } else {
      fault = null;
      show(fresh, shown);
    }
  } catch {
    fault = "lost";
  }
  plan(document.hidden ? AT_LEAST_EVERY_HIDDEN : AT_LEAST_EVERY);
  tick();
}

function show(fresh, shown) {
  const isOther = fresh.documentElement.dataset.version !== document.documentElement.dataset.version;
  const typed = [...document.querySelectorAll("textarea")].some((field) => field.value !== field.defaultValue);
  if (isOther && !typed) {
    location.reload();
    return;
  }
  asOf = Date.now();
  clock = fresh.documentElement.dataset.clock;
  clockAhead = Number(fresh.documentElement.dataset.now) * 1000 - asOf;
  const focused = document.activeElement;
  const around = ancestors(focused);
  morph(main, shown);
  morph(document.querySelector("header nav"), fresh.querySelector("header nav"));
  for (const hook of shownHooks) {
    hook();
  }
  if (document.activeElement !== focused && around.includes(main)) {
    const place = focused.isConnected ? focused : around.find((each) => each.isConnected);
    const near = place.matches(FOCUSABLE) ? place : place.querySelector(FOCUSABLE);
    (near ?? main).focus({ preventScroll: true });
  }
  icon.dataset.shown = fresh.querySelector("link[rel=icon]").getAttribute("href");
  if (title !== fresh.title) {
    title = fresh.title;
    document.getElementById("announced").textContent = title.replace(/ · worker$/, "");
  }
  if (document.body.dataset.events !== fresh.body.dataset.events) {
    document.body.dataset.events = fresh.body.dataset.events;
    stopListening();
    listen();
  }
}

// Putting what differs in place.

const FOCUSABLE = "a[href], button, summary, input, select, textarea, [tabindex]";
export const held = new Set();
const served = new WeakMap(); // details -> whether the server last had it open

function adopt(node) {
  for (const details of node.querySelectorAll?.("details") ?? []) {
    served.set(details, details.open);
  }
  if (node.nodeName === "DETAILS") {
    served.set(node, node.open);
  }
  return node;
}

function morph(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) {
      old.data = fresh.data;
    }
    return;
  }
  if ("keep" in old.dataset || held.has(old.id)) {
    return;
  }
  morphAttributes(old, fresh);
  if (!old.matches("time[data-form]")) {
    morphChildren(old, fresh);
  }
}

function morphAttributes(old, fresh) {
  const isDetails = old.nodeName === "DETAILS";
  for (const { name, value } of [...fresh.attributes]) {
    if (old.getAttribute(name) !== value && !(isDetails && name === "open")) {
      old.setAttribute(name, value);
    }
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(isDetails && name === "open") && name !== "aria-busy") {
      old.removeAttribute(name);
    }
  }
  // Whoever opened or closed it has the last word, until the server changes its mind.
  if (isDetails && served.get(old) !== fresh.open) {
    served.set(old, fresh.open);
    old.open = fresh.open;
  }
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.dataset.key ?? (node.id || null) : null;
}

// No row moves from under a pointer that is about to press its button.
function isInUse(list) {
  const isPointed = matchMedia("(hover: hover)").matches && list.matches(":hover");
  return "steady" in list.dataset && (isPointed || list.matches(":focus-within"));
}

for (const leaving of ["pointerout", "focusout"]) {
  main.addEventListener(leaving, (event) => {
    const list = event.target.closest("[data-steady]");
    if (list !== null && !list.contains(event.relatedTarget)) {
      refreshSoon();
    }
  });
}

function inOrderOf(old, fresh) {
  const keys = [...old.children].map(keyOf);
  const place = (row) => (keys.includes(keyOf(row)) ? keys.indexOf(keyOf(row)) : keys.length);
  fresh.append(...[...fresh.children].sort((one, other) => place(one) - place(other)));
}

function morphChildren(old, fresh) {
  if (isInUse(old)) {
    inOrderOf(old, fresh);
  }
  const keyed = new Map();
  for (const child of old.children) {
    if (keyOf(child) !== null) {
      keyed.set(keyOf(child), child);
    }
  }
  let at = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const key = keyOf(next);
    let match = key === null ? at : keyed.get(key) ?? null;
    if (key === null) {
      while (match !== null && (keyOf(match) !== null || match.nodeName !== next.nodeName)) {
        match = match.nextSibling;
      }
    }
    if (match === null || match.nodeName !== next.nodeName) {
      old.insertBefore(adopt(document.importNode(next, true)), at);
      continue;
    }
    keyed.delete(key);
    if (match === at) {
      at = at.nextSibling;
    } else {
      old.insertBefore(match, at);
    }
    morph(match, next);
  }
  while (at !== null) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function ancestors(node) {
  return node === null ? [] : [node, ...ancestors(node.parentElement)];
}

// Events.

let source = null;
let streaming = false;

function listen() {
  if (source !== null || document.hidden) {
    return;
  }
  source = new EventSource(document.body.dataset.events);
  source.onopen = () => {
    streaming = true;
    refreshSoon();
  };
  source.onerror = () => {
    streaming = false;
    if (source.readyState === EventSource.CLOSED) {
      stopListening();
      setTimeout(listen, LISTEN_AGAIN);
    }
    refreshSoon();
  };
  for (const kind of document.body.dataset.kinds.split(" ")) {
    source.addEventListener(kind, refreshSoon);
  }
}

function stopListening() {
  source?.close();
  source = null;
  streaming = false;
}

// A hidden page costs little: browsers allow six connections to a server, for all its tabs.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    stopListening();
  } else {
    listen();
    plan(0);
  }
});

// What ticks: ages, countdowns and the state of the connection.

function tick() {
  // Of a daemon that does not answer nothing goes on that would be known of here.
  const now = ((fault === null ? Date.now() : asOf) + clockAhead) / 1000;
  for (const each of document.querySelectorAll("time[data-form]")) {
    const ahead = Number(each.dataset.at) - now;
    setText(each, FORMS[each.dataset.form](ahead));
  }
  showConnection();
}

function showConnection() {
  const isOld = Date.now() - asOf > OLD;
  let text = streaming ? "live" : "polling every 5 s";
  if (fault === "lost" || (fault === null && isOld)) {
    text = `reconnecting: data as of ${clock}`;
  } else if (fault !== null) {
    text = `${fault} Data as of ${clock}`;
  }
  setText(connection, text);
  connection.dataset.state = fault === null ? (streaming ? "live" : "polling") : "lost";
  document.body.classList.toggle("old", isOld);
  document.title = fault === null ? title : `Disconnected · ${title}`;
  const file = fault === null ? icon.dataset.shown : "/static/icon-off.svg";
  if (file !== undefined && icon.getAttribute("href") !== file) {
    icon.setAttribute("href", file);
  }
}

function setText(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

const FORMS = {
  ago: (ahead) => `${duration(-ahead)} ago`,
  since: (ahead) => duration(-ahead),
  left: (ahead) => countdown(ahead),
  ahead: (ahead) => (ahead <= 0 ? "now" : `in ${duration(ahead)}`),
};

function duration(seconds) {
  let rest = Math.max(0, Math.floor(seconds));
  const counts = [];
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    counts.push([Math.floor(rest / size), unit]);
    rest %= size;
  }
  while (counts.length > 1 && counts[0][0] === 0) {
    counts.shift();
  }
  const [first, second] = counts;
  return [first, ...(second?.[0] ? [second] : [])].map((each) => each.join(" ")).join(" ");
}

function countdown(seconds) {
  const rest = Math.max(0, Math.ceil(seconds));
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes, left] = [Math.floor(rest / 3600), Math.floor(rest / 60) % 60, rest % 60];
  return hours ? `${hours}:${two(minutes)}:${two(left)}` : `${minutes}:${two(left)}`;
}

addEventListener("popstate", refresh);
adopt(main);
icon.dataset.shown = icon.getAttribute("href");
setInterval(tick, 1000);
listen();
plan(AT_LEAST_EVERY);
