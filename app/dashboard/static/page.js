// Keeps the page current and posts what its buttons ask for. Without it the page is read-only.
//
// An event tells only that something changed: the page is then fetched again as the server renders
// it, and what differs is put in place, so that focus, scroll, selection and open details stay.

const AFTER_EVENT = 300; // ms; more than the server keeps a rendered page for
const AT_MOST_EVERY = 1000;
const AT_LEAST_EVERY = 5000;
const AT_LEAST_EVERY_HIDDEN = 30000; // for the title and the icon, which a hidden tab still shows
const LISTEN_AGAIN = 15000;
const OLD = 10000;
const PATIENCE = 6000;
const PATIENCE_OF_ACTIONS = 10000;

const main = document.getElementById("main");
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

function refreshSoon() {
  plan(Math.max(AFTER_EVENT, AT_MOST_EVERY - (performance.now() - begunAt)));
}

async function refresh() {
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
const held = new Set();
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
  const now = (Date.now() + clockAhead) / 1000;
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

// Actions.

const DONE = {
  restart: "is being restarted",
  stop: "is being stopped",
  start: "is being started",
  pause: "is paused",
  resume: "goes on",
  run: "has begun",
  cancel: "is cancelled",
  retry: "is queued again",
};

async function act(button) {
  const [label, about] = [button.firstChild.data.trim(), button.lastChild.textContent.trim()];
  const { post: path, ask } = button.dataset; // now, for the page goes on while one is asked
  if (ask && !(await confirmed(`${label} ${about}?`, ask, label))) {
    return;
  }
  const verb = path.split("/").pop();
  await pending(button, async () => {
    const answer = await post(path);
    const asked = verb === "cancel" && answer.status === 202;
    say(`${about} ${asked ? "was asked to stop" : DONE[verb]}.`);
  });
}

async function postTask(form) {
  const { agent_type, goal, priority, context } = form.elements;
  const sent = { goal: goal.value, context: context.value };
  await pending(form.querySelector("button[type=submit]"), async () => {
    const body = JSON.stringify({
      agent_type: agent_type.value,
      goal: sent.goal,
      priority: Number(priority.value),
      context: parsed(sent.context),
    });
    // After a lost answer the same again is the same task, and no second one.
    if (form.dataset.body !== body) {
      form.dataset.body = body;
      form.dataset.idempotency = [...crypto.getRandomValues(new Uint32Array(4))].join("-");
    }
    const task = await (await post("/agents/task", body, { "Idempotency-Key": form.dataset.idempotency })).json();
    delete form.dataset.body;
    for (const field of [goal, context]) {
      if (field.value === sent[field.name]) {
        field.value = "";
      }
    }
    say("Posted:", { href: `/ui/tasks/${encodeURIComponent(task.id)}`, text: `task ${task.id}` });
  });
}

async function decide(form, button) {
  const { comment, arguments: args } = form.elements;
  const approve = button.value === "approve";
  await pending(button, async () => {
    const decision = { approve, comment: comment.value.trim() || null, by: "the page" };
    if (approve && args.value !== args.defaultValue) {
      decision.arguments = parsed(args.value, "what it is called with");
    }
    await post(`/approvals/${encodeURIComponent(form.dataset.approval)}`, JSON.stringify(decision));
    say(approve ? "Approved: the task goes on." : "Denied: the agent is told.");
  });
}

const WORDS = { approved: "Approved.", rejected: "Rejected.", done: "Kept as done.", edited: "Changed." };

async function review(form, button) {
  const verdict = button.value;
  await pending(button, async () => {
    const said = { by: "the page", seen: form.dataset.seen, comment: form.elements.comment?.value.trim() || null };
    if (verdict === "approved" || verdict === "rejected") {
      said.approve = verdict === "approved";
    } else if (verdict === "done") {
      said.done = true;
    }
    const changes = verdict === "approved" || verdict === "edited" ? changesIn(form) : {};
    if (Object.keys(changes).length > 0) {
      said.changes = changes;
    } else if (verdict === "edited") {
      throw new Error("nothing was changed.");
    }
    await post(form.dataset.item, JSON.stringify(said));
    say(WORDS[verdict]);
  });
}

function changesIn(form) {
  const changes = {};
  for (const field of form.elements) {
    if (field.name && field.name !== "comment" && field.value !== field.defaultValue) {
      const text = field.value.trim();
      changes[field.name] = text === "" ? null : "number" in field.dataset ? Number(text) : text;
    }
  }
  return changes;
}

function parsed(text, what = "the context") {
  try {
    return text.trim() === "" ? {} : JSON.parse(text);
  } catch (error) {
    throw new Error(`${what} is not JSON: ${error.message}`);
  }
}

async function pending(button, action) {
  if (button.ariaBusy === "true") {
    return;
  }
  button.ariaBusy = "true";
  try {
    await action();
  } catch (error) {
    say(`Not done: ${error.message}`, null, true);
  }
  await new Promise((resolve) => setTimeout(resolve, AFTER_EVENT));
  await refresh();
  button.removeAttribute("aria-busy");
}

async function changeTime(button) {
  const about = button.lastChild.textContent.trim();
  const { put: path, cron } = button.dataset;
  const dialog = document.getElementById("time");
  const field = dialog.querySelector("input");
  field.value = cron;
  if ((await closed(dialog)) !== "yes") {
    return;
  }
  const wanted = field.value.trim();
  await pending(button, async () => {
    const answer = await post(path, JSON.stringify({ cron: wanted || null }), {}, "PUT");
    say(`${about} runs ${(await answer.json()).schedule}.`);
  });
}

async function post(path, body = "{}", more = {}, method = "POST") {
  for (;;) {
    const token = sessionStorage.getItem("token");
    const headers = { "Content-Type": "application/json", ...more };
    if (token !== null) {
      headers.Authorization = `Bearer ${token}`;
    }
    const response = await send(path, { method, headers, body });
    if (response.ok) {
      return response;
    }
    if (response.status !== 401) {
      const problem = await response.json().catch(() => ({}));
      throw new Error(problem.detail ?? `the daemon answered ${response.status}.`);
    }
    sessionStorage.removeItem("token");
    const given = await askToken(token !== null);
    if (given === null) {
      throw new Error("it needs the token.");
    }
    sessionStorage.setItem("token", given);
  }
}

async function send(path, options) {
  try {
    return await fetch(path, { ...options, signal: AbortSignal.timeout(PATIENCE_OF_ACTIONS) });
  } catch {
    throw new Error("the daemon does not answer, so look whether it happened before you repeat it.");
  }
}

let hiding;

function say(text, link = null, isError = false) {
  const said = document.getElementById("said");
  const before = document.activeElement;
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "Close";
  close.onclick = () => {
    said.replaceChildren();
    (before.isConnected ? before : main).focus({ preventScroll: true });
  };
  const line = document.createElement("p");
  line.textContent = `${text} `;
  if (link !== null) {
    line.append(Object.assign(document.createElement("a"), { href: link.href, textContent: link.text }));
  }
  said.classList.toggle("bad", isError);
  said.replaceChildren(line, close);
  clearTimeout(hiding);
  if (!isError) {
    hiding = setTimeout(() => said.matches(":hover, :focus-within") || said.replaceChildren(), 10000);
  }
}

function closed(dialog) {
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
    dialog.returnValue = "no";
    dialog.showModal();
  });
}

