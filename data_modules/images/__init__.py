"""From encoded bytes to crops: header, crop boxes, decoding, crops."""
