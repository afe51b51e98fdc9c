"""LoRAs and their relatives: files that change the weights of a model.

`keys` tells what each tensor of a file is, `names` which layers of a model it means, `adapters` what is added to a
weight, `changes` what the tensors of a layer add to which weights; `read` puts these together, `merge` adds the changes
to the weights, and `describe` reads headers alone.
"""
