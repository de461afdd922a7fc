"""One module per layout of stored evaluation samples, behind `SampleTable`."""
