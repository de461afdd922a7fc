"""From an image file to the crops of a batch, one file per recipe."""
