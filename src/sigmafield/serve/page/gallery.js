// Jobs that have ended: their images, or why there are none.

import { imageUrl } from "./api.js";
import { arrange, button, byId, made } from "./dom.js";
import { change } from "./form.js";
import { again, ended, hasMore, isShown, promptOf, remove } from "./jobs.js";
import { showImage } from "./viewer.js";

const tiles = new Map();
export function showGallery() {
  const shown = new Map();
  for (const job of ended()) {
    if (!job.outputs.length) shown.set(job.id, tiles.get(job.id) ?? without(job));
    job.outputs.forEach((output, n) => {
      const key = `${job.id}/${n}`;
      shown.set(key, tiles.get(key) ?? tile(job, n));
    });
  }
  tiles.clear();
  for (const [key, element] of shown) tiles.set(key, element);
  arrange(byId("gallery"), [...shown.values()]);
  byId("gallery-empty").hidden = shown.size > 0;
  byId("older").hidden = !hasMore();
}

function tile(job, n) {
  const output = job.outputs[n];
  if (!isShown(output)) return file(job, output);
  const picture = made("img", [], {
    alt: promptOf(job), loading: "lazy", decoding: "async", width: output.width || null, height: output.height || null,
  });
  imageUrl(output.url).then((url) => { picture.src = url; }, () => { picture.alt = "This image is gone."; });
  const open = made("button", picture, {
    type: "button", class: "picture", "aria-label": `Show image: ${promptOf(job)}`, title: promptOf(job),
    click: () => showImage(job, n),
  });
  return made("li", open, { class: "tile", "data-job": job.id });
}

function file(job, output) {
  const link = made("a", output.name, { download: output.name });
  imageUrl(output.url).then((url) => { link.href = url; });
  return made("li", [made("p", promptOf(job), { class: "prompt" }), link], { class: "tile text" });
}

// A job that has failed or was cancelled
function without(job) {
  const text = job.error ?? (job.status === "done" ? "It made no image." : "");
  const tools = [
    job.kind === "recipe" ? button("Change", () => change(job.recipe)) : null,
    button("Again", () => again(job, {})),
    button("Delete", () => remove(job)),
  ];
  return made("li", [
    made("p", promptOf(job), { class: "prompt", title: promptOf(job) }),
    made("p", [made("span", job.status, { class: "status" }), " ", text], { class: job.error ? "field-error" : "hint" }),
    made("div", tools, { class: "tools" }),
  ], { class: "tile text", "data-job": job.id, "data-status": job.status });
}
