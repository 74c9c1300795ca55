//! The store on its own: sessions by their ID, records that are none, and nothing secret in any log.

mod by_id;
mod secrets;
