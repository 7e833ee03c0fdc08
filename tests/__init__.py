"""Tests of adam_mp; the folders mirror the package."""
