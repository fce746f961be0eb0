"""From a BGR picture to image embeddings."""
