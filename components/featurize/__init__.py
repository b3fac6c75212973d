"""featurize: SQL transforms into feature tables, registered with Feast."""
