// Jobs that have not ended: where they are, what they look like by now, and what can be done with them.

import { arrange, button, byId, duration, made } from "./dom.js";
import { ENDED, all, prioritise, promptOf, steer } from "./jobs.js";

const cards = new Map();
const ORDER = { running: 0, queued: 1, paused: 2 };
const SYMBOL = { running: "▶", queued: "…", paused: "❚❚" };

export function showQueue() {
  const open = all().filter((job) => !ENDED.includes(job.status));
  open.sort((a, b) => ORDER[a.status] - ORDER[b.status] || b.priority - a.priority || a.created - b.created);
  for (const id of cards.keys()) if (!open.some((job) => job.id === id)) cards.delete(id);
  arrange(byId("queue"), open.map((job) => showJob(job)));
  byId("queue-count").textContent = open.length ? String(open.length) : "";
  byId("queue-empty").hidden = open.length > 0;
}

// The card of a job, as it is now
export function showJob(job) {
  if (!cards.has(job.id)) cards.set(job.id, cardOf(job.id));
  const card = cards.get(job.id);
  card.update(job);
  return card.element;
}

function cardOf(id) {
  let job;
  const picture = made("img", [], { alt: "", hidden: true });
  const prompt = made("p", [], { class: "prompt" });
  const status = made("span", [], { class: "status" });
  const where = made("span", [], { class: "hint" });
  const bar = made("progress", [], { max: 1, "aria-label": "Progress" });
  const priority = made("output", [], { class: "number", title: "Priority" });
  const pause = button("Pause", () => steer(job, job.status === "paused" ? "resume" : "pause"));
  const tools = made("div", [
    pause,
    button("Cancel", () => steer(job, "cancel")),
    made("span", [
      button("▼", () => prioritise(job, job.priority - 1), { "aria-label": "Lower the priority", class: "small" }),
      priority,
      button("▲", () => prioritise(job, job.priority + 1), { "aria-label": "Raise the priority", class: "small" }),
    ], { class: "stepper", role: "group", "aria-label": "Priority" }),
  ], { class: "tools" });
  const line = made("p", [status, where], { class: "where" });
  const element = made("li", [made("div", picture, { class: "preview" }), made("div", [prompt, line, bar, tools], { class: "body" })], {
    class: "job", "data-job": id,
  });

  const update = (now) => {
    job = now;
    element.dataset.status = job.status;
    prompt.textContent = prompt.title = promptOf(job);
    status.textContent = `${SYMBOL[job.status] ?? ""} ${job.status}`;
    where.textContent = whereIs(job);
    if (job.preview && picture.src !== job.preview) picture.src = job.preview;
    picture.hidden = !job.preview;
    bar.value = job.progress;
    bar.hidden = job.status === "queued" && !job.step;
    pause.textContent = job.status === "paused" ? "Resume" : "Pause";
    priority.textContent = String(job.priority);
    for (const each of [pause, ...tools.querySelectorAll("button")]) {
      each.setAttribute("aria-description", promptOf(job));
    }
  };
  return { element, update };
}

function whereIs({ step, steps, label, left, status }) {
  const parts = [
    steps ? `step ${step} of ${steps}` : "",
    label,
    left && status === "running" ? `${duration(left)} left` : "",
  ];
  return parts.filter(Boolean).join(" · ");
}
