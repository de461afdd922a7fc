"""From encoded bytes to crops: header, boxes, decoding, transforms."""
