"""The API server: how it is spoken to, and what its objects say. Nothing here knows a job file, a run directory or a person."""
