"""The callbacks that come with the library, one public noun a file."""
