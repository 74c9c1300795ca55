//! Random bytes of the operating system, for session IDs and keys.
//!
//! Each draw is a call of the system, which may fail: a generator of this process would be faster, and would be copied by a fork
//! or by a snapshot of the machine.
use rand::{TryRng, rngs::SysRng};

use crate::error::SessionError;

/// Fills `bytes`, or fails: there is no weaker source to fall back on.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), SessionError> {
    SysRng.try_fill_bytes(bytes).map_err(|_| SessionError::Random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_draw_repeats_another() {
        let draw = || {
            let mut bytes = [0; 24];
            fill(&mut bytes).unwrap();
            bytes
        };
        let all: std::collections::HashSet<_> = (0..4000).map(|_| draw()).collect();
        assert_eq!(all.len(), 4000);
    }
}