async function confirmed(question, text, label) {
  const dialog = document.getElementById("ask");
  dialog.querySelector("h2").textContent = question;
  dialog.querySelector("p").textContent = text;
  dialog.querySelector("[value=yes]").textContent = label;
  return (await closed(dialog)) === "yes";
}

async function askToken(wasWrong) {
  const dialog = document.getElementById("token");
  const field = dialog.querySelector("input");
  document.getElementById("token-wrong").hidden = !wasWrong;
  field.value = "";
  // A header takes no other characters, so no token has them.
  field.pattern = "[!-~]+";
  const given = (await closed(dialog)) === "yes" ? field.value : null;
  field.value = "";
  return given;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  const link = event.target.closest("a[data-swap]");
  if (button?.dataset.post !== undefined) {
    act(button);
  } else if (button?.dataset.put !== undefined) {
    changeTime(button);
  } else if (button?.dataset.hold !== undefined) {
    hold(button);
  } else if (button?.type === "button" && button.closest("dialog")) {
    button.closest("dialog").close(button.value);
  } else if (link !== null && !(event.ctrlKey || event.metaKey || event.shiftKey)) {
    event.preventDefault();
    history.pushState(null, "", link.href);
    refresh();
  }
});

document.addEventListener("submit", (event) => {
  event.preventDefault();
  const dialog = event.target.closest("dialog");
  if (dialog !== null) {
    dialog.close("yes");
  } else if (event.target.dataset.item !== undefined) {
    review(event.target, event.submitter);
  } else if (event.target.dataset.approval !== undefined) {
    decide(event.target, event.submitter);
  } else {
    postTask(event.target);
  }
});

function hold(button) {
  const isHeld = !held.delete(button.dataset.hold);
  if (isHeld) {
    held.add(button.dataset.hold);
  }
  button.ariaPressed = String(isHeld);
  button.firstChild.data = isHeld ? "Go on with" : "Pause";
  refreshSoon();
}

addEventListener("popstate", refresh);
adopt(main);
icon.dataset.shown = icon.getAttribute("href");
setInterval(tick, 1000);
listen();
plan(AT_LEAST_EVERY);
