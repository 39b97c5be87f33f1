"""Export formats, one module per family of formats."""
