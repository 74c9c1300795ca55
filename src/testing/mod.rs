//! For your own tests: the contract suite for caches, a cache that counts, fails or waits on demand, and the `Cookie` header of
//! a session.
//!
//! Handlers need none of this: [`Session::new`](crate::Session::new) makes a session to call them with. Expiry is tested
//! with a [`Clock`](crate::Clock) that can be set by hand.

mod contract;
mod cookie;
mod double;

pub use self::contract::cache_contract;
pub use self::cookie::cookie;
pub use self::double::{Calls, Gate, Operation, TestCache};

/// From now on, every event of this thread is logged: lines at `WARN` and `ERROR` are limited to one a second otherwise. For
/// tests that look for a line.
#[doc(hidden)]
pub fn log_every_event() {
    crate::events::set_unlimited(true);
}
