"""Turn web pages of emoji into a captioned, versioned data set, and that into models and new emoji."""

__version__ = "0.1.0"
