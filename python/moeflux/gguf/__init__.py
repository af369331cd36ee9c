"""GGUF files but their weights: heads, names and numbers of architectures, vocabularies."""
