"""What is to be trained and what happened: sizes, experiments, plans, runs, ids."""
