// Keys, what is alive on a page, and the photo of a point of the map. Pages work without it.
"use strict";

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const find = document.getElementById("find");
  if (event.key === "/" && find) { event.preventDefault(); find.focus(); find.select(); }
  const rel = {ArrowLeft: "prev", ArrowRight: "next"}[event.key];
  const link = rel && document.querySelector(`a[rel=${rel}]`);
  if (link) link.click();
});

const now = document.querySelector("[data-from]");
if (now) setInterval(async () => {
  try {
    const reply = await fetch(now.dataset.from);
    if (!reply.ok) return;
    if (reply.headers.has("X-Whole-Page")) { location.reload(); return; }
    const fresh = new DOMParser().parseFromString(await reply.text(), "text/html");
    now.replaceChildren(...fresh.body.childNodes);
  } catch { /* the site has gone: what was seen last stays */ }
}, 1000 * Number(now.dataset.every));

const preview = document.getElementById("preview");
if (preview) {
  const show = event => {
    const link = event.target.closest && event.target.closest("a[data-image]");
    if (!link || preview.dataset.of === link.dataset.image) return;
    preview.dataset.of = link.dataset.image;
    const photo = new Image(), name = document.createElement("p");
    photo.src = `/photo/${link.dataset.image}.jpg?side=256`;
    photo.alt = name.textContent = link.dataset.name;
    preview.replaceChildren(photo, name);
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("focusin", show);
}

for (const frame of document.querySelectorAll("iframe[data-tall]")) frame.addEventListener("load", () => {
  frame.style.height = `${frame.contentDocument.documentElement.scrollHeight + 20}px`;
});
