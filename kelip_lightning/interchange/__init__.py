"""Loading and export of models in other libraries' layouts."""
