"""Random access to the rows of parquet files where they lie, without a copy of them."""
