//! When operations are refused at once, because the server is known not to answer: the decisions, without any waiting.
use std::time::{Duration, Instant};

/// This many failures in a row, with no answer between them, raise the suspicion that the server does not answer.
const SUSPICIOUS: u32 = 5;
/// From a failed probe to the next one.
const PAUSE: Duration = Duration::from_millis(250);

/// What an operation may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Pass,
    /// It has to find out first whether the server answers, for all others, and report with [`CircuitBreaker::probed`].
    Probe,
    Refused,
}

/// What is to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Transition {
    None,
    Opened,
    Closed,
}

/// Failures that are suspicious have the next operation probe the server, and nothing else changes. Only when the probe
/// fails, too, operations are refused, but for one every now and then that probes again.
///
/// There is no task behind it: without operations there are no probes, and the first operation after a silence is one.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    failures: u32,
    open: bool,
    probing: bool,
    /// No probe before this time.
    next: Option<Instant>,
    /// When the last question was asked that the server answered.
    last_answer: Option<Instant>,
}

impl CircuitBreaker {
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

    /// Whether another server is the better one to ask.
    #[cfg(feature = "redis-cluster")]
    pub(super) fn is_suspicious(&self) -> bool {
        self.failures > 0
    }

    /// The server answered what it was asked at this time, whatever it said.
    pub(super) fn answered(&mut self, asked: Instant) -> Transition {
        self.failures = 0;
        self.last_answer = self.last_answer.max(Some(asked));
        self.next = None;
        if std::mem::take(&mut self.open) { Transition::Closed } else { Transition::None }
    }

    /// Whether the last question that was answered is this long ago.
    #[cfg(feature = "redis")]
    pub(super) fn is_idle(&self, now: Instant, time: Duration) -> bool {
        self.last_answer.is_some_and(|last| now.saturating_duration_since(last) >= time)
    }

    /// The server could not be reached, or did not answer in time.
    pub(super) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// The end of a probe: whether the server answered, or `None` when it was broken off.
    pub(super) fn probed(&mut self, answered: Option<bool>, now: Instant) -> Transition {
        self.probing = false;
        match answered {
            Some(true) => self.answered(now),
            // An answer to another operation may have come in meanwhile.
            Some(false) if self.failures >= SUSPICIOUS => {
                self.next = Some(now + PAUSE);
                if std::mem::replace(&mut self.open, true) { Transition::None } else { Transition::Opened }
            }
            Some(false) | None => Transition::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission::*, Transition::*, *};

    fn suspicious() -> CircuitBreaker {
        let mut breaker = CircuitBreaker::default();
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
        assert_eq!(breaker.probed(Some(false), now), Opened);
        assert_eq!(breaker.admit(now), Refused);
    }

    #[test]
    fn an_answer_between_failures_starts_the_count_again() {
        let mut breaker = CircuitBreaker::default();
        for _ in 0..10 * SUSPICIOUS {
            breaker.failed();
            breaker.failed();
            assert_eq!(breaker.answered(Instant::now()), None);
        }
        assert_eq!(breaker.admit(Instant::now()), Pass);
    }

    #[test]
    fn a_probe_that_is_answered_ends_it() {
        let (mut breaker, now) = (suspicious(), Instant::now());
        assert_eq!(breaker.admit(now), Probe);
        assert_eq!(breaker.probed(Some(true), now), None);
        assert_eq!([breaker.admit(now), breaker.admit(now)], [Pass, Pass]);
    }

    #[test]
    fn while_it_is_open_one_operation_at_a_time_probes_after_a_pause() {
        let (mut breaker, mut now) = (suspicious(), Instant::now());
        assert_eq!(breaker.admit(now), Probe);
        assert_eq!(breaker.probed(Some(false), now), Opened);
        for _ in 0..20 {
            assert_eq!(breaker.admit(now + PAUSE - Duration::from_millis(1)), Refused);
            now += PAUSE;
            assert_eq!([breaker.admit(now), breaker.admit(now + 9 * PAUSE)], [Probe, Refused]);
            assert_eq!(breaker.probed(Some(false), now), None, "it is open already");
        }
        now += PAUSE;
        assert_eq!(breaker.admit(now), Probe);
        assert_eq!(breaker.probed(Some(true), now), Closed);
        assert_eq!((breaker.answered(Instant::now()), breaker.admit(now)), (None, Pass));
    }

    #[test]
    fn a_probe_that_was_broken_off_is_followed_by_the_next() {
        let (mut breaker, now) = (suspicious(), Instant::now());
        assert_eq!(breaker.admit(now), Probe);
        assert_eq!(breaker.probed(Option::None, now), None);
        assert_eq!(breaker.admit(now), Probe);
        assert_eq!(breaker.probed(Some(false), now), Opened);
        assert_eq!(breaker.admit(now + PAUSE), Probe);
        assert_eq!(breaker.probed(Option::None, now + PAUSE), None);
        assert_eq!(breaker.admit(now + PAUSE), Probe);
    }

    #[test]
    fn an_answer_that_comes_late_ends_it_too() {
        let (mut breaker, now) = (suspicious(), Instant::now());
        assert_eq!(breaker.admit(now), Probe);
        assert_eq!([breaker.answered(Instant::now()), breaker.probed(Some(false), now)], [None, None]);
        assert_eq!(breaker.admit(now), Pass);
    }
}
