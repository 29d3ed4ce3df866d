"use strict";
const token = new URLSearchParams(location.search).get("token");
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
let item = null; // the item on the page
let chosen = null; // the label that a verdict is about
let busy = false;

async function request(path, body) {
  const options = { headers: { "X-Token": token } };
  if (body !== undefined) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function showState(state) {
  byId("done").textContent = `${state.done} of ${state.items}`;
  byId("bar").max = state.items;
  byId("bar").value = state.done;
  const p = state.precision;
  if (!p) return;
  const width = p.needed[1];
  byId("precision").textContent = p.verdicts
    ? `label precision ${percent(p.share)} (${percent(p.low)} to ${percent(p.high)}), ${p.verdicts} verdicts`
    : `${width[1]} verdicts give ± ${percent(width[0])}`;
}

async function show(index) {
  const isEnd = index === null;
  document.querySelector("main").hidden = isEnd;
  byId("end").hidden = !isEnd;
  item = null;
  if (isEnd) return;
  const next = await request(`items/${index}`);
  byId("image").src = `images/${next.image_id}?token=${encodeURIComponent(token)}`;
  await byId("image").decode().catch(() => {});
  byId("stage").style.setProperty("--ratio", next.width / next.height);
  item = next;
  chosen = next.focus ?? (next.labels.length === 1 ? next.labels[0].instance : null);
  draw();
}

function draw() {
  const labels = byId("labels");
  labels.setAttribute("viewBox", `0 0 ${item.width} ${item.height}`);
  labels.replaceChildren(...item.labels.map((label) => {
    const group = document.createElementNS(SVG, "g");
    group.style.setProperty("--c", label.colour);
    if (label.instance === chosen) group.classList.add("focus");
    for (const kind of ["under", "over"]) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", kind);
      path.setAttribute("d", label.path);
      group.append(path);
    }
    if (label.instance === chosen) {
      const [x0, y0, x1, y1] = label.box;
      const box = document.createElementNS(SVG, "rect");
      for (const [name, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) box.setAttribute(name, value);
      group.append(box);
    }
    return group;
  }));
  const label = item.labels.find((one) => one.instance === chosen);
  const question = byId("question");
  question.replaceChildren();
  if (item.instance !== null) question.append("Is ", named(label.name), " right, and does the mask fit?");
  else question.append("Is this image good, with all its labels?");
  byId("names").replaceChildren(...item.labels.map((one, i) => {
    const button = document.createElement("button");
    const dot = document.createElement("i");
    dot.style.setProperty("--c", one.colour);
    if (item.instance === null) button.append(key(String(i + 1)));
    button.append(dot, named(one.name));
    if (one.note) button.append(noted(one.note));
    button.classList.toggle("chosen", one.instance === chosen);
    button.disabled = item.instance !== null;
    button.addEventListener("click", () => choose(one.instance));
    return button;
  }));
  const facts = { image: `#${item.image_id}, ${item.split}`, state: [item.verdict, ...item.reasons].join(", ") };
  if (label) for (const [name, value] of Object.entries(label.scores)) facts[name.replaceAll("_", " ")] = value.toFixed(3);
  byId("facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => {
    const [dt, dd] = ["dt", "dd"].map((tag) => document.createElement(tag));
    dt.textContent = name;
    dd.textContent = value;
    return [dt, dd];
  }));
  byId("prompt").textContent = item.prompt;
  byId("message").textContent = "";
}

function named(text) {
  const name = document.createElement("bdi");
  name.textContent = text;
  return name;
}

function noted(text) {
  const note = document.createElement("small");
  note.textContent = text;
  return note;
}

function key(text) {
  const made = document.createElement("kbd");
  made.textContent = text;
  return made;
}

function choose(instance) {
  if (item && item.instance === null) { chosen = instance; draw(); }
}

async function once(work) {
  if (busy) return;
  busy = true;
  document.body.setAttribute("aria-busy", "true");
  try { await work(); } catch (error) { byId("message").textContent = `not saved: ${error.message}`; }
  busy = false;
  document.body.setAttribute("aria-busy", "false");
}

const sendVerdict = (verdict, category = null) => once(async () => {
  if (!item) return;
  const labelled = verdict === "wrong_class" || verdict === "bad_mask";
  if (labelled && chosen === null) { byId("message").textContent = "choose a label first: press its number"; return; }
  const state = await request("verdicts", { item: item.item, verdict, instance: labelled ? chosen : null, category_id: category });
  showState(state);
  await show(state.next);
});

const undo = () => once(async () => {
  const state = await request("undo", {});
  showState(state);
  await show(state.undone ?? state.next);
});

const toggle = () => document.body.classList.toggle("off");

function pick() {
  if (!item || chosen === null) { byId("message").textContent = "choose a label first: press its number"; return; }
  byId("find").value = "";
  find();
  byId("classes").showModal();
  byId("find").focus();
}

function find() {
  const wanted = byId("find").value.trim().toLowerCase();
  for (const entry of byId("classes").querySelectorAll("li")) entry.hidden = !entry.textContent.toLowerCase().includes(wanted);
}

byId("find").addEventListener("input", find);
byId("find").addEventListener("keydown", (event) => {
  event.stopPropagation();
  if (event.key === "Enter") byId("classes").querySelector("li:not([hidden]) button")?.click();
});
byId("classes").addEventListener("click", (event) => {
  const button = event.target.closest("[data-category]");
  if (!button) return;
  byId("classes").close();
  sendVerdict("wrong_class", button.dataset.category ? Number(button.dataset.category) : null);
});

const act = (verdict) => (verdict === "wrong_class" ? pick() : sendVerdict(verdict));
byId("verdicts").addEventListener("click", (event) => {
  const button = event.target.closest("[data-verdict]");
  if (button) { button.blur(); act(button.dataset.verdict); }
});
byId("undo").addEventListener("click", undo);
byId("toggle").addEventListener("click", toggle);

const KEYS = { a: () => act("accept"), r: () => act("reject"), c: () => act("wrong_class"), m: () => act("bad_mask"), u: undo, l: toggle };
document.addEventListener("keydown", (event) => {
  if (byId("classes").open || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const number = Number(event.key);
  if (item && number >= 1 && number <= item.labels.length) choose(item.labels[number - 1].instance);
  else if (KEYS[event.key.toLowerCase()]) { event.preventDefault(); KEYS[event.key.toLowerCase()](); }
});

once(async () => {
  const state = await request("state");
  showState(state);
  await show(state.next);
});
