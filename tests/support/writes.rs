//! Writes under a version that is drawn here: for tests that only need to know it afterwards.
use std::future::Future;

use cloakroom::{Bytes, Cache, CacheError, Entry, Expiry, Replaced, Version};

pub trait Writes: Cache {
    /// The version of the new entry; `None` if another live one is there.
    fn put(
        &self,
        key: &str,
        value: Bytes,
        expiry: Expiry,
    ) -> impl Future<Output = Result<Option<Version>, CacheError>> + Send {
        let entry = Entry::new(value, Version::unique());
        async move {
            let version = entry.version;
            Ok(self.insert(key, entry, expiry).await?.then_some(version))
        }
    }

    /// The version of the entry that was written over the expected one, or why it was not.
    fn put_over(
        &self,
        key: &str,
        expected: Version,
        value: Bytes,
        expiry: Expiry,
    ) -> impl Future<Output = Result<Result<Version, Replaced>, CacheError>> + Send {
        let entry = Entry::new(value, Version::unique());
        async move {
            let version = entry.version;
            Ok(match self.replace(key, expected, entry, expiry).await? {
                Replaced::Done => Ok(version),
                other => Err(other),
            })
        }
    }
}

impl<C: Cache> Writes for C {}
