"""Image sources and the sequences made from them; frames are tensors in [0, 1], or of bytes until they are used."""
