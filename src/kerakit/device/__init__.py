"""Files of the device bundle, copied as they are; they don't import Kerakit."""
