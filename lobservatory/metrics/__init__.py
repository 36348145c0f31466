"""What this project measures: the metric families, a module a subject and one list of all, and their text."""
