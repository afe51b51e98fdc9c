"""The experiments, one per file: options, what is measured for a row, and how the table is read."""
