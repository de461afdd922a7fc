"""The networks: one image encoder for both stages, a text encoder, and what is built from them."""
