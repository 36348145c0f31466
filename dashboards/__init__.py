"""Builds the Grafana dashboards; the JSON is committed beside the code that builds it."""
