"""Second factors: what users show beside their password, and what administrators demand."""
