"""Vox2Face: from a voice alone, a face."""
