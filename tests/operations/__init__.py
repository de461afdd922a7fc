"""The tensor operations of whole training steps, as a GPU would meet them."""
