"""ComfyUI's protocol: its routes, its socket and its page, on the engine of the server."""
