// Fetches the page again every two seconds while it is looked at, and swaps its middle.
"use strict";
(function () {
  function once() {
    if (document.hidden) { return; }
    fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" })
      .then(function (response) { if (!response.ok) { throw new Error(response.status); } return response.text(); })
      .then(function (text) {
        var fresh = new DOMParser().parseFromString(text, "text/html");
        ["state", "main"].forEach(function (id) {
          document.getElementById(id).replaceWith(document.importNode(fresh.getElementById(id), true));
        });
        document.title = fresh.title;
        document.body.classList.remove("stale");
      })
      .catch(function () { document.body.classList.add("stale"); });
  }
  setInterval(once, 2000);
})();
