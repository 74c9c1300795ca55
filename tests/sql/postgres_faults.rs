//! PostgreSQL when something is wrong.
