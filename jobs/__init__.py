"""The commands: one module, one Kubernetes Job."""
