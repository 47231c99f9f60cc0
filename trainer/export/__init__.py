"""What training leaves for others: models as files, and which of them was the best."""
