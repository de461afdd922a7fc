"""The report of a study: tables, charts, and the pages that show them."""
