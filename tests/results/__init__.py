"""The result tables of the documents against the files of docs/results."""
