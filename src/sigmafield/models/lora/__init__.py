"""LoRAs and their relatives: files that change the weights of a model.

`keys` tells what each tensor of a file is, `names` which layers of a model it means, `adapters` what is added to a
weight, `read` puts the three together, `merge` adds the changes to the weights, and `describe` reads headers alone.
"""
