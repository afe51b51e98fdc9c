// The server's measurements at a glance, from /metrics.

import { ask } from "./api.js";
import { byId, made } from "./dom.js";

const EVERY = 5000;
let before = null;

// The measurements by name, each summed over its labels; quantiles keep theirs: "sigmafield_step_seconds 0.5"
function read(text) {
  const found = {};
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = line.match(/^([a-z_]+)(?:\{(.*)\})? (\S+)$/) ?? [];
    if (!name || name.endsWith("_bucket")) continue;
    const quantile = labels.match(/quantile="([^"]+)"/);
    const key = quantile ? `${name} ${quantile[1]}` : name;
    found[key] = (found[key] ?? 0) + Number(value);
  }
  return found;
}

const number = (value, digits, unit = "") => (Number.isFinite(value) ? `${value.toFixed(digits)}${unit}` : "–");

// Rows per network call since the last look, or since the start where there were none
function rowsPerCall(now) {
  const [rows, calls] = ["sigmafield_network_rows_total", "sigmafield_network_calls_total"];
  const since = before && now[calls] > before[calls] ? before : { [rows]: 0, [calls]: 0 };
  return (now[rows] - since[rows]) / (now[calls] - since[calls]);
}

async function show() {
  const now = read(await (await ask("GET", "/metrics")).text());
  const memory = now.sigmafield_device_memory_bytes || now.sigmafield_memory_bytes;
  const shown = [
    ["running", number(now.sigmafield_running_jobs, 0), "Jobs that run now"],
    ["queued", number(now.sigmafield_queue_length, 0), "Jobs that wait for their turn"],
    ["rows per call", number(rowsPerCall(now), 1), "Rows of a network call: how much jobs share them"],
    ["per step", number(now["sigmafield_step_seconds 0.5"], 2, " s"), "Median of the latest steps"],
    ["memory", number(memory / 2 ** 30, 1, " GiB"), "Of the devices, or of the process on a CPU"],
  ];
  before = now;
  byId("figures").replaceChildren(...shown.map(([name, value, about]) =>
    made("div", [made("dt", name), made("dd", value)], { title: about })));
}

// Shows the measurements now and then, while the page is seen
export function openFigures() {
  const look = () => { if (!document.hidden) show().catch(() => {}); };
  look();
  setInterval(look, EVERY);
  document.addEventListener("visibilitychange", look);
  return look;
}
