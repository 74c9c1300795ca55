//! What a request did to a session, and doing it again on newer data.
use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

use super::values::{Pair, Values};
use crate::error::SessionError;

/// An `update` closure: from the JSON that is there to the JSON that should be.
///
/// The mutex is never locked; it lets changes be lent to the tasks of a runtime.
pub(crate) struct Step(Mutex<Box<Run>>);

type Run = dyn FnMut(Option<&[u8]>) -> Result<Bytes, SessionError> + Send;

impl Step {
    pub(crate) fn new(run: impl FnMut(Option<&[u8]>) -> Result<Bytes, SessionError> + Send + 'static) -> Self {
        Self(Mutex::new(Box::new(run)))
    }

    fn run(&mut self, old: Option<&[u8]>) -> Result<Bytes, SessionError> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)(old)
    }
}

/// The net effect on each key, so that its size is bounded by the data and not by the number of calls.
#[derive(Default)]
pub(crate) struct Changes {
    /// Everything that is there goes first.
    pub(super) clear: bool,
    pub(super) keys: BTreeMap<Box<str>, Change>,
}

pub(crate) enum Change {
    Set(Bytes),
    Remove,
    /// The closures in their order, and what came of them when they last ran.
    Update {
        steps: Vec<Step>,
        now: Bytes,
    },
}

impl Change {
    /// The JSON that the key has after the change.
    pub(super) fn json(&self) -> Option<&Bytes> {
        match self {
            Self::Set(json) | Self::Update { now: json, .. } => Some(json),
            Self::Remove => None,
        }
    }

    /// `self` first, `later` after it.
    fn then(self, later: Self) -> Self {
        match (self, later) {
            (Self::Update { mut steps, .. }, Self::Update { steps: more, now }) => {
                steps.extend(more);
                Self::Update { steps, now }
            }
            // What it ran on is known: this request set or removed it.
            (Self::Set(_) | Self::Remove, Self::Update { now, .. }) => Self::Set(now),
            (_, later) => later,
        }
    }
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        !self.clear && self.keys.is_empty()
    }

    /// Runs the `update` closures again on `newest`. Everything else needs no preparation: see [`merged`](Self::merged).
    pub(crate) fn rebase(&mut self, newest: &Values) -> Result<(), SessionError> {
        let clear = self.clear;
        for (key, change) in &mut self.keys {
            if let Change::Update { steps, now } = change {
                let mut json = if clear { None } else { newest.get(key) };
                for step in steps {
                    json = Some(step.run(json.as_deref())?);
                }
                if let Some(json) = json {
                    *now = json;
                }
            }
        }
        Ok(())
    }

    /// The keys and values that are there once the changes are made to `base`, in the order of the keys.
    pub(crate) fn merged<'a>(&'a self, base: &'a Values) -> impl Iterator<Item = Pair<'a>> {
        let mut kept = base.iter().take(if self.clear { 0 } else { usize::MAX }).peekable();
        let mut changed = self.keys.iter().peekable();
        std::iter::from_fn(move || {
            loop {
                let order = match (kept.peek(), changed.peek()) {
                    (Some(old), Some((new, _))) => old.key.cmp(new.as_bytes()),
                    (Some(_), None) => Ordering::Less,
                    (None, _) => Ordering::Greater,
                };
                if order == Ordering::Less {
                    return kept.next();
                }
                if order == Ordering::Equal {
                    kept.next();
                }
                let (key, change) = changed.next()?;
                if let Some(json) = change.json() {
                    return Some((key.as_bytes(), &json[..]).into());
                }
            }
        })
    }

    /// `self` first, `later` after it.
    pub(crate) fn then(&mut self, later: Self) {
        if later.clear {
            *self = later;
            return;
        }
        for (key, change) in later.keys {
            let change = match self.keys.remove(&key) {
                Some(earlier) => earlier.then(change),
                None => match change {
                    Change::Update { now, .. } if self.clear => Change::Set(now),
                    change => change,
                },
            };
            self.keys.insert(key, change);
        }
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("clear", &self.clear).field("keys", &self.keys.len()).finish()
    }
}
