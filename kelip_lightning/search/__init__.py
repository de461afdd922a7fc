"""Search of pictures by words, pictures and analogies: an index on disk, rankings, and a page in the browser."""
