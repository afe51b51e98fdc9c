"""Files of weights: which tensors they hold, how those are quantised, and layers that stay quantised in memory."""
