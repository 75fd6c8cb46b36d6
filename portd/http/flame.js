"use strict";
const all = [...document.querySelectorAll("g[data-x]")];
const picked = document.getElementById("picked");
function zoom(frame) {
  const x = +frame.dataset.x, w = +frame.dataset.w, depth = +frame.dataset.d;
  for (const each of all) {
    const ex = +each.dataset.x, ew = +each.dataset.w, above = +each.dataset.d < depth;
    const inside = ex + 1e-6 >= x && ex + ew <= x + w + 1e-6;
    const around = above && ex <= x + 1e-6 && ex + ew + 1e-6 >= x + w;
    each.style.display = inside || around ? "" : "none";
    const left = around ? 0 : (ex - x) / w * 100, width = around ? 100 : ew / w * 100;
    for (const part of each.querySelectorAll("rect, svg")) {
      part.setAttribute("x", left + "%");
      part.setAttribute("width", width + "%");
    }
  }
  picked.textContent = frame.querySelector("title").textContent;
}
for (const frame of all) frame.addEventListener("click", () => zoom(frame));
