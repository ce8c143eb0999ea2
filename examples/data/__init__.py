"""Image sources and the sequences made from them; everything here is a tensor in [0, 1]."""
