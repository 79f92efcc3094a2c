// One button shows or hides all code that a reader may skip; the choice holds for all pages.
// A page runs this right after its title, before it is painted, so that nothing moves.
(() => {
  const KEY = "kanlib-code";
  const read = () => {
    try { return localStorage.getItem(KEY) === "shown"; } catch { return false; }
  };
  const write = (shown) => {
    try { localStorage.setItem(KEY, shown ? "shown" : "hidden"); } catch { /* a private window */ }
  };
  const title = document.querySelector(".bd-article h1");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "code-toggle";
  const draw = (shown) => {
    document.documentElement.classList.toggle("fold-code", !shown);
    document.querySelectorAll(".bd-article details.above-input").forEach((d) => { d.open = shown; });
    button.textContent = shown ? "Hide code" : "Show all code";
    button.setAttribute("aria-pressed", String(shown));
  };
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    write(shown);
    draw(shown);
  });
  draw(read());
  title.after(button);
  document.addEventListener("DOMContentLoaded", () => draw(read()));
})();
