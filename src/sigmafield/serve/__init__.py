"""A server that steps many runs at the same time; a job is a recipe or a workflow that survives the process."""
