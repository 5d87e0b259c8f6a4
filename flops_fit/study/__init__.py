"""The engine: what both faces do with a study."""
