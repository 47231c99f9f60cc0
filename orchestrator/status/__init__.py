"""How a job of a cluster is doing: gathered, judged, put into words, followed."""
