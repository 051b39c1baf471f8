// By keyboard: groups that are one stop of the Tab key each, and shortcuts.

import { whenShown } from "./page.js";

const STOPS = "a[href], button, summary";
const STEPS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };

// In a group the arrow keys lead from one to the next, so that who goes on with Tab need not pass all.

function stops(group) {
  return [...group.querySelectorAll(STOPS)].filter((each) => each.checkVisibility());
}

whenShown(() => {
  for (const group of document.querySelectorAll("[data-group]")) {
    const all = stops(group);
    const entry = all.find((each) => each === document.activeElement) ?? all[0];
    for (const each of all) {
      each.tabIndex = each === entry ? 0 : -1;
    }
  }
  for (const table of document.querySelectorAll(".table")) { // to be scrolled by keyboard, where it scrolls
    table.tabIndex = table.scrollWidth > table.clientWidth ? 0 : -1;
  }
});

document.addEventListener("focusin", (event) => {
  const group = event.target.closest("[data-group]");
  for (const each of group === null || !event.target.matches(STOPS) ? [] : stops(group)) {
    each.tabIndex = each === event.target ? 0 : -1;
  }
});

// Up and down go from row to row, where there are rows.
function neighbour(all, from, key) {
  const step = STEPS[key];
  const place = all.indexOf(from);
  const row = key === "ArrowUp" || key === "ArrowDown" ? from.closest("tbody[data-group] tr") : null;
  if (row === null) {
    return step && all[place + step];
  }
  const others = all.filter((each) => each.closest("tr") !== row && Math.sign(all.indexOf(each) - place) === step);
  const next = (step > 0 ? others[0] : others.at(-1))?.closest("tr");
  return all.find((each) => each.closest("tr") === next);
}

function moveInGroup(event) {
  const group = event.target.closest("[data-group]");
  if (group === null || !event.target.matches(STOPS)) {
    return;
  }
  const all = stops(group);
  const ends = { Home: all[0], End: all.at(-1) };
  const next = ends[event.key] ?? neighbour(all, event.target, event.key);
  if (next) {
    event.preventDefault();
    next.focus();
  }
}

// Shortcuts. None of them has a modifier, so none is one of the browser's.

const GO = { o: "/", t: "/ui/tasks", w: "/ui/drafts", a: "/ui/approvals", c: "/ui/charts" };
let began = null; // "g", of which the second key is awaited

function isTyping(target) {
  return target.matches("input, select, textarea") || target.isContentEditable;
}

function focusSearch() {
  const field = document.querySelector("#search input");
  if (field === null) {
    location.assign("/ui/tasks#find");
  } else {
    field.focus();
    field.select();
  }
}

function shortcut(event) {
  const first = began;
  began = null;
  if (first === "g" && GO[event.key] !== undefined) {
    location.assign(GO[event.key]);
  } else if (event.key === "g") {
    began = "g";
  } else if (event.key === "?") {
    document.getElementById("keys").showModal();
  } else if (event.key === "/") {
    event.preventDefault();
    focusSearch();
  } else if (event.key === "n") {
    event.preventDefault();
    const field = document.querySelector("#post [name=goal]");
    if (field === null) {
      location.assign("/#new");
    } else {
      field.focus();
    }
  } else {
    moveInGroup(event);
  }
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.form) {
    event.preventDefault();
    event.target.form.requestSubmit(event.target.form.querySelector("[type=submit]"));
  } else if (!(event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target))) {
    if (document.querySelector("dialog[open]") === null) {
      shortcut(event);
    }
  }
});

document.addEventListener("click", (event) => {
  if (event.target.closest("#show-keys") !== null) {
    document.getElementById("keys").showModal();
  }
});

// Not the names of elements: the browser would take the focus there, and so away from the field.
if (location.hash === "#find") {
  focusSearch();
} else if (location.hash === "#new") {
  document.querySelector("#post [name=goal]")?.focus();
}
