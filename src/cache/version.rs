//! The version of an entry: drawn by its writer, and never the same twice.
use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// The version of an entry: one per write, never used again for the same key.
///
/// The writer draws it, with [`Version::unique`], so that a write whose answer was lost can be recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(u64);

impl Version {
    /// A version that no other call has returned or will return, in this process or another.
    ///
    /// Within a process that is certain. Between processes it rests on 64 random bits that each of them draws at its first
    /// call, so that two writers of one key meet with a chance of 2⁻⁶⁴.
    #[must_use]
    pub fn unique() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        static SEED: LazyLock<u64> = LazyLock::new(|| {
            // Without the generator the standard library's own random keys have to do: a version is no secret.
            let mut seed = [0; 8];
            match crate::random::fill(&mut seed) {
                Ok(()) => u64::from_ne_bytes(seed),
                Err(_) => RandomState::new().hash_one(std::time::SystemTime::now()),
            }
        });
        Self(mix(SEED.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed))))
    }
}

/// The finalizer of splitmix64: one to one, so that different counts stay different.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl From<u64> for Version {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl From<Version> for u64 {
    fn from(version: Version) -> Self {
        version.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_versions_differ() {
        let all: std::collections::HashSet<_> = (0..100_000).map(|_| Version::unique()).collect();
        assert_eq!(all.len(), 100_000);
    }
}
