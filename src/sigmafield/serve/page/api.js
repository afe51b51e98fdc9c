// Requests to the server, with the token if it needs one, and its stream of events.

const TOKEN = "sigmafield.token";
let asked = null; // the promise of a token, while the dialog for it is open

export class Refused extends Error {
  constructor(status, { message, field }) {
    super(message);
    Object.assign(this, { status, field });
  }
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;
export const setToken = (token) => sessionStorage.setItem(TOKEN, token);

// Asks for a token, once for all who wait for it
export function needToken(ask) {
  asked ??= ask().finally(() => { asked = null; });
  return asked;
}

let onMissing = () => Promise.reject(new Error("a token is needed"));
export function whenTokenIsMissing(ask) { onMissing = (wrong) => needToken(() => ask(wrong)); }

// The answer to a request; an answer that is an error is raised as Refused
export async function ask(method, path, body, { signal, type } = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
    if (body !== undefined) headers["Content-Type"] = type ?? "application/json";
    const sent = body === undefined || type ? body : exactJson(body);
    const answer = await fetch(path, { method, headers, body: sent, signal });
    if (answer.ok) return answer;
    const text = await answer.text();
    let error = { message: `${answer.status} ${answer.statusText}` };
    try { ({ error } = JSON.parse(text)); } catch { /* a proxy's page */ }
    if (answer.status !== 401) throw new Refused(answer.status, error);
    if (sessionStorage.getItem(TOKEN) === token) {
      sessionStorage.removeItem(TOKEN);
      await onMissing(token !== null);
    }
  }
}

export async function get(path) {
  return parsed(await (await ask("GET", path)).text());
}

export async function post(path, body) {
  return parsed(await (await ask("POST", path, body)).text());
}

// JSON keeps whole numbers that a double does not: seeds go up to 2^64 - 1
export function parsed(text) {
  return JSON.parse(text, (key, value, context) =>
    Number.isInteger(value) && !Number.isSafeInteger(value) && context ? BigInt(context.source) : value);
}

export function exactJson(value, indent) {
  const exact = (key, each) => {
    if (typeof each !== "bigint") return each;
    return JSON.rawJSON ? JSON.rawJSON(String(each)) : Number(each);
  };
  return JSON.stringify(value, exact, indent);
}

// The server's events: {event, data}, until the connection ends. EventSource cannot send a token, so this reads the
// stream itself.
async function* events(path, signal) {
  const answer = await ask("GET", path, undefined, { signal });
  yield { event: "open" };
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter((line) => !line.startsWith(":"));
      const entries = Object.fromEntries(lines.map((line) => line.split(/: (.*)/s)).filter(([name]) => name));
      if (entries.data) yield { event: entries.event, data: parsed(entries.data) };
    }
  }
}

// Follows the events for as long as the page lives; connects again when the connection is lost, later each time
export async function follow(path, { opened, happened, lost }) {
  for (let wait = 1000; ;) {
    try {
      for await (const { event, data } of events(path)) {
        if (event === "open") { wait = 1000; await opened(); } else happened(event, data);
      }
    } catch { /* the server is gone or the network is */ }
    lost();
    await new Promise((resolve) => { setTimeout(resolve, wait); });
    wait = Math.min(2 * wait, 15000);
  }
}

// Addresses of images for <img>, which cannot send a token: with one, the bytes are fetched
const fetched = new Map();
export async function imageUrl(path) {
  if (!hasToken()) return path;
  if (!fetched.has(path)) {
    fetched.set(path, ask("GET", path).then((answer) => answer.blob()).then(URL.createObjectURL));
    fetched.get(path).catch(() => fetched.delete(path));
  }
  return fetched.get(path);
}
