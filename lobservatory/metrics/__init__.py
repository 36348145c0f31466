"""What this project measures: every metric family, and their text."""
