"""Receive images through the socket: every binary frame while the node that sends them runs, less eight bytes."""

import json
import sys
import urllib.request
import uuid
from pathlib import Path

import websocket

url, workflow = sys.argv[1:3]
client = str(uuid.uuid4())
prompt = json.loads(Path(workflow).read_text())
[saving] = [name for name, node in prompt.items() if node["class_type"] == "SaveImage"]
prompt[saving] = {"class_type": "SaveImageWebsocket", "inputs": {"images": prompt[saving]["inputs"]["images"]}}
socket = websocket.WebSocket()
socket.connect(f"{url.replace('http', 'ws')}/ws?clientId={client}")
body = json.dumps({"prompt": prompt, "client_id": client}).encode()
id = json.load(urllib.request.urlopen(urllib.request.Request(f"{url}/prompt", data=body)))["prompt_id"]
current, images = "", []
while True:
    message = socket.recv()
    if isinstance(message, bytes):
        if current == saving:
            images.append(message[8:])
        continue
    message = json.loads(message)
    if message["type"] == "executing" and message["data"]["prompt_id"] == id:
        current = message["data"]["node"]
        if current is None:
            break
socket.close()
print("images", [image[:4] for image in images])
