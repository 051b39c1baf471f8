// What is done from the page: buttons, forms, questions before what may lose something.

import { AFTER_EVENT, held, main, refresh, refreshSoon } from "./page.js";

const PATIENCE_OF_ACTIONS = 10000; // ms

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
  const { agent_type, goal, priority, context, max_attempts, timeout } = form.elements;
  const sent = { goal: goal.value, context: context.value };
  await pending(form.querySelector("button[type=submit]"), async () => {
    const body = JSON.stringify({
      agent_type: agent_type.value,
      goal: sent.goal,
      priority: Number(priority.value),
      context: parsed(sent.context),
      max_attempts: Number(max_attempts.value),
      timeout: timeout.value === "" ? null : Number(timeout.value),
    });
    // After a lost answer the same again is the same task, and no second one.
    if (form.dataset.body !== body) {
      form.dataset.body = body;
      form.dataset.idempotency = [...crypto.getRandomValues(new Uint32Array(4))].join("-");
    }
    const task = await (await post("/agents/task", body, { "Idempotency-Key": form.dataset.idempotency })).json();
    delete form.dataset.body;
    for (const field of form.id === "post" ? [goal, context] : []) {
      if (field.value === sent[field.name]) {
        field.value = "";
      }
    }
    const link = { href: `/ui/tasks/${encodeURIComponent(task.id)}`, text: `task ${task.id}` };
    say(task.warning ? `${task.warning} Posted:` : "Posted:", link);
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

function parsed(text, what = "the context") {
  try {
    return text.trim() === "" ? {} : JSON.parse(text);
  } catch (error) {
    throw new Error(`${what} is not JSON: ${error.message}`);
  }
}

export async function pending(button, action) {
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

export async function post(path, body = "{}", more = {}, method = "POST") {
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

export function say(text, link = null, isError = false) {
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

export async function confirmed(question, text, label) {
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
  } else if (event.target.goal !== undefined) {
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
