"""The study on disk: its folder, and the training of what is missing in it."""
