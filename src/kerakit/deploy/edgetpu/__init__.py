"""The Edge TPU of Google Coral: forecast, compiler, compiled files."""
