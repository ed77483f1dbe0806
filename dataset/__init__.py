"""From packets to flow records: the 58 features, their scaling, and where the data comes from."""
