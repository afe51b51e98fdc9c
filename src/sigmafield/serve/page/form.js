// The form of a recipe: its fields come from the server's document, their choices from its catalogue.

import { Refused, get, parsed, exactJson, post } from "./api.js";
import { byId, made, say } from "./dom.js";
import { fieldOf, reveal } from "./fields.js";

// Entries that are seen without unfolding, and those of the input image; all others follow in the document's order
const FIRST = [
  "prompt", "negative", "model", "sampler", "schedule", "steps", "cfg", "seed", "width", "height", "batch",
];
const INPUT = ["image", "mask", "denoise"];
const DRAFT = "sigmafield.draft";
const isFilledIn = (name) => name === "version" || name.endsWith("_sha256");

const fields = new Map();

// Builds the form, with what was in it before the page was loaded again
export async function openForm(document_) {
  const schema = document_.components.schemas.Recipe.properties;
  const names = Object.keys(schema).filter((name) => !isFilledIn(name));
  const paths = [...new Set(names.map((name) => schema[name]["x-choices"]).filter(Boolean))];
  const rows = await Promise.all(paths.map(async (path) => [path, rowsOf(await get(path))]));
  const choices = Object.fromEntries(rows);
  const known = [...FIRST, ...INPUT];
  const places = { first: FIRST, input: INPUT, more: names.filter((name) => !known.includes(name)) };
  for (const [place, inside] of Object.entries(places)) {
    for (const name of inside) {
      fields.set(name, fieldOf(name, schema[name], choices));
      byId(place).append(fields.get(name).element);
    }
  }
  restore();
  const form = byId("form");
  form.addEventListener("submit", submit);
  form.addEventListener("input", keep);
  form.addEventListener("change", keep);
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  byId("reset").addEventListener("click", () => { fill({}); fields.get("prompt").input.focus(); });
  form.hidden = false;
}

// The list in an answer of the catalogue
const rowsOf = (answer) => Object.values(answer).find(Array.isArray);

function values() {
  const given = [...fields].map(([name, field]) => [name, field.get()]);
  return Object.fromEntries(given.filter(([, value]) => value !== undefined));
}

const keep = () => sessionStorage.setItem(DRAFT, exactJson(values()));

function restore() {
  let draft = {};
  try {
    draft = parsed(sessionStorage.getItem(DRAFT) ?? "{}");
  } catch { /* of another version of the page */ }
  fill(draft);
}

// Puts a recipe into the form
export function fill(recipe) {
  clearErrors();
  for (const [name, field] of fields) field.set(recipe[name] ?? undefined);
  byId("input").parentElement.open = Boolean(recipe.image);
  keep();
}

// Puts a recipe into the form, to be changed by a person
export function change(recipe) {
  fill(recipe);
  byId("form").scrollIntoView({ block: "start" });
  fields.get("prompt").input.focus();
}

// Uploads an image and makes it what the next one starts from
export async function startFrom(blob) {
  byId("input").parentElement.open = true;
  await fields.get("image").take(blob);
  byId("form").scrollIntoView({ block: "start" });
  fields.get("denoise").input.focus();
}

function clearErrors() {
  byId("form-error").textContent = "";
  for (const field of fields.values()) field.fail();
}

async function submit(event) {
  event.preventDefault();
  clearErrors();
  const draw = byId("draw");
  draw.disabled = true;
  try {
    await Promise.all([...fields.values()].map((field) => field.ready?.()));
    const recipe = values();
    await post("/v1/jobs", { recipe: { prompt: "", seed: "random", ...recipe } });
    say("It is in the queue.");
    if (matchMedia("(max-width: 56rem)").matches) byId("queue-title").scrollIntoView({ behavior: "smooth" });
  } catch (error) {
    const field = error instanceof Refused && fields.get(error.field?.split(".")[0]);
    if (field) field.fail(error.message);
    else showError(error.message);
  } finally {
    draw.disabled = false;
  }
}

function showError(message) {
  const place = byId("form-error");
  place.replaceChildren(made("strong", message, { class: "field-error" }));
  reveal(byId("draw"));
}
