// The page: a form, the queue, the images.

import { get, hasToken, needToken, setToken, whenTokenIsMissing } from "./api.js";
import { byId, button, say } from "./dom.js";
import { openFigures } from "./figures.js";
import { openForm } from "./form.js";
import { showGallery } from "./gallery.js";
import { followJobs, loadOlder, promptOf, whenChanged } from "./jobs.js";
import { showJob, showQueue } from "./queue.js";
import { openViewer } from "./viewer.js";

// Opens the dialog for the token; resolves when there is one
function askForToken(wrong) {
  const dialog = byId("token");
  const form = byId("token-form");
  const input = byId("token-input");
  byId("token-wrong").hidden = !wrong;
  input.value = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      setToken(input.value.trim());
      dialog.close();
      resolve();
    }, { once: true });
  });
}

function showConnection(connected) {
  const place = byId("connection");
  place.textContent = connected ? "connected" : "no connection: trying again";
  place.classList.toggle("lost", !connected);
}

function tell(job, what) {
  if (what === "done") say(`Done: ${promptOf(job)}`);
  if (what === "failed") say(`Failed: ${promptOf(job)}: ${job.error}`, true);
}

async function start() {
  whenTokenIsMissing(askForToken);
  byId("token").addEventListener("cancel", (event) => event.preventDefault());
  const document_ = await get("/openapi.json");
  const closed = Boolean(document_.paths["/v1/jobs"].get.security);
  if (closed && !hasToken()) await needToken(() => askForToken(false));
  byId("forget").hidden = !closed;
  byId("forget").addEventListener("click", () => { sessionStorage.clear(); location.reload(); });
  openViewer();
  byId("older").replaceWith(Object.assign(button("Older images", loadOlder), { id: "older", hidden: true }));
  await openForm(document_);
  const look = openFigures();
  whenChanged((job, what) => {
    if (what === "step" && job.status !== "paused") {
      showJob(job);
      return;
    }
    showQueue();
    showGallery();
    if (job) tell(job, what);
    if (what === "done" || what === "started") look();
  });
  await followJobs(showConnection);
}

start().catch((error) => say(`The page cannot start: ${error.message}`, true));
