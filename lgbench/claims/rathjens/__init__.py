"""Claims of Rathjens et al., "Probing Length Generalization in Mamba via Image Reconstruction"."""
