"""Training a referring-pose model and saying how well it does: matcher, losses, optimiser, evaluation."""
