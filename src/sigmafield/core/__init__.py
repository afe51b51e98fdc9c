"""Arrays, noise levels, conditionings, geometry: no network, no file, no other room."""
