"""Tasks that come with orch."""
