// Fields of a form from JSON schemas. A field is {element, get, set, fail}: `get` gives undefined where the field is
// left at its default, `set` takes a value of the schema or undefined, `fail` shows an error at the field.

import { made } from "./dom.js";
import { imageField } from "./image_field.js";
import { choiceField, specField, specsField } from "./spec_field.js";

let count = 0;
const LONG = ["prompt", "negative"];

export const title = (name) => (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");

// The sentence of a schema, as a form says it
const hint = (schema) => (schema.description ?? "").split(" Given as upload:")[0].split(" A name of GET")[0]
  .replace(/\bNone\b/g, "empty").replaceAll("`", "");

// A label, an input, a hint and a place for errors, tied together for screen readers
export function labelled(name, schema, input, { before = false } = {}) {
  const id = `field-${++count}`;
  Object.assign(input, { id, name });
  const about = made("small", hint(schema), { id: `${id}-hint`, class: "hint" });
  const error = made("strong", [], { id: `${id}-error`, class: "field-error", hidden: true });
  input.setAttribute("aria-describedby", `${id}-hint ${id}-error`);
  const label = made("label", title(name), { for: id, title: hint(schema) });
  const parts = before ? [input, label] : [label, input];
  const element = made("div", [...parts, error, about], { class: before ? "field check" : "field", "data-field": name });
  const fail = (message) => {
    error.textContent = message ?? "";
    error.hidden = !message;
    if (message) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
    if (message) reveal(input);
  };
  return { element, input, fail };
}

// Open what an input is folded into, and go there
export function reveal(input) {
  for (let at = input.parentElement; at; at = at.parentElement) if (at instanceof HTMLDetailsElement) at.open = true;
  input.focus();
}

const types = (schema) => [schema, ...(schema.anyOf ?? [])].flatMap((each) => each.type ?? []).flat();

function numberField(name, schema) {
  const whole = types(schema).includes("integer");
  const input = made("input", [], { type: "number", step: whole ? 1 : "any", inputmode: whole ? "numeric" : "decimal" });
  if ("minimum" in schema) input.min = schema.minimum;
  if ("maximum" in schema) input.max = schema.maximum;
  input.placeholder = schema.default ?? "auto";
  const get = () => (input.value === "" ? undefined : Number(input.value));
  return { ...labelled(name, schema, input), get, set: (value) => { input.value = value ?? ""; } };
}

// Texts, and whatever has several types: a number is sent as one, anything else as text
function textField(name, schema) {
  const input = LONG.includes(name) ? made("textarea", [], { rows: name === "prompt" ? 3 : 1 })
    : made("input", [], { type: "text", autocomplete: "off" });
  if (name === "seed") input.inputMode = "numeric";
  const mixed = types(schema).some((type) => type === "integer" || type === "number");
  const set = (value) => { input.value = value === undefined || value === null ? "" : plain(value); };
  const get = () => {
    const text = input.value;
    if (text === "") return undefined;
    if (!mixed || !/^-?\d+(\.\d+)?$/.test(text)) return text;
    return /^-?\d+$/.test(text) && !Number.isSafeInteger(Number(text)) ? BigInt(text) : Number(text);
  };
  input.placeholder = name === "seed" ? "random" : (schema.default?.length ? schema.default : "");
  return { ...labelled(name, schema, input), get, set };
}

const plain = (value) => (Array.isArray(value) ? value.join(",") : String(value));

function checkField(name, schema) {
  const input = made("input", [], { type: "checkbox" });
  const get = () => (input.checked === Boolean(schema.default) ? undefined : input.checked);
  const set = (value) => { input.checked = value ?? schema.default ?? false; };
  set();
  return { ...labelled(name, schema, input, { before: true }), get, set };
}

function enumField(name, schema) {
  const input = made("select", schema.enum.map((value) => made("option", String(value), { value })));
  const set = (value) => { input.value = value ?? schema.default; };
  set();
  return { ...labelled(name, schema, input), get: () => (input.value === schema.default ? undefined : input.value), set };
}

// An object: fields of its entries, folded; one that may be null has a switch
function groupField(name, schema, choices) {
  const inner = Object.entries(schema.properties).filter(([key]) => !key.endsWith("sha256"))
    .map(([key, each]) => [key, fieldOf(key, each, choices)]);
  const nullable = types(schema).includes("null");
  const on = made("input", [], { type: "checkbox", "aria-label": `Use ${name}` });
  const error = made("strong", [], { class: "field-error", hidden: true, role: "alert" });
  const element = made("details", [
    made("summary", [nullable ? on : "", title(name)]),
    made("small", hint(schema), { class: "hint" }), error, ...inner.map(([, each]) => each.element),
  ], { class: "group", "data-field": name });
  on.addEventListener("click", (event) => event.stopPropagation());
  on.addEventListener("change", () => { element.open = on.checked; });
  const get = () => {
    if (nullable && !on.checked) return undefined;
    const given = Object.fromEntries(inner.map(([key, each]) => [key, each.get()]).filter(([, v]) => v !== undefined));
    return nullable || Object.keys(given).length ? given : undefined;
  };
  const set = (value) => {
    on.checked = Boolean(value);
    for (const [key, each] of inner) each.set(value?.[key] ?? undefined);
  };
  return { element, get, set, fail: (message) => showError(error, element, message) };
}

// Several objects: each can be removed, and one added
function listField(name, schema, choices) {
  let rows = [];
  const list = made("div");
  const error = made("strong", [], { class: "field-error", hidden: true, role: "alert" });
  const add = (value) => {
    const row = groupField(name.replace(/s$/, ""), { ...schema.items, default: undefined }, choices);
    const remove = made("button", "Remove", { type: "button" });
    remove.addEventListener("click", () => { rows = rows.filter((each) => each !== row); row.element.remove(); });
    row.element.append(remove);
    row.element.open = value === undefined;
    row.set(value);
    rows.push(row);
    list.append(row.element);
  };
  const more = made("button", `Add to ${name}`, { type: "button" });
  more.addEventListener("click", () => add());
  const element = made("fieldset", [made("legend", title(name)), made("small", hint(schema), { class: "hint" }), error,
    list, more], { "data-field": name });
  const get = () => (rows.length ? rows.map((row) => row.get() ?? {}) : undefined);
  const set = (values) => {
    rows = [];
    list.replaceChildren();
    for (const value of values ?? []) add(value);
  };
  return { element, get, set, fail: (message) => showError(error, more, message) };
}

function showError(error, at, message) {
  error.textContent = message ?? "";
  error.hidden = !message;
  if (message) reveal(at instanceof HTMLDetailsElement ? at.querySelector("input, select") : at);
}

// The field of a schema
export function fieldOf(name, schema, choices) {
  const from = choices[schema["x-choices"]];
  if (from && schema.type) return choiceField(name, schema, from, labelled);
  if (from && "default" in schema && Array.isArray(schema.default)) return specsField(name, schema, from, fieldOf);
  if (from) return specField(name, schema, from, fieldOf, labelled);
  if (schema.contentMediaType) return imageField(name, schema, labelled);
  if (schema.properties) return groupField(name, schema, choices);
  if (schema.items?.properties) return listField(name, schema, choices);
  if (schema.enum) return enumField(name, schema);
  if (schema.type === "boolean") return checkField(name, schema);
  const numeric = types(schema).every((type) => ["integer", "number", "null"].includes(type));
  return numeric && !schema.anyOf ? numberField(name, schema) : textField(name, schema);
}
