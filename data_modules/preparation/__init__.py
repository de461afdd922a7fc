"""Tools that prepare data before training: packing tables into shards, inspecting sources."""
