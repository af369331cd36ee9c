"""What a model needs and how fast it would be: sizes, rates of this machine, hit rates."""
