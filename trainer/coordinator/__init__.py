"""Worker 0's second duty: numbers attempts, names their restore point, ends the job."""
