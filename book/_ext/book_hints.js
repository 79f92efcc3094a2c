// Beside a link under the mouse, or with the focus: what it leads to.
(() => {
  const box = Object.assign(document.createElement("div"), {className: "hint", id: "hint", hidden: true});
  box.setAttribute("role", "tooltip");
  document.body.append(box);
  const WAIT = 250, WIDE = 420, GAP = 8;
  let timer = 0, owner = null;

  // A copy of what a link leads to, or null.
  const content = (link) => {
    const address = link.getAttribute("href");
    const entry = document.querySelector(`.hints [data-for="${CSS.escape(address)}"]`);
    if (entry) return entry.cloneNode(true);
    if (!address.startsWith("#")) return null;
    const target = document.getElementById(decodeURIComponent(address.slice(1)));
    if (target?.matches(".math")) return target.querySelector("mjx-container")?.cloneNode(true) ?? null;
    if (/^figure-\d+$/.test(target?.id ?? "") && !link.matches(".figure-number")) {
      const caption = document.querySelector(`.figure-number[href="${address}"]`)?.parentElement;
      return caption?.cloneNode(true) ?? null;
    }
    return null;
  };

  const hide = () => {
    clearTimeout(timer);
    owner?.removeAttribute("aria-describedby");
    owner = null;
    box.hidden = true;
  };

  const show = (link) => {
    const shown = content(link);
    if (!shown) return;
    for (const node of [shown, ...shown.querySelectorAll("[id]")]) node.removeAttribute("id");
    box.replaceChildren(shown);
    box.hidden = false;
    owner = link;
    link.setAttribute("aria-describedby", box.id);
    const place = link.getClientRects()[0], page = document.documentElement;
    box.style.maxWidth = `${Math.min(WIDE, page.clientWidth - 2 * GAP)}px`;
    const left = Math.min(place.left, page.clientWidth - box.offsetWidth - GAP);
    const above = place.bottom + GAP + box.offsetHeight > innerHeight && place.top > box.offsetHeight;
    box.style.left = `${scrollX + Math.max(GAP, left)}px`;
    box.style.top = `${scrollY + (above ? place.top - box.offsetHeight - GAP : place.bottom + GAP)}px`;
  };

  const enter = ({target}) => {
    const link = target.closest?.(".bd-article a[href*='#']");
    if (!link || link === owner) return;
    hide();
    timer = setTimeout(show, WAIT, link);
  };
  const leave = ({relatedTarget}) => {
    if (!relatedTarget || !(box.contains(relatedTarget) || owner?.contains(relatedTarget))) hide();
  };
  document.addEventListener("mouseover", enter);
  document.addEventListener("focusin", enter);
  document.addEventListener("mouseout", leave);
  document.addEventListener("focusout", leave);
  document.addEventListener("keydown", ({key}) => { if (key === "Escape") hide(); });
})();
