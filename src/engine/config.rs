//! The settings that all sessions of a store share, and their defaults.
use std::{sync::Arc, time::Duration};

use super::Owners;
use crate::{clock::Clock, error::SessionError, random};

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) ttl: Duration,
    pub(crate) anonymous_ttl: Option<Duration>,
    pub(crate) max_lifetime: Duration,
    pub(crate) prefix: Arc<str>,
    pub(crate) max_bytes: usize,
    pub(crate) deadline: Duration,
    pub(crate) ended_interval: Duration,
    pub(crate) clock: Clock,
    pub(crate) owners: Owners,
    pub(crate) random: Random,
}

/// Where the bytes of IDs come from.
pub(crate) type Random = fn(&mut [u8]) -> Result<(), SessionError>;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Config {
    pub(crate) const DEFAULT_MAX_BYTES: usize = 64 * 1024;
    pub(crate) const DEFAULT_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: 14 * DAY,
            anonymous_ttl: None,
            max_lifetime: Self::DEFAULT_LIFETIME,
            prefix: "cloakroom:".into(),
            max_bytes: Self::DEFAULT_MAX_BYTES,
            deadline: Duration::from_secs(1),
            ended_interval: Duration::from_secs(30),
            clock: Clock::system(),
            owners: Owners::default(),
            random: random::fill,
        }
    }
}
