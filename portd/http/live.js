// Fetches the page again every two seconds while it is looked at, and brings what is shown up to date, piece by piece, so
// that focus, selection and scroll stay; shows the figures of a plot at the pointer, or where the arrow keys have led.
"use strict";
(function () {
  function renew(old, fresh) {
    if (old.nodeName !== fresh.nodeName) {
      old.replaceWith(document.importNode(fresh, true));
      return;
    }
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) { old.data = fresh.data; }
      return;
    }
    for (const each of [...old.attributes]) { if (!fresh.hasAttribute(each.name)) { old.removeAttribute(each.name); } }
    for (const each of fresh.attributes) {
      if (old.getAttribute(each.name) !== each.value && !(old.nodeName === "INPUT" && each.name === "value")) {
        old.setAttribute(each.name, each.value);
      }
    }
    const others = [...fresh.childNodes];
    [...old.childNodes].forEach((child, place) => place < others.length ? renew(child, others[place]) : child.remove());
    for (const each of others.slice(old.childNodes.length)) { old.append(document.importNode(each, true)); }
  }
  let looked = null;  // the plot that is looked at, and which of its points
  function show(figure, point) {
    const points = figure.dataset.points.split(";"), last = points.length - 1;
    point = Math.max(0, Math.min(last, point));
    const [at, clock, ...words] = points[point].split("|");
    const marks = figure.querySelectorAll(".legend b"), input = figure.querySelector("input");
    marks.forEach((mark, place) => { mark.textContent = words[place]; });
    figure.querySelector("time").textContent = clock;
    figure.querySelector(".area").style.setProperty("--at", at * 100 + "%");
    input.value = point;
    const names = [...figure.querySelectorAll(".legend .line0, .legend .line1")].map((each) => each.textContent);
    input.setAttribute("aria-valuetext", clock + ", " + names.join(", "));
    figure.classList.add("looked");
  }
  function leave(figure) {
    if (figure.querySelector("input") === document.activeElement) { return; }
    show(figure, Infinity);
    figure.classList.remove("looked");
    looked = null;
  }
  function nearest(figure, share) {
    const places = figure.dataset.points.split(";").map((each) => Math.abs(parseFloat(each) - share));
    return places.indexOf(Math.min(...places));
  }
  function look(figure, point) { looked = { figure, point }; show(figure, point); }
  function plot(event) { return event.target.closest && event.target.closest(".area") && event.target.closest(".plot"); }
  document.addEventListener("pointermove", (event) => {
    const figure = plot(event);
    if (looked && looked.figure !== figure) { leave(looked.figure); }
    if (!figure) { return; }
    const area = figure.querySelector(".area").getBoundingClientRect();
    look(figure, nearest(figure, (event.clientX - area.left) / area.width));
  });
  document.addEventListener("pointerdown", (event) => { if (plot(event)) { event.preventDefault(); } });
  document.documentElement.addEventListener("pointerleave", () => { if (looked) { leave(looked.figure); } });
  document.addEventListener("focusin", (event) => { const figure = plot(event); if (figure) { look(figure, +event.target.value); } });
  document.addEventListener("focusout", (event) => { const figure = plot(event); if (figure) { setTimeout(leave, 0, figure); } });
  document.addEventListener("input", (event) => { const figure = plot(event); if (figure) { look(figure, +event.target.value); } });
  function once() {
    if (document.hidden) { return; }
    fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" })
      .then(function (response) { if (!response.ok) { throw new Error(response.status); } return response.text(); })
      .then(function (text) {
        const fresh = new DOMParser().parseFromString(text, "text/html");
        ["state", "main"].forEach((id) => renew(document.getElementById(id), fresh.getElementById(id)));
        document.title = fresh.title;
        document.body.classList.remove("stale");
        document.getElementById("stale").textContent = "";
        if (looked && looked.figure.isConnected) { show(looked.figure, looked.point); }
      })
      .catch(function () {
        document.body.classList.add("stale");
        document.getElementById("stale").textContent = "no answer, trying again";
      });
  }
  document.body.classList.add("live");
  setInterval(once, 2000);
})();
