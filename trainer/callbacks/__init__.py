"""What Keras callbacks need beyond being called: their state in checkpoints, their files, and who of several workers writes."""
