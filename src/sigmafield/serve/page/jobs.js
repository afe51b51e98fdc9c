// The jobs that the page shows, kept up to date by the server's events.

import { Refused, follow, get, post, ask } from "./api.js";

export const ENDED = ["done", "failed", "cancelled"];
const PAGE = 60;

const jobs = new Map();
const listeners = [];
let more = false;

export const all = () => [...jobs.values()];
export const hasMore = () => more;
export function whenChanged(listener) { listeners.push(listener); }

// Tells the listeners about a job, or about all of them; what = the event's name
function changed(job, what) {
  for (const listener of listeners) listener(job, what);
}

function keep(job) {
  const known = jobs.get(job.id);
  jobs.set(job.id, { preview: known?.preview, left: known?.left, ...job });
  return jobs.get(job.id);
}

function drop(id) {
  jobs.delete(id);
  changed();
}

// Follows the server for as long as the page lives; `connection` is given true and false as it comes and goes
export function followJobs(connection) {
  return follow("/v1/events?previews=1", {
    opened: async () => {
      await load();
      connection(true);
    },
    happened,
    lost: () => connection(false),
  });
}

// All of the latest jobs, and all that have not ended
async function load() {
  const lists = ["", "&status=running", "&status=queued", "&status=paused"];
  const found = await Promise.all(lists.map((which) => get(`/v1/jobs?limit=${which ? 1000 : PAGE}${which}`)));
  jobs.clear();
  for (const job of found.flatMap((each) => each.jobs)) keep(job);
  more = found[0].jobs.length === PAGE;
  changed();
  for (const job of all()) if (job.step && ["running", "paused"].includes(job.status)) showPreview(job);
}

// The preview of a job that was running before the page was opened
async function showPreview(job) {
  try {
    const answer = await ask("GET", `/v1/jobs/${job.id}/preview`);
    if (answer.status === 204 || job.preview) return; // there is none yet, or a later one
    job.preview = URL.createObjectURL(await answer.blob());
    changed(job);
  } catch { /* the job was deleted meanwhile */ }
}

export async function loadOlder() {
  const last = all().sort((a, b) => a.created - b.created)[0];
  const found = await get(`/v1/jobs?limit=${PAGE}&before=${last.id}`);
  for (const job of found.jobs) keep(job);
  more = found.jobs.length === PAGE;
  changed();
}

const STATUS = { queued: "queued", started: "running", step: "running", resumed: "queued", paused: "paused" };

function happened(event, data) {
  const job = jobs.get(data.job);
  if (!job || ENDED.includes(event)) {
    refresh(data.job, event);
    return;
  }
  if (event === "priority") job.priority = data.priority;
  else if (!(event === "step" && job.status === "paused")) job.status = STATUS[event] ?? job.status;
  for (const key of ["step", "steps", "progress", "label"]) if (key in data) job[key] = data[key];
  job.left = event === "step" ? data.seconds_left : null;
  job.preview = data.preview ?? job.preview;
  changed(job, event);
}

async function refresh(id, event) {
  try {
    changed(keep(await get(`/v1/jobs/${id}`)), event);
  } catch (error) {
    if (error instanceof Refused && error.status === 404) drop(id);
  }
}

// Pause, resume, cancel
export async function steer(job, action) {
  changed(keep(await post(`/v1/jobs/${job.id}/${action}`)), action);
}

export async function prioritise(job, priority) {
  changed(keep(await post(`/v1/jobs/${job.id}/priority`, { priority })), "priority");
}

// The same job again, with some entries of its recipe changed
export async function again(job, changes) {
  const made = await post(`/v1/jobs/${job.id}/clone`, { changes });
  changed(keep(made), "queued");
}

export async function remove(job) {
  await ask("DELETE", `/v1/jobs/${job.id}`);
  drop(job.id);
}

export const isShown = (output) => output.media_type.startsWith("image/");

// Jobs that have ended, the latest first
export function ended() {
  return all().filter((job) => ENDED.includes(job.status)).sort((a, b) => b.ended - a.ended);
}

// Their images, as [job, number of the output]
export function images() {
  return ended().flatMap((job) => job.outputs.map((output, n) => [job, n]).filter(([, n]) => isShown(job.outputs[n])));
}

export const promptOf = (job) => (job.kind === "recipe" ? job.recipe.prompt : "a workflow") || "(no prompt)";
