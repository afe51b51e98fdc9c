"""sigmafield's nodes in ComfyUI, which loads this folder from its `custom_nodes`."""

try:
    from sigmafield.comfyui.pack.classes import node_classes
except ModuleNotFoundError as error:
    raise ImportError(
        f"sigmafield's nodes need the package in ComfyUI's Python ({error}): pip install 'sigmafield[lab]>=0.2'"
    ) from error

NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = node_classes()
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
