//! What the operations on a database tell the circuit breaker, and what it tells them.
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    cache::circuit::{Admission, CircuitBreaker, Transition},
    events,
};

/// Of one cache. Without a circuit every operation passes.
pub(super) struct Breaker {
    circuit: Option<Mutex<CircuitBreaker>>,
    cache: &'static str,
}

impl Breaker {
    pub(super) fn new(fail_fast: bool, cache: &'static str) -> Self {
        Self { circuit: fail_fast.then(Mutex::default), cache }
    }

    pub(super) fn admit(&self) -> Admission {
        self.circuit().map_or(Admission::Pass, |mut circuit| circuit.admit(Instant::now()))
    }

    /// The database answered, whatever it said.
    pub(super) fn answered(&self) {
        let change = self.circuit().map(|mut circuit| circuit.answered(Instant::now()));
        self.report(change);
    }

    /// The database could not be reached, or did not answer in time.
    pub(super) fn failed(&self) {
        if let Some(mut circuit) = self.circuit() {
            circuit.failed();
        }
    }

    /// For the operation that was admitted to find out whether the database answers.
    pub(super) const fn probe(&self) -> ProbeGuard<'_> {
        ProbeGuard { breaker: self, answered: None }
    }

    fn circuit(&self) -> Option<MutexGuard<'_, CircuitBreaker>> {
        self.circuit.as_ref().map(|circuit| circuit.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn report(&self, change: Option<Transition>) {
        match change {
            None | Some(Transition::None) => {}
            Some(Transition::Opened) => events::sql_refusing(self.cache),
            Some(Transition::Closed) => events::sql_answering(self.cache),
        }
    }
}

/// Ends a probe, broken off or not.
pub(super) struct ProbeGuard<'a> {
    breaker: &'a Breaker,
    pub(super) answered: Option<bool>,
}

impl Drop for ProbeGuard<'_> {
    fn drop(&mut self) {
        let change = self.breaker.circuit().map(|mut circuit| circuit.probed(self.answered, Instant::now()));
        self.breaker.report(change);
    }
}
