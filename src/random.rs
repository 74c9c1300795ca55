//! Random bytes of the operating system, fetched many at a time: each call of it costs more than the rest of a new session.
use std::cell::RefCell;

use crate::error::SessionError;

/// The bytes of 32 IDs.
const AHEAD: usize = 768;

/// Bytes that nobody has been given yet. Those that somebody was given are overwritten.
struct Pool {
    bytes: [u8; AHEAD],
    left: usize,
    /// The process that fetched them: a fork of it must not give them out a second time.
    process: u32,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; AHEAD], left: 0, process: 0 }) };
}

/// Fills `bytes`.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), SessionError> {
    POOL.try_with(|pool| pool.borrow_mut().take(bytes)).unwrap_or_else(|_| of_system(bytes))
}

fn of_system(bytes: &mut [u8]) -> Result<(), SessionError> {
    getrandom::fill(bytes).map_err(|_| SessionError::Random)
}

impl Pool {
    fn take(&mut self, bytes: &mut [u8]) -> Result<(), SessionError> {
        if bytes.len() > AHEAD {
            return of_system(bytes);
        }
        let process = std::process::id();
        if self.left < bytes.len() || self.process != process {
            self.left = 0;
            of_system(&mut self.bytes)?;
            (self.left, self.process) = (AHEAD, process);
        }
        let rest = self.left - bytes.len();
        let taken = self.bytes.get_mut(rest..self.left).ok_or(SessionError::Random)?;
        bytes.copy_from_slice(taken);
        taken.fill(0);
        self.left = rest;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nobody_is_given_what_another_was_given() {
        let take = || {
            let mut bytes = [0; 24];
            fill(&mut bytes).unwrap();
            bytes
        };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(move || (0..1000).map(|_| take()).collect())).collect();
        let taken: Vec<Vec<[u8; 24]>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let different: HashSet<_> = taken.iter().flatten().collect();
        assert_eq!(different.len(), 4000);
        // No run of eight zeros: that would be bytes that are overwritten, or were never filled.
        assert!(taken.iter().flatten().all(|bytes| bytes.windows(8).all(|window| window != [0; 8])));
    }

    #[test]
    fn what_was_given_is_overwritten() {
        let mut pool = Pool { bytes: [0; AHEAD], left: 0, process: 0 };
        for length in [24, 1, 700, 100, 0, AHEAD, AHEAD + 1] {
            let mut bytes = vec![0; length];
            pool.take(&mut bytes).unwrap();
            assert!(length < 24 || bytes.iter().any(|byte| *byte != 0));
            assert!(pool.bytes[pool.left..].iter().all(|byte| *byte == 0), "{length}");
        }
    }

    #[test]
    fn a_fork_fetches_its_own() {
        let mut pool = Pool { bytes: [7; AHEAD], left: AHEAD, process: std::process::id().wrapping_add(1) };
        let mut bytes = [0; 24];
        pool.take(&mut bytes).unwrap();
        assert_ne!(bytes, [7; 24]);
        pool.bytes = [7; AHEAD];
        pool.take(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 24]);
    }
}
