"""What the replacement keeps of the whole model: backbones, text encoders, prompts, fusion, heads, masks, assembly."""
