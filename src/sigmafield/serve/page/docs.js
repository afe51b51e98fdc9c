"use strict";
// Shows openapi.json: routes with their parameters, bodies and answers, and the objects that they refer to.

const METHODS = ["get", "post", "delete"];

function made(name, content = [], attributes = {}) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...[content].flat());
  return element;
}

function link(reference) {
  const name = reference.split("/").pop();
  return made("a", name, { href: `#${name}` });
}

// What values a schema allows: nodes for the page
function kind(schema) {
  if (schema.$ref) return [link(schema.$ref)];
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  if (schema.anyOf) return schema.anyOf.flatMap((each, k) => [...(k ? [" or "] : []), ...kind(each)]);
  const type = [schema.type ?? "anything"].flat().join(" or ");
  if (schema.items && schema.items !== true) return [`${type} of `, ...kind(schema.items)];
  if (schema.properties) return [`${type} {${Object.keys(schema.properties).join(", ")}}`];
  return [type];
}

function range(schema) {
  const ends = [
    ["minimum", "≥"], ["exclusiveMinimum", ">"], ["maximum", "≤"], ["exclusiveMaximum", "<"],
    ["minLength", "length ≥"], ["maxLength", "length ≤"],
  ];
  return ends.filter(([key]) => key in schema).map(([key, sign]) => `${sign} ${schema[key]}`).join(", ");
}

function table(rows) {
  const head = made("tr", ["name", "type", "range", "default", "meaning"].map((title) => made("th", title)));
  const body = rows.map(([name, schema, required]) => made("tr", [
    made("td", made("code", required ? `${name} *` : name)),
    made("td", kind(schema)),
    made("td", range(schema)),
    made("td", "default" in schema ? made("code", JSON.stringify(schema.default)) : ""),
    made("td", schema.description ?? ""),
  ]));
  return made("div", made("table", [head, ...body]), { class: "wide" });
}

function properties(schema) {
  const required = schema.required ?? [];
  return table(Object.entries(schema.properties ?? {}).map(([name, each]) => [name, each, required.includes(name)]));
}

function nested(schema) {
  const inner = Object.entries(schema.properties ?? {}).map(([name, each]) => [name, each.items ?? each]);
  return inner.filter(([, each]) => each.properties).flatMap(([name, each]) => [made("h4", name), properties(each)]);
}

function body(request) {
  return Object.entries(request.content).flatMap(([type, { schema }]) => [
    made("p", ["Body, ", made("code", type), ": ", ...kind(schema)]),
    ...(schema.properties ? [properties(schema)] : []),
  ]);
}

function route(method, path, operation) {
  const parts = [made("summary", [made("b", method.toUpperCase()), made("code", path), operation.summary])];
  if (operation.parameters.length) {
    parts.push(table(operation.parameters.map(({ name, schema, required }) => [name, schema, required])));
  }
  if (operation.requestBody) parts.push(...body(operation.requestBody));
  for (const [status, answer] of Object.entries(operation.responses)) {
    const content = Object.entries(answer.content ?? {}).flatMap(([type, { schema }]) => [
      " ", made("code", type), ...(Object.keys(schema).length ? [": ", ...kind(schema)] : []),
    ]);
    parts.push(made("p", [made("b", status), ` ${answer.description}`, ...content]));
  }
  return made("details", parts);
}

async function show() {
  const answer = await fetch("/openapi.json");
  const found = await answer.json();
  document.getElementById("about").textContent = `${found.info.description} Version ${found.info.version}.`;
  const routes = Object.entries(found.paths).flatMap(([path, operations]) =>
    METHODS.filter((method) => operations[method]).map((method) => route(method, path, operations[method])));
  document.getElementById("routes").append(...routes);
  const schemas = Object.entries(found.components.schemas).map(([name, schema]) => made("details", [
    made("summary", [made("b", name), schema.description ?? ""]), properties(schema), ...nested(schema),
  ], { id: name }));
  document.getElementById("schemas").append(...schemas);
}

// A link to an object opens it
function opened() {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}

window.addEventListener("hashchange", opened);
show().then(opened).catch((error) => { document.getElementById("about").textContent = `No document: ${error}`; });
