"""What a law is good for: the run to train, its test, two laws side by side."""
