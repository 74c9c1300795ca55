//! When operations are refused at once, because the server is known not to answer: the decisions, without any waiting.
use std::time::{Duration, Instant};

/// This many failures in a row, with no answer between them, raise the suspicion that nobody is there.
const SUSPICIOUS: u32 = 5;
/// From a probe that found nobody to the next one.
const PAUSE: Duration = Duration::from_millis(250);

/// What an operation may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Pass,
    /// It has to find out first whether the server answers, for all others, and report with [`Breaker::probed`].
    Probe,
    Refused,
}

/// Failures that are suspicious have the next operation probe the server, and nothing else changes. Only when the probe
/// fails, too, operations are refused, but for one every now and then that probes again.
///
/// There is no task behind it: without operations there are no probes, and the first operation after a silence is one.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    open: bool,
    probing: bool,
    /// No probe before this time.
    next: Option<Instant>,
}

impl Breaker {
    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        if self.failures < SUSPICIOUS {
            Admission::Pass
        } else if !self.probing && self.next.is_none_or(|next| next <= now) {
            self.probing = true;
            Admission::Probe
        } else if self.open {
            Admission::Refused
        } else {
            Admission::Pass
        }
    }

    /// Whether there is a better one to ask.
    #[cfg(feature = "redis-cluster")]
    pub(super) fn is_suspicious(&self) -> bool {
        self.failures > 0
    }

    /// The server answered, whatever it said.
    pub(super) fn answered(&mut self) {
        self.failures = 0;
        self.open = false;
        self.next = None;
    }

    /// The server could not be reached, or did not answer in time.
    pub(super) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// The end of a probe: whether the server answered, or `None` when it was broken off.
    pub(super) fn probed(&mut self, answered: Option<bool>, now: Instant) {
        self.probing = false;
        match answered {
            Some(true) => self.answered(),
            // An answer to another operation may have come in meanwhile.
            Some(false) if self.failures >= SUSPICIOUS => {
                self.open = true;
                self.next = Some(now + PAUSE);
            }
            Some(false) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission::*, *};

    fn suspicious() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..SUSPICIOUS {
            assert_eq!(breaker.admit(Instant::now()), Pass);
            breaker.failed();
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_lead_to_a_probe_and_nothing_is_refused_before_it_failed() {
        let (mut breaker, now) = (suspicious(), Instant::now());
        assert_eq!([breaker.admit(now), breaker.admit(now)], [Probe, Pass]);
        breaker.probed(Some(false), now);
        assert_eq!(breaker.admit(now), Refused);
    }

    #[test]
    fn an_answer_between_failures_starts_the_count_again() {
        let mut breaker = Breaker::default();
        for _ in 0..10 * SUSPICIOUS {
            breaker.failed();
            breaker.failed();
            breaker.answered();
        }
        assert_eq!(breaker.admit(Instant::now()), Pass);
    }

    #[test]
    fn a_probe_that_is_answered_ends_it() {
        let (mut breaker, now) = (suspicious(), Instant::now());
        assert_eq!(breaker.admit(now), Probe);
        breaker.probed(Some(true), now);
        assert_eq!([breaker.admit(now), breaker.admit(now)], [Pass, Pass]);
    }

    #[test]
    fn while_it_is_open_one_operation_at_a_time_probes_after_a_pause() {
        let (mut breaker, mut now) = (suspicious(), Instant::now());
        assert_eq!(breaker.admit(now), Probe);
        breaker.probed(Some(false), now);
        for _ in 0..20 {
            assert_eq!(breaker.admit(now + PAUSE - Duration::from_millis(1)), Refused);
            now += PAUSE;
            assert_eq!([breaker.admit(now), breaker.admit(now + 9 * PAUSE)], [Probe, Refused]);
            breaker.probed(Some(false), now);
        }
        now += PAUSE;
        assert_eq!(breaker.admit(now), Probe);
        breaker.probed(Some(true), now);
        assert_eq!(breaker.admit(now), Pass);
    }

    #[test]
    fn a_probe_that_was_broken_off_is_followed_by_the_next() {
        let (mut breaker, now) = (suspicious(), Instant::now());
        assert_eq!(breaker.admit(now), Probe);
        breaker.probed(None, now);
        assert_eq!(breaker.admit(now), Probe);
        breaker.probed(Some(false), now);
        assert_eq!(breaker.admit(now + PAUSE), Probe);
        breaker.probed(None, now + PAUSE);
        assert_eq!(breaker.admit(now + PAUSE), Probe);
    }

    #[test]
    fn an_answer_that_comes_late_ends_it_too() {
        let (mut breaker, now) = (suspicious(), Instant::now());
        assert_eq!(breaker.admit(now), Probe);
        breaker.answered();
        breaker.probed(Some(false), now);
        assert_eq!(breaker.admit(now), Pass);
    }
}
