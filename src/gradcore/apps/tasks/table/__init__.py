"""A user's table: from rows and named columns to a trained net and its predictions."""
