// A click on a frame, or Enter, widens it; the arrow keys lead from frame to frame.
"use strict";
const graph = document.querySelector(".flame");
const all = [...graph.querySelectorAll("g[data-x]")].map((node) => ({
  node, x: +node.dataset.x, w: +node.dataset.w, depth: +node.dataset.d, title: node.querySelector("title").textContent,
}));
const picked = document.getElementById("picked"), tiny = 1e-6;
let here = all[0];
const over = (one, other) => one.x <= other.x + tiny && one.x + one.w + tiny >= other.x + other.w;
function zoom(frame) {
  for (const each of all) {
    const around = each.depth < frame.depth && over(each, frame);
    each.node.style.display = around || over(frame, each) && each.depth >= frame.depth ? "" : "none";
    const left = around ? 0 : (each.x - frame.x) / frame.w * 100, width = around ? 100 : each.w / frame.w * 100;
    for (const part of each.node.querySelectorAll("rect, svg")) {
      part.setAttribute("x", left + "%");
      part.setAttribute("width", width + "%");
    }
  }
  step(frame);
}
function step(frame) {
  if (!frame || frame.node.style.display === "none") { return; }
  here.node.classList.remove("here");
  frame.node.classList.add("here");
  here = frame;
  picked.textContent = frame.title;
}
const row = (depth) => all.filter((each) => each.depth === depth && each.node.style.display !== "none").sort((a, b) => a.x - b.x);
const ways = {
  ArrowUp: () => step(row(here.depth - 1).find((each) => over(each, here))),
  ArrowDown: () => step(row(here.depth + 1).filter((each) => over(here, each)).sort((a, b) => b.w - a.w)[0]),
  ArrowLeft: () => step(row(here.depth)[row(here.depth).indexOf(here) - 1]),
  ArrowRight: () => step(row(here.depth)[row(here.depth).indexOf(here) + 1]),
  Enter: () => zoom(here),
  Escape: () => zoom(all[0]),
};
graph.addEventListener("keydown", (event) => {
  if (ways[event.key]) { event.preventDefault(); ways[event.key](); }
});
for (const frame of all) { frame.node.addEventListener("click", () => zoom(frame)); }
