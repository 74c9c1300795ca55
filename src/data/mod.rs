//! Session data: values, the changes a request makes to them, and replaying changes on newer data.
//!
//! Pure and synchronous. This request's change against what another did to the same key meanwhile:
//!
//! | this request | another set the key | another removed the key | another cleared the session |
//! | --- | --- | --- | --- |
//! | `set` | this value | this value | this value |
//! | `update` | runs again on the other's value | runs again on nothing | runs again on nothing |
//! | `remove` | removed | removed | removed |
//! | `clear` | gone | gone | gone |
//! | nothing | the other's value | removed | gone |
//!
//! "Another" committed first; `clear` takes all that is there when it is replayed, and what this request set after its
//! `clear` stays. An `update` after a `set`, `remove` or `clear` of the same request builds on that, not on the other's
//! value.
use std::{fmt, sync::Arc};

use bytes::Bytes;

mod changes;
mod finite;
mod index;
pub(crate) mod json;
mod scan;
mod values;

use self::changes::Change;
pub(crate) use self::{
    changes::{Changes, Step},
    values::{Fields, Pair, Values, Writer},
};
use crate::error::SessionError;

const MAX_KEY: usize = 256;

/// What a handler sees: the stored values under the changes it made.
pub(crate) struct Data {
    base: Arc<Values>,
    changes: Changes,
    /// A change that leaves a value as it is counts all the same: `base` holds what may never be written.
    tentative: bool,
}

impl Default for Data {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Data {
    pub(crate) fn new(base: Arc<Values>) -> Self {
        Self { base, changes: Changes::default(), tentative: false }
    }

    /// Data whose base is not known to be stored.
    pub(crate) fn tentative(base: Arc<Values>) -> Self {
        Self { tentative: true, ..Self::new(base) }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.changes.is_empty()
    }

    pub(crate) fn base(&self) -> &Arc<Values> {
        &self.base
    }

    /// The value that is stored, as far as this request knows and leaves it.
    fn original(&self, key: &str) -> Option<Bytes> {
        if self.changes.clear { None } else { self.base.get(key) }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Bytes> {
        match self.changes.keys.get(key) {
            Some(change) => change.json().cloned(),
            None => self.original(key),
        }
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        match self.changes.keys.get(key) {
            Some(change) => change.json().is_some(),
            None => !self.changes.clear && self.base.contains(key),
        }
    }

    pub(crate) fn merged(&self) -> impl Iterator<Item = Pair<'_>> {
        self.changes.merged(&self.base)
    }

    pub(crate) fn len(&self) -> usize {
        if self.changes.is_empty() { self.base.len() } else { self.merged().count() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.merged().next().is_none()
    }

    pub(crate) fn set(&mut self, key: &str, json: Bytes) {
        let unchanged = || self.original(key).is_some_and(|old| json::same(&old, &json));
        if !self.tentative && unchanged() {
            self.changes.keys.remove(key);
        } else {
            self.changes.keys.insert(key.into(), Change::Set(json));
        }
    }

    /// Takes the outcome of `step`, which ran on `seen`. `false` if the value is another by now: then run it again.
    #[must_use = "nothing was changed if it is false"]
    pub(crate) fn update(&mut self, key: &str, seen: Option<&Bytes>, json: Bytes, step: impl FnOnce() -> Step) -> bool {
        if self.get(key).as_ref() != seen {
            return false;
        }
        match self.changes.keys.get_mut(key) {
            Some(Change::Update { steps, now }) => {
                steps.push(step());
                *now = json;
            }
            Some(Change::Set(_) | Change::Remove) => self.set(key, json),
            None if self.changes.clear => self.set(key, json),
            None => {
                let unchanged = seen.is_some_and(|seen| json::same(seen, &json));
                if self.tentative || !unchanged {
                    self.changes.keys.insert(key.into(), Change::Update { steps: vec![step()], now: json });
                }
            }
        }
        true
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Bytes> {
        let old = self.get(key);
        if self.tentative || self.original(key).is_some() {
            self.changes.keys.insert(key.into(), Change::Remove);
        } else {
            self.changes.keys.remove(key);
        }
        old
    }

    pub(crate) fn clear(&mut self) {
        self.changes.keys.clear();
        self.changes.clear = self.tentative || self.base.len() > 0;
    }

    /// Takes the changes out to write them. Until [`settle`](Self::settle) or [`restore`](Self::restore), `draft` is what
    /// further changes build on.
    pub(crate) fn take_changes(&mut self, draft: Arc<Values>) -> (Arc<Values>, Changes) {
        (std::mem::replace(&mut self.base, draft), std::mem::take(&mut self.changes))
    }

    /// The changes were written, and this is what is stored now.
    pub(crate) fn settle(&mut self, stored: Arc<Values>) {
        self.base = stored;
        self.tentative = false;
    }

    /// The changes were not written.
    pub(crate) fn restore(&mut self, base: Arc<Values>, mut changes: Changes) {
        self.base = base;
        changes.then(std::mem::take(&mut self.changes));
        self.changes = changes;
    }

    pub(crate) fn drop_changes(&mut self) {
        self.changes = Changes::default();
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Data").field("len", &self.len()).field("dirty", &self.is_dirty()).finish()
    }
}

/// The values as an object of their own, outside of any record.
pub(crate) fn snapshot<'a>(fields: impl Iterator<Item = Pair<'a>>) -> Values {
    let mut writer = Writer::new(Vec::new());
    fields.for_each(|pair| writer.field(pair));
    writer.finish()
}

/// Keys are names, not data.
pub(crate) fn check_key(key: &str) -> Result<(), SessionError> {
    if key.len() > MAX_KEY { Err(SessionError::KeyTooLong { length: key.len() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
