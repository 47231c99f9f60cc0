"""Scripts with `model.fit`: run as they are, on several workers too, and gone on with at the next batch."""
