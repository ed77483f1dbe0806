"""Turn packets into records with 58 features, scaled and labelled."""
