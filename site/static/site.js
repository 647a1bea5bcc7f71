"use strict";
// What scrolls sideways can be reached and named without a mouse.
function reach() {
  for (const box of document.querySelectorAll("article :is(pre, .output, .cell_output, .table-wrapper, div.math)")) {
    const scrolls = box.scrollWidth > box.clientWidth + 1;
    if (!scrolls && !box.dataset.scrolls) continue;
    box.toggleAttribute("tabindex", false);
    if (scrolls) {
      box.tabIndex = 0;
      box.dataset.scrolls = "yes";
    }
  }
}
// Sphinx calls the captions of the side bar headings, and does not say of which level.
addEventListener("load", () => {
  for (const caption of document.querySelectorAll("p.caption[role=heading]")) caption.setAttribute("aria-level", "2");
  reach();
});
addEventListener("resize", reach);
