//! For your own tests: the contract suite for caches, and a cache that counts, fails or waits on demand.
//!
//! Handlers need none of this: [`Session::new`](crate::Session::new) makes a session to call them with. Expiry is tested
//! with a [`Clock`](crate::Clock) that can be set by hand.

mod contract;
mod double;

pub use self::contract::cache_contract;
pub use self::double::{Calls, Gate, Operation, TestCache};
