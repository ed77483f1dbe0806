"""Turn packets into records with 58 features, and make or download datasets."""
