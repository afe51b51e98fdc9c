"""Post a prompt as plainly as possible and leave; then ask for it until it has ended."""

import json
import sys
import time
import urllib.request
from pathlib import Path

url, workflow = sys.argv[1:3]
prompt = json.loads(Path(workflow).read_text())
sent = urllib.request.Request(f"{url}/prompt", data=json.dumps({"prompt": prompt}).encode())  # as a form, says urllib
answer = json.load(urllib.request.urlopen(sent))
print("queued", answer["number"], answer["node_errors"])
while True:
    history = json.load(urllib.request.urlopen(f"{url}/history/{answer['prompt_id']}"))
    if history:
        break
    time.sleep(0.05)
entry = history[answer["prompt_id"]]
print("status", entry["status"]["status_str"], "outputs", sorted(entry["outputs"]))
