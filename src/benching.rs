//! Ways in for `benches/`: steps of a request that have no public name. No part of the crate's interface.
#![allow(missing_docs, missing_debug_implementations)]
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use crate::{
    cookie::CookiePolicy,
    id::SessionKey,
    record::{self, Decoded, Head, json},
};

pub struct Cookies(CookiePolicy);

impl Cookies {
    #[must_use]
    pub fn with_defaults() -> Self {
        Self(CookiePolicy::default())
    }

    /// How many IDs these headers carry.
    #[must_use]
    pub fn ids(&self, headers: &HeaderMap) -> usize {
        self.0.read(headers).iter().count()
    }
}

pub struct Records {
    key: SessionKey,
    head: Head,
}

impl Records {
    #[must_use]
    pub fn of_one_key() -> Self {
        let head = Head::new(1_780_000_000_000, Duration::from_secs(1_000_000));
        Self { key: SessionKey::of_digest(&[7; 32]), head }
    }

    /// Keys in their order, values as JSON.
    #[must_use]
    pub fn encode(&self, fields: &[(String, String)]) -> Bytes {
        let fields = fields.iter().map(|(key, json)| (key.as_bytes(), json.as_bytes()).into());
        record::encode(&self.key, &self.head, None, fields, usize::MAX)
            .map(|record| record.values.text().clone())
            .unwrap_or_default()
    }

    /// How many values there are, and the one under `name`.
    #[must_use]
    pub fn decode(&self, bytes: &Bytes, name: Option<&str>) -> Option<(usize, Option<u64>)> {
        let Ok(Decoded::Live(record::Record { values, .. })) = record::decode(bytes, &self.key, usize::MAX) else {
            return None;
        };
        let value = name.and_then(|name| values.get(name)).and_then(|text| json::decode("", &text).ok());
        Some((values.len(), value))
    }
}

/// Whether this is a registration that the key in it has signed.
#[cfg(feature = "device-bound")]
#[must_use]
pub fn verifies_registration(jwt: &[u8]) -> bool {
    crate::device_bound::verifies_registration(jwt)
}
