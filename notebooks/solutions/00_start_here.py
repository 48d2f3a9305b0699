"""Solutions to notebook 00. Copy an answer over the one in its exercise's cell, then run the checker."""

import numpy as np

# Exercise 1. AST is 768 wide, an identity 512; CLIP reads 77 tokens; the VAE makes 512 pixels 64, in four channels.
full_size = {"v_spk": (768,), "z_hat": (512,), "tokens": (77, 768), "latent": (4, 64, 64)}


def draw(voice, seed):
    """Exercise 2. A generator of the seed for the one face; `pipe` and `seeds` are the notebook's."""
    return np.asarray(pipe(voice, num_images=1, generator=seeds(seed)).images[0])


def share_right(cosine):
    """Exercise 3. Each row's own face against the face two columns further, coming round at the end."""
    stranger = np.array([row[(i + 2) % len(row)] for i, row in enumerate(cosine)])
    return (np.diag(cosine) > stranger).mean()
