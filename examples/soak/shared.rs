//! What all parts use.
use std::error::Error;

use cloakroom::{BoxedCache, SessionStore};

pub type Failure = Box<dyn Error + Send + Sync>;
pub type Store = SessionStore<BoxedCache>;

/// The finalizer of splitmix64.
pub fn mix(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
