// The address of a page, requested as an event stream, sends the live part of the page after every change. Without this script a page
// stays as it was when it was loaded.
(() => {
  const live = document.querySelector("[data-live]");
  if (!live || !window.EventSource) return;
  const lost = document.getElementById("lost");
  let waiting = null;

  // A field that the visitor has changed must not be replaced; open details, the focus and the scroll position are kept.
  const busy = () => {
    const at = document.activeElement;
    return at && live.contains(at) && at.matches("input, select, textarea") && at.value !== at.defaultValue;
  };
  const key = (element) => element.id ? "#" + CSS.escape(element.id) :
    element.getAttribute("href") ? `a[href="${CSS.escape(element.getAttribute("href"))}"]` : null;

  const put = (html) => {
    if (busy()) { waiting = html; return; }
    waiting = null;
    const focused = live.contains(document.activeElement) ? key(document.activeElement) : null;
    const details = () => [...live.querySelectorAll("details")].map((d, i) => [d.dataset.key ?? i, d]); // one with a key keeps it when others come before it
    const open = new Map(details().map(([k, d]) => [k, d.open]));
    const scrolled = [...live.querySelectorAll(".scroll")].map((s) => s.scrollLeft);
    live.innerHTML = html;
    details().forEach(([k, d]) => { if (open.has(k)) d.open = open.get(k); });
    live.querySelectorAll(".scroll").forEach((s, i) => { if (i < scrolled.length) s.scrollLeft = scrolled[i]; });
    if (focused) live.querySelector(focused)?.focus({ preventScroll: true });
  };

  live.addEventListener("focusout", () => setTimeout(() => { if (waiting !== null) put(waiting); }));
  const source = new EventSource(location.href);
  source.onmessage = (event) => { lost.hidden = true; live.dataset.live = "on"; put(event.data); };
  source.onerror = () => { if (source.readyState !== EventSource.CLOSED) lost.hidden = false; };
  addEventListener("pagehide", () => source.close());
})();
