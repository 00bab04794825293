"""Every backbone with every text encoder around every transformer: size, work and memory of the whole model."""
