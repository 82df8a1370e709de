"""What each route takes and what it asks of a worker, a file for each subject."""
