// Fields of names with parameters, "dpmpp_2m_sde(eta=0.5)": a choice of the names that the server has, with a field for
// each parameter.

import { made } from "./dom.js";

// A name of a list
export function choiceField(name, schema, rows, labelled) {
  const free = !("default" in schema) || schema.default === null;
  const input = made("select", [
    free ? made("option", "–", { value: "" }) : null,
    ...rows.map((row) => made("option", row.id, { value: row.id })),
  ]);
  const set = (value) => {
    if (value && ![...input.options].some((each) => each.value === value)) {
      input.append(made("option", value, { value }));
    }
    input.value = value ?? schema.default ?? "";
  };
  set();
  const get = () => ([schema.default ?? "", ""].includes(input.value) ? undefined : input.value);
  return { ...labelled(name, schema, input), get, set };
}

// A name with parameters
export function specField(name, schema, rows, fieldOf, labelled) {
  const empty = schema.default === null ? [made("option", "model's own", { value: "" })] : [];
  const input = made("select", [...empty, ...rows.map((row) => made("option", row.name, { value: row.name }))]);
  const about = made("small", [], { class: "hint about" });
  const inner = made("details", [], { class: "group parameters" });
  let fields = [];
  const choose = (value, params = {}) => {
    input.value = value;
    const row = rows.find((each) => each.name === value);
    fields = Object.entries(row?.parameters ?? {}).map(([key, each]) => [key, fieldOf(key, each, {})]);
    for (const [key, each] of fields) each.set(params[key]);
    input.title = about.textContent = row?.about ?? "";
    inner.replaceChildren(made("summary", "Parameters"), ...fields.map(([, each]) => each.element));
    inner.hidden = !fields.length;
    inner.open = Object.keys(params).length > 0;
  };
  input.addEventListener("change", () => choose(input.value));
  const made_ = labelled(name, schema, input);
  made_.element.append(about, inner);
  const set = (value) => {
    const [found] = value == null ? [] : specs(value);
    choose(found?.name ?? schema.default ?? "", found?.params);
  };
  set();
  const get = () => {
    const params = Object.fromEntries(fields.map(([key, each]) => [key, each.get()]).filter(([, v]) => v !== undefined));
    const own = input.value === (schema.default ?? "") && !Object.keys(params).length;
    return own ? undefined : { name: input.value, params };
  };
  return { ...made_, get, set };
}

// Several names with parameters, in an order
export function specsField(name, schema, rows, fieldOf) {
  const error = made("strong", [], { class: "field-error", hidden: true, role: "alert" });
  const list = made("div");
  let chosen = [];
  const labelled = (key, each, input) => {
    input.setAttribute("aria-label", key);
    return { element: made("div", input, { class: "field" }), input, fail: () => {} };
  };
  const add = (value) => {
    const one = specField(name, { default: rows[0].name }, rows, fieldOf, labelled);
    const remove = made("button", "Remove", { type: "button" });
    remove.addEventListener("click", () => { chosen = chosen.filter((each) => each !== one); one.element.remove(); });
    one.element.append(remove);
    one.set(value);
    chosen.push(one);
    list.append(one.element);
  };
  const more = made("button", `Add to ${name}`, { type: "button" });
  more.addEventListener("click", () => add());
  const label = name[0].toUpperCase() + name.slice(1);
  const hint = made("small", (schema.description ?? "").split(";")[0], { class: "hint" });
  const element = made("fieldset", [made("legend", label), hint, error, list, more], { "data-field": name });
  const get = () => (chosen.length ? chosen.map((each) => each.get() ?? { name: rows[0].name, params: {} }) : undefined);
  const set = (value) => {
    chosen = [];
    list.replaceChildren();
    for (const each of value == null ? [] : specs(value)) add(each);
  };
  const fail = (message) => {
    error.textContent = message ?? "";
    error.hidden = !message;
    if (message) more.focus();
  };
  return { element, get, set, fail };
}

// The names with parameters of a text, an object, or a list of them
export function specs(value) {
  if (Array.isArray(value)) return value.flatMap(specs);
  if (typeof value !== "string") return [value];
  return split(value, "+").map((text) => {
    const [, name, inner = ""] = text.trim().match(/^([^(]*)(?:\((.*)\))?$/s) ?? [null, text];
    const params = split(inner, ",").map((each) => each.split(/=(.*)/s)).filter(([key]) => key.trim());
    return { name: name.trim(), params: Object.fromEntries(params.map(([key, text_]) => [key.trim(), read(text_)])) };
  });
}

function read(text = "") {
  const value = text.trim();
  if (/^(true|false)$/i.test(value)) return value.toLowerCase() === "true";
  return value !== "" && !Number.isNaN(Number(value)) ? Number(value) : value.replace(/^(["'])(.*)\1$/s, "$2");
}

// Parts of a text between separators that are not inside brackets
function split(text, separator) {
  const parts = [""];
  let depth = 0;
  for (const letter of text) {
    if ("([{".includes(letter)) depth += 1;
    if (")]}".includes(letter)) depth -= 1;
    if (letter === separator && !depth) parts.push("");
    else parts[parts.length - 1] += letter;
  }
  return parts.filter((part) => part.trim());
}
