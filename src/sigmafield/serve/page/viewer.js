// One image, large, with its recipe and what can be done with it.

import { ask, exactJson, imageUrl } from "./api.js";
import { button, byId, duration, made, say } from "./dom.js";
import { change, startFrom } from "./form.js";
import { again, images, promptOf, remove } from "./jobs.js";

const FACTS = ["model", "sampler", "schedule", "steps", "cfg", "seed", "denoise", "guidance"];

let current = null; // [job, number of the output]

export async function showImage(job, n) {
  current = [job, n];
  const output = job.outputs[n];
  const url = await imageUrl(output.url);
  const picture = byId("viewer-image");
  Object.assign(picture, { src: url, alt: promptOf(job) });
  byId("viewer-prompt").textContent = promptOf(job);
  byId("viewer-facts").replaceChildren(...facts(job, output).flatMap(([key, value]) => [
    made("dt", key), made("dd", value),
  ]));
  byId("viewer-json").textContent = exactJson(job.recipe ?? job.workflow, 2);
  byId("viewer-tools").replaceChildren(...tools(job, output, url));
  const all = images();
  const at = all.findIndex(([each, k]) => each.id === job.id && k === n);
  byId("viewer-back").disabled = at <= 0;
  byId("viewer-next").disabled = at < 0 || at >= all.length - 1;
  if (!byId("viewer").open) byId("viewer").showModal();
}

function facts(job, output) {
  const recipe = job.recipe ?? {};
  const negative = recipe.negative ? [["negative", recipe.negative]] : [];
  const known = FACTS.filter((key) => ![undefined, null, ""].includes(recipe[key]) && !(key === "denoise" && !recipe.image));
  return [
    ...negative,
    ...known.map((key) => [key, typeof recipe[key] === "object" ? exactJson(recipe[key]) : String(recipe[key])]),
    ["size", `${output.width} × ${output.height}`],
    ["time", job.started ? duration(job.ended - job.started) : "–"],
  ];
}

function tools(job, output, url) {
  const done = (action) => async () => { await action(); byId("viewer").close(); };
  const recipe = job.kind === "recipe";
  return [
    recipe ? button("Again with another seed", done(async () => {
      await again(job, { seed: "random" });
      say("It is in the queue.");
    }), { class: "main" }) : button("Again", done(() => again(job, {})), { class: "main" }),
    recipe ? button("Again, changed", () => { byId("viewer").close(); change(job.recipe); }) : null,
    button("Start from this image", async () => {
      const blob = await (await ask("GET", output.url)).blob();
      byId("viewer").close();
      await startFrom(blob);
    }),
    made("a", "Download", { href: url, download: `${job.id}-${output.name.split("/").pop()}`, class: "button" }),
    button("Delete", done(() => remove(job))),
  ].filter(Boolean);
}

function step(by) {
  const all = images();
  const at = all.findIndex(([job, n]) => job.id === current[0].id && n === current[1]);
  const next = at < 0 ? undefined : all[at + by];
  if (next) showImage(...next);
}

export function openViewer() {
  const viewer = byId("viewer");
  byId("viewer-close").addEventListener("click", () => viewer.close());
  byId("viewer-back").addEventListener("click", () => step(-1));
  byId("viewer-next").addEventListener("click", () => step(1));
  byId("viewer-copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(byId("viewer-json").textContent);
      say("The recipe is in the clipboard.");
    } catch {
      getSelection().selectAllChildren(byId("viewer-json")); // without https there is no clipboard: copy by hand
    }
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
}
