"""What the replacement keeps of the original: the outer frame, the two-stage proposals, the refinement loop, the heads."""
