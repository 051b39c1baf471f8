// Searching the tasks, and doing something about all that were found.
//
// What is searched for stands in the address alone: the server does not repeat it, for secrets are
// taken out of what it shows, and what is missing from a repetition would tell one.

import { confirmed, pending, post, say } from "./actions.js";
import { refresh, whenShown } from "./page.js";

const SEARCHED = ["q", "since", "until"];
const FILTER = ["agent_type", "status", ...SEARCHED];

function wanted() {
  return new URLSearchParams(location.search);
}

whenShown(() => {
  for (const link of document.querySelectorAll("a[data-searched]")) {
    const [path, query] = link.getAttribute("href").split("?");
    const shown = new URLSearchParams(query);
    for (const name of SEARCHED.filter((each) => wanted().has(each))) {
      shown.set(name, wanted().get(name));
    }
    link.setAttribute("href", shown.size ? `${path}?${shown}` : path);
  }
});

function fillIn() {
  const form = document.getElementById("search");
  for (const name of form === null ? [] : SEARCHED) {
    form.elements[name].value = wanted().get(name) ?? "";
    form.elements[name].dataset.filled = form.elements[name].value; // a day, or nothing of a moment
  }
}

function search(form) {
  const address = wanted();
  address.delete("cursor");
  for (const name of SEARCHED) {
    const { value, dataset } = form.elements[name];
    if (value === dataset.filled) {
      continue;
    }
    if (value.trim() === "") {
      address.delete(name);
    } else {
      address.set(name, value.trim());
    }
  }
  history.pushState(null, "", `/ui/tasks${address.size ? `?${address}` : ""}`);
  fillIn();
  refresh();
}

const VERBS = {
  retry: { label: "Retry", done: "queued again", none: "No task that failed or was cancelled is like that." },
  cancel: { label: "Cancel", done: "cancelled, or asked to end", none: "No task that waits or runs is like that." },
};

const LOST = {
  retry: "They begin anew, and may do again what they have done.",
  cancel: "What they have changed already stays; the rest is not done.",
};

async function inBulk(button) {
  const verb = button.dataset.bulk;
  const filter = Object.fromEntries([...wanted()].filter(([name]) => FILTER.includes(name)));
  const { label, done, none } = VERBS[verb];
  const ask = async (more) => {
    const answer = await post(`/tasks/${verb}`, JSON.stringify({ ...filter, ...more }));
    return (await answer.json()).tasks;
  };
  const found = await counting(button, () => ask({ dry_run: true }));
  if (found === 0) {
    say(none);
  }
  if (!found) {
    return;
  }
  const most = found === 1000 ? " They are the oldest; more are left for another time." : "";
  const what = `${inWords(filter)}. ${LOST[verb]}${most}`;
  if (await confirmed(`${label} ${counted(found)}?`, what, `${label} ${counted(found)}`)) {
    await pending(button, async () => say(`${counted(await ask({ limit: found }))}: ${done}.`));
  }
}

async function counting(button, count) {
  if (button.ariaBusy === "true") {
    return null;
  }
  button.ariaBusy = "true";
  try {
    return await count();
  } catch (error) {
    say(`Not done: ${error.message}`, null, true);
    return null;
  } finally {
    button.removeAttribute("aria-busy");
  }
}

function counted(number) {
  return number === 1 ? "1 task" : `${number} tasks`;
}

function inWords({ status, agent_type, q, since, until }) {
  const said = [
    status ? `that are ${status}` : "of any status",
    agent_type ? `of ${agent_type}` : "of any agent",
    q ? `with “${q}” in them` : "",
    since ? `from ${since} on` : "",
    until ? `until ${until}` : "",
  ];
  return `All tasks ${said.filter(Boolean).join(", ")}`;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-bulk]");
  if (button !== null) {
    inBulk(button);
  } else if (event.target.closest("a[data-swap]") !== null) {
    fillIn();
  }
});

document.addEventListener("submit", (event) => {
  if (event.target.id === "search") {
    event.preventDefault();
    search(event.target);
  }
});

addEventListener("popstate", fillIn);
fillIn();
