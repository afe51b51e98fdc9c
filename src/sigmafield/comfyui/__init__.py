"""What ComfyUI's node packs do, as functions."""
