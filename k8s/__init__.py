"""The plain YAML that orchestrator/manifests/render.py fills: one object a file, and setup/ for what a cluster needs once."""
