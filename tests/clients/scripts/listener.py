"""Post a prompt with an id of one's own, listen until its end marker, then fetch its images."""

import json
import sys
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

import websocket

url, workflow = sys.argv[1:3]
client, id = str(uuid.uuid4()), str(uuid.uuid4())
socket = websocket.WebSocket()
socket.connect(f"{url.replace('http', 'ws')}/ws?clientId={client}")
body = {"prompt": json.loads(Path(workflow).read_text()), "client_id": client, "prompt_id": id}
urllib.request.urlopen(urllib.request.Request(f"{url}/prompt", data=json.dumps(body).encode()))
kinds = []
while True:
    message = socket.recv()
    if isinstance(message, bytes):
        kinds.append("binary")
        continue
    message = json.loads(message)
    kinds.append(message["type"])
    data = message["data"]
    if message["type"] == "executing" and data["node"] is None and data["prompt_id"] == id:
        break
socket.close()
print("messages", *dict.fromkeys(kinds))
history = json.load(urllib.request.urlopen(f"{url}/history/{id}"))[id]
for node, output in history["outputs"].items():
    for image in output.get("images", ()):
        data = urllib.request.urlopen(f"{url}/view?{urllib.parse.urlencode(image)}").read()
        print("image of", node, image["filename"], data[:4])
