/* Tabs that switch together and are remembered, and links to the same place in the other language.

   The choice is an attribute of the root element, set before the page is drawn; page.css shows the panels
   of that tab. Without this file, every panel is shown under its name. */

(() => {
  const root = document.documentElement;
  let names = ["mxnet", "pytorch", "tensorflow", "jax"];
  const key = "d2l-adam-tab";

  function stored() {
    try {
      return localStorage.getItem(key);
    } catch {
      return null; // storage is switched off
    }
  }

  function choose(name, bar) {
    const before = bar?.getBoundingClientRect().top;
    root.dataset.tab = name;
    for (const tab of document.querySelectorAll("[role=tab]")) {
      tab.setAttribute("aria-selected", tab.dataset.name === name);
      tab.tabIndex = tab.dataset.name === name ? 0 : -1;
    }
    if (!bar) return;
    scrollBy({ top: bar.getBoundingClientRect().top - before, behavior: "instant" });
    try {
      localStorage.setItem(key, name);
    } catch {
      // the choice lasts as long as the page
    }
  }

  function press(event) {
    const bar = event.currentTarget;
    const at = names.indexOf(event.target.dataset.name);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const name = names[(to + names.length) % names.length];
    choose(name, bar);
    bar.querySelector(`[data-name=${name}]`).focus({ preventScroll: true });
  }

  function equip(group, number) {
    const bar = document.createElement("div");
    bar.className = "tab-bar";
    bar.setAttribute("role", "tablist");
    bar.setAttribute("aria-label", root.lang === "ja" ? "フレームワーク" : "Framework");
    for (const name of names) {
      const panel = group.querySelector(`.tab.${name}`);
      const tab = document.createElement("button");
      tab.type = "button";
      tab.setAttribute("role", "tab");
      tab.id = `tab-${number}-${name}`;
      tab.dataset.name = name;
      tab.textContent = panel.querySelector(".tab-name").textContent;
      panel.id = `panel-${number}-${name}`;
      panel.tabIndex = 0;
      panel.setAttribute("role", "tabpanel");
      tab.setAttribute("aria-controls", panel.id);
      panel.setAttribute("aria-labelledby", tab.id);
      tab.addEventListener("click", () => choose(name, bar));
      bar.append(tab);
    }
    bar.addEventListener("keydown", press);
    group.prepend(bar);
  }

  /* The fragment of the address while its target is in view, else that of the section being read. */
  function place() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const top = target && target.getBoundingClientRect().top;
    if (target && top > -1 && top < innerHeight) return location.hash;
    const begun = [...document.querySelectorAll("article section section[id]")].filter(
      (section) => section.getBoundingClientRect().top < innerHeight / 3,
    );
    return begun.length ? `#${begun.at(-1).id}` : "";
  }

  /* Formulas and figures grow while the page loads; then go to the fragment again, if the reader has not moved. */
  async function settle() {
    const [opened] = performance.getEntriesByType("navigation");
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (opened.type !== "navigate" || !target) return;
    let moved = false;
    for (const kind of ["wheel", "touchstart", "pointerdown", "keydown"]) {
      addEventListener(kind, () => (moved = true), { once: true, passive: true });
    }
    await new Promise((resolve) => addEventListener("load", resolve));
    await window.MathJax?.startup?.promise;
    if (!moved) target.scrollIntoView();
  }

  root.dataset.tab = names.includes(stored()) ? stored() : "pytorch";
  document.addEventListener("DOMContentLoaded", () => {
    names = names.filter((name) => document.querySelector(`.tab.${name}`)); // a page may be made with fewer
    document.querySelectorAll(".tabs").forEach(equip);
    choose(names.includes(root.dataset.tab) ? root.dataset.tab : (names.at(-1) ?? root.dataset.tab));
    for (const link of document.querySelectorAll(".other-language")) {
      for (const kind of ["click", "auxclick"]) {
        link.addEventListener(kind, () => {
          link.hash = place();
        });
      }
    }
    settle();
  });

  // What is folded is printed, too.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const details of folded) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of folded) details.open = false;
  });
})();
