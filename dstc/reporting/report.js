(() => {
  const tools = document.getElementById("tools");
  if (!tools) return;
  const PER_PAGE = 24;
  const of = (name) => document.getElementById(name);
  const [search, told, none, curves, reason, flag, sort, order, grid, pager, back, next, place] =
    ["search", "told", "none", "curves", "reason", "flag", "sort", "order", "grid", "pager",
      "back", "next", "place"].map(of);
  const cards = [...grid.children];
  const keys = new Map(cards.map((card) => [card, JSON.parse(card.dataset.sort)]));
  const flags = new Map(cards.map((card) => [card, JSON.parse(card.dataset.flags)]));
  let fitting = cards;
  let page = 0;
  const unfold = (card, open) => {
    const details = card.querySelector("details");
    if (details) details.open = open;
  };
  // Only the cards of one page are in the document.
  const turn = (to) => {
    const pages = Math.max(1, Math.ceil(fitting.length / PER_PAGE));
    page = Math.min(Math.max(to, 0), pages - 1);
    grid.replaceChildren(...fitting.slice(page * PER_PAGE, (page + 1) * PER_PAGE));
    place.textContent = "page " + (page + 1) + " of " + pages;
    back.disabled = page === 0;
    next.disabled = page === pages - 1;
    pager.hidden = pages === 1;
  };
  const show = () => {
    const status = tools.querySelector("input[name=status]:checked").value;
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    fitting = cards.filter((card) => (!status || card.dataset.status === status)
      && (!reason.value || card.dataset.reason === reason.value)
      && (!flag.value || (flag.value === "*" ? flags.get(card).length > 0
        : flags.get(card).includes(flag.value)))
      && words.every((word) => card.dataset.search.includes(word)));
    order.disabled = !sort.value;
    const better = sort.selectedOptions[0].dataset.better;
    for (const option of order.options) {
      const end = !better ? "" : (option.value === "high") === (better === "higher")
        ? ", the best" : ", the worst";
      option.textContent = (option.value === "high" ? "highest" : "lowest") + end + " first";
    }
    if (sort.value) {
      const sign = order.value === "high" ? -1 : 1;
      // Rows without the number come last, whichever way.
      const value = (card) => keys.get(card)[sort.value];
      const last = (card) => value(card) === undefined;
      fitting.sort((a, b) => last(a) - last(b) || (last(a) ? 0 : sign * (value(a) - value(b))));
    }
    told.textContent = fitting.length === cards.length
      ? cards.length + " rows" : fitting.length + " of " + cards.length + " rows";
    none.hidden = fitting.length > 0;
    turn(0);
  };
  // Two images of a card lie over each other; the slider says how much of the upper one is seen.
  const compare = (card, lower, upper, label) => {
    const [below, above] = [lower, upper].map((name) =>
      card.querySelector(".images:not(.samples) [data-name=" + name + "] img"));
    if (!below || !above) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.className = "compare-button";
    button.setAttribute("aria-expanded", "false");
    above.closest("figure").querySelector("figcaption").append(button);
    let box = null;
    button.addEventListener("click", () => {
      if (box) {
        box.hidden = !box.hidden;
      } else {
        box = document.createElement("div");
        box.className = "compare";
        const [under, over] = [below, above].map((img) => img.cloneNode());
        const range = document.createElement("input");
        range.type = "range";
        range.value = "50";
        range.setAttribute("aria-label", "share of the " + upper + " that is seen, in percent");
        const cut = () => { over.style.clipPath = "inset(0 0 0 " + (100 - range.value) + "%)"; };
        range.addEventListener("input", (event) => { event.stopPropagation(); cut(); });
        cut();
        box.append(under, over, range);
        card.querySelector(".face").after(box);
      }
      button.setAttribute("aria-expanded", String(!box.hidden));
    });
  };
  cards.forEach((card) => {
    compare(card, "content", "result", "before / after");
    compare(card, "result", "beside", "overlay");
  });
  // An image fills the window; its file, which may have more pixels, is one more click away.
  const view = of("view");
  const [words, file] = ["span", "a"].map((name) => view.querySelector(name));
  const large = document.createElement("img");
  view.prepend(large);
  grid.addEventListener("click", (event) => {
    const open = event.target.closest(".open");
    if (!open || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const shown = open.querySelector("img");
    large.src = shown.src;
    large.alt = words.textContent = shown.alt;
    // Below 65 pixels it is told pixel by pixel.
    large.classList.toggle("small", Math.max(shown.naturalWidth, shown.naturalHeight) < 65);
    file.hidden = !open.href;
    file.href = open.getAttribute("href") || "";
    view.showModal();
  });
  view.addEventListener("click", (event) => { if (!event.target.closest("a")) view.close(); });
  curves.addEventListener("click", () => {
    const open = curves.getAttribute("aria-pressed") !== "true";
    curves.setAttribute("aria-pressed", String(open));
    fitting.forEach((card) => unfold(card, open));
  });
  back.addEventListener("click", () => turn(page - 1));
  next.addEventListener("click", () => turn(page + 1));
  tools.addEventListener("input", show);
  tools.hidden = false;
  show();
})();
