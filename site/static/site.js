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
addEventListener("load", reach);
addEventListener("resize", reach);
