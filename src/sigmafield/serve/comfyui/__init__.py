"""ComfyUI's protocol, so that its page and its clients work with this server."""
