"use strict";
const controls = document.getElementById("controls");
const cards = [...document.querySelectorAll("#cards > .card")];
const holds = (card, name, value) => card.dataset[name].includes(` ${value} `);

function filter() {
  const wanted = new FormData(controls);
  const kind = wanted.get("kind");
  let shown = 0;
  for (const card of cards) {
    const fits = holds(card, "kinds", kind)
      && (!wanted.get("class") || holds(card, "classes", wanted.get("class")))
      && (!wanted.get("reason") || holds(card, "reasons", wanted.get("reason")))
      && (!wanted.get("split") || card.dataset.split === wanted.get("split"));
    card.hidden = !fits;
    shown += fits;
  }
  for (const about of document.querySelectorAll("[data-kind]")) about.hidden = about.dataset.kind !== kind;
  document.body.classList.toggle("no-labels", !wanted.has("labels"));
  document.getElementById("shown").textContent = shown === 1 ? "1 image" : `${shown} images`;
  document.getElementById("none").hidden = shown > 0;
}

controls.addEventListener("input", filter);
controls.addEventListener("submit", (event) => event.preventDefault());
filter();

const large = document.getElementById("large");
document.getElementById("cards").addEventListener("click", (event) => {
  const open = event.target.closest(".open");
  if (!open) return;
  const place = large.querySelector("div");
  place.replaceChildren(...open.closest(".card").cloneNode(true).children);
  const button = place.querySelector(".open");
  button.replaceWith(...button.children);
  large.showModal();
});
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
