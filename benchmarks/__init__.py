"""What the project measures about itself and beside its peers. See README.md here."""
