// Elements. Text is always set as text: nothing that a user or a server says becomes markup.

// An element with content (nodes and texts) and attributes; a function is a listener, false and null leave one out
export function made(name, content = [], attributes = {}) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value !== false && value != null) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...[content].flat().filter((each) => each != null));
  return element;
}

export const byId = (id) => document.getElementById(id);

// Says something to everyone, screen readers included, for a few seconds; errors stay until they are closed
export function say(text, error = false) {
  const close = made("button", "×", { type: "button", class: "plain", "aria-label": "Close this message" });
  const note = made("p", [made("span", text), close], { class: error ? "note error" : "note" });
  close.addEventListener("click", () => note.remove());
  byId(error ? "alerts" : "notes").append(note);
  if (!error) setTimeout(() => note.remove(), 5000);
}

// A button whose action may fail: it is off meanwhile, and an error is shown
export function button(text, action, attributes = {}) {
  const element = made("button", text, { type: "button", ...attributes });
  element.addEventListener("click", async (event) => {
    element.disabled = true;
    try {
      await action(event);
    } catch (error) {
      say(error.message, true);
    } finally {
      element.disabled = false;
    }
  });
  return element;
}

// Sets the children of an element to these, in this order, without touching those that are in place, so that focus
// and running animations stay
export function arrange(parent, children) {
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, k) => {
    if (parent.children[k] !== child) parent.insertBefore(child, parent.children[k] ?? null);
  });
}

// Seconds as people say them
export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
