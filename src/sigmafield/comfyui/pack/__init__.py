"""Our nodes inside ComfyUI itself: its MODEL, GUIDER and SAMPLER adapted to our engine.

`classes` has what ComfyUI loads. Nothing here imports ComfyUI's modules before `host` is asked for them.
"""
