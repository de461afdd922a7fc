"""Where pairs come from: one file per format, all behind the `PairSource` protocol."""
