"""People to learn from: what a picture is labelled with, and where pictures come from."""
