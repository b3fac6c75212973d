"""The resource profiles that come with the library, by name: `--resources small`."""
