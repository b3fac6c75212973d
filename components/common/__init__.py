"""What every step shares: errors, settings, files, tables, storage, reports, model packages. Never imports kfp."""
